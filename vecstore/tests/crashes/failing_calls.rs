//! Every call to the file system fails, once or from then on, with every error that an operating system may
//! return for it.
//!
//! Each time the error is an ordinary one that names a path; nothing acknowledged is lost, not even by a
//! power cut that follows; readers go on; and when the cause is gone, writing goes on without any tool.
//!
//! Plain `cargo test` tries a sample of the faults, and `VECSTORE_TESTS=full` all. `VECSTORE_ALL_FAULTS` also
//! tries every error for every call of the long workload.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::sim::check::{check, is_clean, read, whole};
use crate::sim::crash::Rng;
use crate::sim::crashes::in_parallel;
use crate::sim::oracle::State;
use crate::sim::run::{DATED, Do, Run, STORE, options};
use crate::sim::start::Start;
use crate::sim::tier::{full_or, sampled};
use crate::sim::world::{Deed, Outcome, Step, World, difference, right_worlds};
use crate::sim::{Call, Fault, SHORT, SimFs};
use vecstore::Error;

const EINTR: i32 = 4;
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const ENOLCK: i32 = 37;
const EDQUOT: i32 = 122;

/// Operations on a store while a call fails. Handles 0 and 1 write to it.
const CHANGES: [Do; 14] = [
    Do::Append(0),
    Do::Open(1),
    Do::Replace(0),
    Do::Append(1),
    Do::Setting(0),
    Do::Delete(0),
    Do::Fingerprint(1),
    Do::Append(0),
    Do::Checkpoint(1),
    Do::Skip(1),
    Do::Close(0),
    Do::Open(0),
    Do::Append(0),
    Do::Close(0),
];

/// Operations that include merges, versions, backups and a restore. Handle 8 writes to the restored store.
const VERSIONS: [Do; 18] = [
    Do::Append(0),
    Do::Name(0),
    Do::Merge(0),
    Do::Append(0),
    Do::Open(1),
    Do::FullMerge(1),
    Do::Append(0),
    Do::DropName(1),
    Do::Backup(0),
    Do::Append(1),
    Do::Refresh(0),
    Do::Backup(0),
    Do::Dated(1),
    Do::Append(0),
    Do::Dated(1),
    Do::Restore(8),
    Do::Append(8),
    Do::Close(0),
];

/// Runs a workload; returns it with the number of calls at the end of each operation.
fn workload(fs: SimFs, actions: &[Do], fault: Option<Fault>) -> (Run, Vec<usize>) {
    let mut run = Run::new(fs.clone());
    // Keys of the prepared store end at 3.
    run.skip_keys(100);
    run.act(Do::Open(0));
    fs.set_fault(fault);
    let ends = actions.iter().map(|action| {
        run.act(*action);
        fs.calls().len()
    });
    let ends = ends.collect();
    (run, ends)
}

fn is_latched(error: &Error) -> bool {
    matches!(error, Error::OutcomeUnknown { .. } | Error::Latched { .. })
}

