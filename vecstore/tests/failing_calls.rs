//! Every call to the file system fails, once or from then on, with every error that an operating system has for it.
//!
//! Whatever fails: the error is an ordinary one that names a path; nothing acknowledged is lost, not even by a power
//! cut that follows; readers go on; and when the cause is gone, writing goes on without any tool.

mod sim;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sim::crash::Rng;
use sim::oracle::{Outcome, State, Step, difference, right_states};
use sim::run::{Do, Run, STORE, check, options, whole};
use sim::{Fault, SimFs};
use vecstore::Error;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EDQUOT: i32 = 122;
const EMFILE: i32 = 24;
const EACCES: i32 = 13;
const EROFS: i32 = 30;

/// What is done while a call fails. Handle 0 is a writer, as is 1.
const WORKLOAD: [Do; 14] = [
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

/// A disk with a small store in it, as after a start of the machine, and what the store holds.
fn prepared() -> (SimFs, BTreeSet<State>) {
    let mut run = Run::new(SimFs::new());
    for action in [Do::Create(0), Do::Append(0), Do::Replace(0), Do::Close(0)] {
        run.act(action);
    }
    assert!(run.errors.is_empty());
    let right = right_states(&BTreeSet::from([State::default()]), &run.steps, usize::MAX);
    let history = run.fs.history();
    let image = history.image(history.log.len(), &Default::default(), &mut Rng(1));
    (SimFs::from_image(image), right)
}

fn workload(fs: SimFs, fault: Option<Fault>) -> Run {
    let mut run = Run::new(fs.clone());
    // Keys of the prepared store end at 3.
    run.skip_keys(100);
    run.act(Do::Open(0));
    fs.set_fault(fault);
    WORKLOAD.iter().for_each(|action| run.act(*action));
    run
}

/// An error says where and what.
fn is_clean(error: &Error) -> Result<(), String> {
    let text = error.to_string();
    let says_where = text.contains("/d");
    let damage = matches!(error, Error::Damaged { .. } | Error::ForeignSegment { .. });
    if !says_where || damage {
        return Err(format!("not a clean error: {text}"));
    }
    Ok(())
}

fn one_fault(start: &SimFs, right: &BTreeSet<State>, fault: Fault) -> Result<(), String> {
    let history = start.history();
    let fs = SimFs::from_image(history.image(0, &Default::default(), &mut Rng(1)));
    let reader =
        options(&fs.other_process()).read_only(true).open(STORE).map_err(|error| error.to_string())?;
    let before = State::read(&reader)?;
    let mut run = workload(fs.clone(), Some(fault));
    fs.set_fault(None);
    let calls = fs.calls();
    let Some(failed) = calls.get(fault.at) else { return Err("the call was not made again".to_owned()) };
    // What leaves the outcome unknown: a failed directory flush, and a failed rename of which nobody could be asked
    // whether it happened.
    let in_doubt = failed.what == "flush directory"
        || fault.lasting
            && calls[fault.at..].iter().any(|call| matches!(call.what, "flush directory" | "rename"));
    // With nothing working any more, not even a look at the name, nobody can tell whether a rename happened.
    let rename_unknown = fault.lasting && calls[fault.at..].iter().any(|call| call.what == "rename");
    let may_latch = in_doubt || rename_unknown;
    for (_, error) in &run.errors {
        is_clean(error)?;
        if matches!(error, Error::OutcomeUnknown { .. } | Error::Latched { .. }) && !may_latch {
            return Err(format!("latched without need: {error}"));
        }
    }

    // Readers: what they had is as it was, and they see what came.
    if State::read(&reader)? != before {
        return Err("a reader's snapshot changed".to_owned());
    }
    let seen = State::read_snapshot(&reader.refresh().map_err(|error| format!("refreshing: {error}"))?)?;
    let right_now = right_states(right, &run.steps, usize::MAX);
    if !right_now.iter().any(|state| state.entries == seen.entries && state.commits == seen.commits) {
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
            // As the error says. Where even unlocking failed, this also ends the lock.
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
    if let Some((what, error)) = run.errors.get(count) {
        return Err(format!("a new handle does not go on: {what:?}: {error}"));
    }
    let left: Vec<String> = ["/d/s", "/d/s/segments"].iter().flat_map(|dir| fs.names(dir)).collect();
    if let Some(name) = left.iter().find(|name| sim::is_temporary(name.as_ref())) {
        return Err(format!("{name} was left behind"));
    }
    whole(&fs)?;

    // And then the power fails. What the disk was left with does not depend on the error's name.
    if fault.errno != EIO {
        return Ok(());
    }
    let history = fs.history();
    let now = history.log.len();
    let right_now = right_states(right, &run.steps, now);
    drop(run);
    let mut rng = Rng(fault.at as u64);
    for fates in history.fates(now, 6, &mut rng) {
        let image = history.image(now, &fates, &mut rng);
        check(&SimFs::from_image(image), &right_now)
            .map_err(|wrong| format!("after a power cut: {wrong}\n{}", history.tell(now, &fates)))?;
    }
    Ok(())
}

#[test]
fn any_call_may_fail() {
    let (start, right) = prepared();
    let history = start.history();
    let clean = workload(SimFs::from_image(history.image(0, &Default::default(), &mut Rng(1))), None);
    assert!(clean.errors.is_empty(), "{:?}", clean.errors);
    let first = clean.fs.calls().iter().position(|call| call.what == "lock").expect("it appends");
    let calls = clean.fs.calls().len();
    assert!(calls > 100, "only {calls} calls");

    let jobs: Vec<Fault> = (first..calls)
        .flat_map(|at| {
            [ENOSPC, EIO, EDQUOT, EMFILE, EACCES, EROFS]
                .into_iter()
                .flat_map(move |errno| [false, true].map(|lasting| Fault { at, errno, lasting }))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(fault) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(text) = one_fault(&start, &right, *fault) {
                        let call = &clean.fs.calls()[fault.at];
                        wrong.lock().expect("no panic").push(format!("{fault:?} {call:?}: {text}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    println!("failing calls: {} calls, {} faults injected, {} wrong", calls - first, jobs.len(), wrong.len());
    for text in &wrong {
        println!("  {}", text.lines().next().unwrap_or_default());
    }
    assert!(wrong.is_empty(), "{} of {} went wrong, the first: {}", wrong.len(), jobs.len(), wrong[0]);
}

/// Creating a store fails at every call: there is none, or a whole one, and creating it again works.
#[test]
fn creation_may_fail_anywhere() {
    let calls = {
        let mut run = Run::new(SimFs::new());
        run.act(Do::Create(0));
        run.fs.calls()
    };
    for (at, call) in calls.iter().enumerate() {
        for errno in [ENOSPC, EIO, EMFILE] {
            for lasting in [false, true] {
                let fs = SimFs::new();
                fs.set_fault(Some(Fault { at, errno, lasting }));
                let mut run = Run::new(fs.clone());
                run.act(Do::Create(0));
                fs.set_fault(None);
                let context = format!("call {at} ({:?}), errno {errno}, lasting {lasting}", call);
                for (_, error) in &run.errors {
                    is_clean(error).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
                }
                let failed = !run.errors.is_empty();
                assert!(failed || !run.stores.is_empty());
                run.errors.clear();
                run.act(Do::Open(1));
                if let Some((_, Error::NotFound { .. })) = run.errors.first() {
                    run.errors.clear();
                    run.act(Do::Create(1));
                }
                run.act(Do::Append(1));
                run.show(1).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
                assert!(run.errors.is_empty(), "{context}: {:?}", run.errors);
                whole(&fs).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
                if !lasting {
                    let beside: Vec<String> = fs.names("/d").into_iter().filter(|name| name != "s").collect();
                    assert!(beside.is_empty(), "{context}: left beside the store: {beside:?}");
                }
            }
        }
    }
}

/// Whatever fails while opening for reading, the reader gets an error that names a path, or a right answer.
#[test]
fn reading_may_fail_anywhere() {
    let (start, right) = prepared();
    let read = |fs: &SimFs| -> Result<State, String> {
        let store = options(fs).read_only(true).open(STORE).map_err(|error| {
            is_clean(&error).expect("a clean error");
            error.to_string()
        })?;
        State::read(&store)
    };
    let other = start.other_process();
    assert!(right.contains(&read(&other).expect("nothing fails")));
    let calls = other.calls().len();
    assert!(calls > 5);
    for at in 0..calls {
        for errno in [EIO, EMFILE, EACCES] {
            let other = start.other_process();
            other.set_fault(Some(Fault { at, errno, lasting: false }));
            if let Ok(state) = read(&other) {
                assert!(right.contains(&state), "call {at}, errno {errno}: {}", difference(&state, &right));
            }
        }
    }
    assert_eq!(start.changes(), 0, "a reader writes nothing");
}

/// A failed directory flush: the outcome is unknown, the handle is latched, and the next one writes the commits in
/// doubt anew, so that they survive a power cut although the kernel will never flush the old names.
#[test]
fn a_failed_directory_flush_latches_and_the_next_handle_rewrites() {
    let (start, right) = prepared();
    let mut run = Run::new(start.clone());
    run.skip_keys(100);
    run.act(Do::Open(0));
    run.act(Do::Append(0));
    let before = start.calls().len();
    run.act(Do::Append(0));
    let calls = start.calls();
    let flush = calls[before..].iter().position(|call| call.what == "flush directory").expect("there is one");
    start.set_fault(Some(Fault { at: calls.len() + flush, errno: EIO, lasting: false }));
    run.act(Do::Append(0));
    assert!(matches!(run.errors[0].1, Error::OutcomeUnknown { .. }), "{:?}", run.errors);
    run.act(Do::Append(0));
    assert!(matches!(run.errors[1].1, Error::Latched { .. }), "{:?}", run.errors);
    run.act(Do::Close(0));

    run.act(Do::Open(1));
    run.show(1).unwrap();
    let names = start.names("/d/s/segments");
    // Commits 1 and 2 were checkpointed when the store was closed; 3, 4 and 5 came after that.
    let expected = [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]
        .map(|(commit, generation)| format!("{commit:010}-{commit:010}.{generation}.npy"));
    assert_eq!(names, expected);
    let unknown = Step::Change {
        change: match &run.steps[2] {
            Step::Change { change, outcome: Outcome::Unknown, .. } => change.clone(),
            other => panic!("{other:?}"),
        },
        started: 0,
        outcome: Outcome::Acknowledged(0),
    };
    run.steps[2] = unknown;
    run.act(Do::Append(1));
    assert_eq!(run.errors.len(), 2, "{:?}", run.errors);

    let history = start.history();
    let now = history.log.len();
    let right = right_states(&right, &run.steps, now);
    drop(run);
    let mut rng = Rng(1);
    for fates in history.fates(now, 64, &mut rng) {
        let image = history.image(now, &fates, &mut rng);
        check(&SimFs::from_image(image), &right)
            .unwrap_or_else(|wrong| panic!("after a power cut: {wrong}\n{}", history.tell(now, &fates)));
    }
}