fn one_fault(start: &Start, actions: &[Do], fault: Fault, cuts: usize) -> Result<(), String> {
    let fs = start.disk();
    let reader = options(&fs.other_process()).for_reading().open(STORE).map_err(|error| error.to_string())?;
    let before = State::read(&reader.snapshot())?;
    let (mut run, _) = workload(fs.clone(), actions, Some(fault));
    fs.set_fault(None);
    let calls = fs.calls();
    let Some(failed) = calls.get(fault.at) else { return Err("the call was not made again".to_owned()) };
    // The outcome is unknown after a failed directory flush, and after a failed rename if the handle could
    // not look up whether it happened.
    let may_latch = failed.what == "flush directory"
        || fault.lasting
            && calls[fault.at..].iter().any(|call| matches!(call.what, "flush directory" | "rename"));
    for (_, error) in &run.errors {
        is_clean(error)?;
        if is_latched(error) && !may_latch {
            return Err(format!("latched without need: {error}"));
        }
    }
    // One failed call makes at most one operation fail: a failed merge or backup disturbs no append.
    if !fault.lasting && !may_latch && run.errors.len() > 1 {
        return Err(format!("more than one operation failed: {:?}", run.errors));
    }

    // Readers: their snapshots have not changed, and a refresh sees the new commits.
    if State::read(&reader.snapshot())? != before {
        return Err("a reader's snapshot changed".to_owned());
    }
    let seen = State::read(&reader.refresh().map_err(|error| format!("refreshing: {error}"))?)?;
    let right_now = right_worlds(&start.right, &run.steps, usize::MAX);
    let same = |world: &World| world.store.entries == seen.entries && world.store.commits == seen.commits;
    if !right_now.iter().any(same) {
        let seen = World { store: seen, ..World::default() };
        return Err(format!("a reader sees something else: {}", difference(&seen, &right_now)));
    }

    // The cause is gone: open handles go on, unless they are latched.
    let handles: Vec<usize> = run.stores.keys().copied().collect();
    for handle in handles {
        let count = run.errors.len();
        run.act(Do::Append(handle));
        let latched = match run.errors.get(count) {
            None => false,
            Some((_, Error::Latched { .. })) => true,
            Some((_, error)) => return Err(format!("the same handle does not go on: {error}")),
        };
        if latched && !may_latch {
            return Err("latched without need".to_owned());
        }
        if latched {
            // The error says to open the store again. Closing also ends a lock that was not released.
            run.stores.remove(&handle);
        } else {
            run.show(handle)?;
        }
    }
    let count = run.errors.len();
    run.act(Do::Open(7));
    run.show(7)?;
    run.act(Do::Replace(7));
    run.show(7)?;
    if actions.contains(&Do::Backup(0)) {
        [Do::FullMerge(7), Do::Backup(7), Do::Dated(7)].into_iter().for_each(|action| run.act(action));
    }
    if let Some((what, error)) = run.errors.get(count) {
        return Err(format!("a new handle does not go on: {what:?}: {error}"));
    }
    for dir in ["/d/s", "/d/s/segments", "/d/s/versions", "/b/segments"] {
        let left = fs.names(dir);
        if let Some(name) = left.iter().find(|name| crate::sim::is_temporary(name.as_ref())) {
            return Err(format!("{dir}/{name} was left behind"));
        }
    }
    let right_now = right_worlds(&start.right, &run.steps, usize::MAX);
    let found = read(&fs)?;
    if !right_now.contains(&found) {
        return Err(difference(&found, &right_now));
    }
    whole(&fs)?;

    // Then the power fails. The state of the disk does not depend on the error number, so one is enough.
    if fault.errno != EIO {
        return Ok(());
    }
    // A failed flush of a name in the store leaves a mark. A name beside the store (a backup's), or of a
    // version, is given anew; if that fails, too, the name may vanish.
    let unmarked = |call: &Call| {
        let within = call.path.starts_with(STORE) && !call.path.ends_with("versions");
        call.what == "flush directory" && !within
    };
    // A dated backup that was being removed may come back whole.
    let dated = failed.path.starts_with(DATED) && !failed.path.to_string_lossy().contains("/.");
    if fault.lasting && calls[fault.at..].iter().any(unmarked) || unmarked(failed) && dated {
        return Ok(());
    }
    let history = fs.history();
    let now = history.log.len();
    drop(run);
    let mut rng = Rng(fault.at as u64);
    for fates in history.fates(now, cuts, &mut rng) {
        let image = history.image(now, &fates, &mut rng);
        check(&SimFs::from_image(image), &right_now, rng.next())
            .map_err(|wrong| format!("after a power cut: {wrong}\n{}", history.tell(now, &fates)))?;
    }
    Ok(())
}

/// Errors that an operating system may return for a call. With `some`: EIO, one other error that any call may
/// return (in turn), and those of this kind of call.
fn errors_of(call: &Call, number: usize, some: bool) -> Vec<i32> {
    const ANY: [i32; 6] = [ENOSPC, EDQUOT, EMFILE, EACCES, EROFS, EINTR];
    let mut errors = vec![EIO];
    errors.extend(if some { &ANY[number % ANY.len()..][..1] } else { &ANY[..] });
    match call.what {
        "open lock" | "lock" | "unlock" => errors.push(ENOLCK),
        "read record" => errors.push(SHORT),
        _ => {}
    }
    errors
}

/// Enough wrong outcomes to look at: from this many on, a thread ends after a wrong one.
const ENOUGH: usize = 20;

/// Every call of a workload fails, with every error or with `some`. The step of a sample has no factor in
/// common with the number of faults per call, so that the sample has faults of every kind.
fn every_call_fails(what: &str, actions: &[Do], some: bool) {
    let start = Start::new();
    let (clean, _) = workload(start.disk(), actions, None);
    assert!(clean.errors.is_empty(), "{:?}", clean.errors);
    let calls = clean.fs.calls();
    let first = calls.iter().position(|call| call.what == "lock").expect("it appends");
    assert!(calls.len() > 100, "only {} calls", calls.len());
    let jobs = (first..calls.len()).flat_map(|at| {
        let errors = errors_of(&calls[at], at, some).into_iter();
        errors.flat_map(move |errno| [false, true].map(|lasting| Fault { at, errno, lasting }))
    });
    let jobs: Vec<Fault> = sampled(jobs, if some { 7 } else { 11 }, 0);
    let cuts = if some { 2 } else { 6 };
    let wrong = Mutex::new(Vec::new());
    in_parallel(|number| {
        let Some(fault) = jobs.get(number).copied() else { return false };
        let Err(text) = one_fault(&start, actions, fault, cuts) else { return true };
        let call = &calls[fault.at];
        let mut wrong = wrong.lock().expect("no panic");
        wrong.push(format!("{fault:?} {call:?}: {text}"));
        wrong.len() < ENOUGH
    });
    let wrong = wrong.into_inner().expect("no panic");
    println!(
        "failing calls, {what}: {} calls, {} faults injected, {} wrong",
        calls.len() - first,
        jobs.len(),
        wrong.len()
    );
    for text in &wrong {
        println!("  {}", text.lines().next().unwrap_or_default());
    }
    assert!(wrong.is_empty(), "{} of {} went wrong, the first: {}", wrong.len(), jobs.len(), wrong[0]);
}

#[test]
fn a_failed_call_loses_nothing_acknowledged() {
    every_call_fails("changes", &CHANGES, false);
}

#[test]
fn a_failed_call_of_a_merge_version_backup_or_restore_loses_nothing() {
    let some = std::env::var_os("VECSTORE_ALL_FAULTS").is_none();
    every_call_fails("merges, versions, backups, restores", &VERSIONS, some);
}

/// Another process merges, makes versions, backs up and restores, and from one of its calls on every call
/// fails: a process that appends at that moment and afterwards is not disturbed.
#[test]
fn a_failing_merge_or_backup_disturbs_no_append() {
    const ACTIONS: [Do; 6] =
        [Do::Merge(5), Do::FullMerge(5), Do::Name(5), Do::Backup(5), Do::Dated(5), Do::Restore(8)];
    let start = Start::new();
    let begin = || {
        let fs = start.disk();
        let mut other = Run::new(fs.other_process());
        other.skip_keys(500);
        other.act(Do::Open(5));
        let mut run = Run::new(fs);
        run.skip_keys(100);
        [Do::Open(0), Do::Append(0), Do::Backup(0), Do::Append(0)].iter().for_each(|action| run.act(*action));
        (run, other)
    };
    let jobs = ACTIONS.iter().flat_map(|action| {
        let (_run, mut other) = begin();
        let before = other.fs.calls().len();
        other.act(*action);
        let calls = other.fs.calls();
        (before..calls.len()).flat_map(move |at| {
            let call = calls[at].clone();
            [ENOSPC, EIO].map(|errno| (*action, Fault { at, errno, lasting: true }, call.clone()))
        })
    });
    let jobs: Vec<(Do, Fault, Call)> = sampled(jobs, 5, 1);
    let at_that_moment = AtomicUsize::new(0);
    in_parallel(|number| {
        let Some((action, fault, call)) = jobs.get(number) else { return false };
        let context = format!("{action:?}, {fault:?}, {call:?}");
        let (run, mut other) = begin();
        let (before, run) = (run.steps.len(), Arc::new(Mutex::new(run)));
        other.fs.set_fault(Some(*fault));
        let meanwhile = Arc::clone(&run);
        other.fs.before(fault.at, move || meanwhile.lock().expect("no panic").act(Do::Append(0)));
        other.act(*action);
        // The process fails for good; its end also ends locks that it could not release.
        other.stores.clear();
        let mut run = run.lock().expect("no panic");
        let busy = |(_, error): &(Do, Error)| matches!(error, Error::Busy { .. });
        assert!(run.errors.iter().all(busy), "{context}: {:?}", run.errors);
        at_that_moment.fetch_add(usize::from(run.errors.is_empty()), Ordering::Relaxed);
        run.errors.clear();
        let during = run.steps.len();
        [Do::Append(0), Do::Replace(0), Do::FullMerge(0), Do::Backup(0), Do::Close(0)]
            .iter()
            .for_each(|action| run.act(*action));
        assert!(run.errors.is_empty(), "{context}: {:?}", run.errors);
        let (before, rest) = run.steps.split_at(before);
        let (during, after) = rest.split_at(during - before.len());
        let orders =
            [[before, during, &other.steps, after].concat(), [before, &other.steps, during, after].concat()];
        let right: BTreeSet<World> =
            orders.iter().flat_map(|steps| right_worlds(&start.right, steps, usize::MAX)).collect();
        let found = read(&run.fs).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
        assert!(right.contains(&found), "{context}: {}", difference(&found, &right));
        whole(&run.fs).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
        true
    });
    let at_that_moment = at_that_moment.into_inner();
    println!(
        "failing calls of another process: {} faults, {at_that_moment} with an append at that moment",
        jobs.len()
    );
    assert!(at_that_moment > jobs.len() / 3, "only {at_that_moment} of {}", jobs.len());
}

/// Commits in doubt are written anew, and the power fails after every change of that, with many combinations
/// of fates.
#[test]
fn a_power_cut_while_commits_in_doubt_are_rewritten_loses_nothing() {
    let start = Start::new();
    let fs = start.disk();
    let mut run = Run::new(fs.clone());
    run.skip_keys(100);
    [Do::Open(0), Do::Append(0), Do::Append(0)].into_iter().for_each(|action| run.act(action));
    let calls = fs.calls();
    run.act(Do::Append(0));
    let flush = fs.calls()[calls.len()..].iter().position(|call| call.what == "flush directory");
    let at = fs.calls().len() + flush.expect("there is one");
    fs.set_fault(Some(Fault { at, errno: EIO, lasting: false }));
    run.act(Do::Append(0));
    assert!(matches!(run.errors[..], [(_, Error::OutcomeUnknown { .. })]), "{:?}", run.errors);
    let before = fs.changes();
    run.act(Do::Open(1));
    run.show(1).expect("it reads what it wrote anew");
    let history = fs.history();
    let mut states = 0;
    let mut rng = Rng(11);
    for prefix in before..=history.log.len() {
        let right = right_worlds(&start.right, &run.steps, prefix);
        for fates in history.fates(prefix, full_or(32, 8), &mut rng) {
            states += 1;
            let image = history.image(prefix, &fates, &mut rng);
            check(&SimFs::from_image(image), &right, rng.next())
                .unwrap_or_else(|wrong| panic!("after {prefix}: {wrong}\n{}", history.tell(prefix, &fates)));
        }
    }
    println!("commits in doubt written anew: {states} crash states");
    assert!(states > full_or(200, 60), "{states}");
}

/// After a failed directory flush the outcome is unknown and the handle is latched. The next handle writes
/// the commits in doubt anew, so that they survive a power cut although the kernel will never flush the old
/// names.
#[test]
fn a_failed_directory_flush_latches_and_the_next_handle_rewrites() {
    let start = Start::new();
    let fs = start.disk();
    let mut run = Run::new(fs.clone());
    run.skip_keys(100);
    run.act(Do::Open(0));
    run.act(Do::Append(0));
    let before = fs.calls().len();
    run.act(Do::Append(0));
    let calls = fs.calls();
    let flush = calls[before..].iter().position(|call| call.what == "flush directory").expect("there is one");
    fs.set_fault(Some(Fault { at: calls.len() + flush, errno: EIO, lasting: false }));
    run.act(Do::Append(0));
    assert!(matches!(run.errors[0].1, Error::OutcomeUnknown { .. }), "{:?}", run.errors);
    run.act(Do::Append(0));
    assert!(matches!(run.errors[1].1, Error::Latched { .. }), "{:?}", run.errors);
    run.act(Do::Close(0));

    run.act(Do::Open(1));
    run.show(1).unwrap();
    let names = fs.names("/d/s/segments");
    // The manifest lists commits 1 and 2 since the store was closed; commits 3, 4 and 5 came after that.
    let expected = [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]
        .map(|(commit, generation)| format!("{commit:010}-{commit:010}.{generation}.npy"));
    assert_eq!(names, expected);
    // The commit was shown, so it must stay like an acknowledged one.
    let Step::Deed { deed: Deed::Store(_), outcome: outcome @ Outcome::Unknown, .. } = &mut run.steps[2]
    else {
        panic!("{:?}", run.steps);
    };
    *outcome = Outcome::Acknowledged(0);
    run.act(Do::Append(1));
    assert_eq!(run.errors.len(), 2, "{:?}", run.errors);

    let history = fs.history();
    let now = history.log.len();
    let right = right_worlds(&start.right, &run.steps, now);
    drop(run);
    let mut rng = Rng(1);
    for fates in history.fates(now, 64, &mut rng) {
        let image = history.image(now, &fates, &mut rng);
        check(&SimFs::from_image(image), &right, rng.next())
            .unwrap_or_else(|wrong| panic!("after a power cut: {wrong}\n{}", history.tell(now, &fates)));
    }
}
