//! The states that a power cut may leave, opened by the real code and compared with the acknowledged changes:
//! states of the store, of its versions, of its backups and of the stores restored from them.
//!
//! Plain `cargo test` tries a sample of the workloads and of the moments in them; `VECSTORE_TESTS=full` tries
//! all. `VECSTORE_CRASH_STATES` is the number of distinct states to reach; a number above the default also
//! tries more combinations of lost changes. `VECSTORE_CRASH_SEED` changes the random choices. Workloads that
//! once failed are kept in `regressions/crash_states.txt` and tried first.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sim::SimFs;
use crate::sim::crash::Rng;
use crate::sim::crashes::{COMBINATIONS, Crashes, Tally, hash_of, in_parallel};
use crate::sim::damage::Hit;
use crate::sim::oracle::State;
use crate::sim::run::{Do, Run};
use crate::sim::tier::{full_or, is_full, sampled};
use crate::sim::world::{nothing, right_worlds};
use vecstore::{Event, MergePolicy};

/// Distinct states to reach if every enumerated workload is tried.
const STATES: u64 = 11_000;
/// Distinct states to reach if a sample of the workloads is tried.
const FEW_STATES: u64 = 4_000;
/// Combinations of fates per moment, in tests with a run for each call.
const FEW_COMBINATIONS: usize = 3;
/// Combinations of fates per moment, in workloads of one operation.
const SOME_COMBINATIONS: usize = 16;
/// One of this many states is crashed again during its recovery.
const DEEPER: usize = 48;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn run(actions: &[Do]) -> Run {
    let mut run = Run::new(SimFs::new());
    actions.iter().for_each(|action| run.act(*action));
    if let Some((action, error)) = run.errors.first() {
        panic!("{actions:?}: {action:?}: {error}");
    }
    run
}

/// Operations of the workloads, with their names in regression files. Handle 1 is a second writer on the
/// store, handle 8 a writer on the restored store.
const ALPHABET: [(&str, &[Do]); 25] = [
    ("append", &[Do::Append(0)]),
    ("append-together", &[Do::Together(0)]),
    ("replace", &[Do::Replace(0)]),
    ("skip", &[Do::Skip(0)]),
    ("delete", &[Do::Delete(0)]),
    ("other-append", &[Do::Append(1)]),
    ("other-replace", &[Do::Replace(1)]),
    ("close", &[Do::Close(0)]),
    ("reopen", &[Do::Open(0)]),
    ("setting", &[Do::Setting(0)]),
    ("fingerprint", &[Do::Fingerprint(1)]),
    ("checkpoint", &[Do::Checkpoint(1)]),
    ("merge", &[Do::Merge(0)]),
    ("other-merge", &[Do::Merge(1)]),
    ("full-merge", &[Do::FullMerge(1)]),
    ("name", &[Do::Name(1)]),
    ("drop-name", &[Do::DropName(1)]),
    ("backup", &[Do::Backup(1)]),
    ("dated-backup", &[Do::Dated(1)]),
    ("restore", &[Do::Restore(8), Do::Append(8)]),
    ("repair", &[Do::Repair]),
    ("row-hit", &[Do::Hit(Hit::Oldest), Do::Repair]),
    ("row-hit-unnoticed", &[Do::Hit(Hit::Newest), Do::Append(1), Do::Repair]),
    ("manifest-hit", &[Do::Hit(Hit::Manifest), Do::Repair]),
    ("manifest-gone-unnoticed", &[Do::Hit(Hit::NoManifest), Do::Append(0), Do::Append(1), Do::Repair]),
];

/// The operations before every workload.
const BEGINNING: [Do; 4] = [Do::Create(0), Do::Open(1), Do::Append(0), Do::Replace(0)];

/// A workload and the choice of its crash states: the contents of a line in a regression file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    seed: u64,
    combinations: usize,
    /// Places in [`ALPHABET`].
    operations: Vec<usize>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.seed, self.combinations)?;
        self.operations.iter().try_for_each(|at| write!(f, " {}", ALPHABET[*at].0))
    }
}

impl Case {
    /// Reads a line; `None` if it is empty or a comment.
    fn read(line: &str) -> Option<Self> {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let seed = words.next()?.parse().expect("a seed");
        let combinations = words.next().and_then(|word| word.parse().ok()).expect("a number of combinations");
        let find = |word: &str| ALPHABET.iter().position(|(name, _)| *name == word).expect("an operation");
        Some(Case { seed, combinations, operations: words.map(find).collect() })
    }

    /// False if an operation has nothing to act on: then a shorter workload does the same.
    fn makes_sense(&self) -> bool {
        let (mut open, mut names, mut backup) = (true, 0, false);
        self.operations.iter().all(|at| match ALPHABET[*at].1[0] {
            Do::Close(_) => std::mem::replace(&mut open, false),
            Do::Open(_) => {
                open = true;
                true
            }
            Do::Name(_) => {
                names += 1;
                true
            }
            Do::DropName(_) => {
                names -= 1;
                names >= 0
            }
            Do::Backup(_) => {
                backup = true;
                true
            }
            Do::Restore(_) => backup,
            Do::Append(0) | Do::Together(0) | Do::Replace(0) | Do::Skip(0) | Do::Delete(0) => open,
            Do::Setting(0) | Do::Merge(0) => open,
            _ => true,
        })
    }

    /// Runs the workload, and crashes it after every change of its last operation. Each earlier operation is
    /// the last one of a shorter workload.
    fn try_all(&self, deeper: usize, tally: &Tally) {
        let mut run = Run::new(SimFs::new());
        let mut last = 0;
        BEGINNING.iter().for_each(|action| run.act(*action));
        run.hold(0).expect("it reads what it wrote");
        for at in &self.operations {
            last = run.fs.changes();
            ALPHABET[*at].1.iter().for_each(|action| run.act(*action));
        }
        if let Some((action, error)) = run.errors.first() {
            panic!("{self}: {action:?}: {error}");
        }
        run.let_go().unwrap_or_else(|wrong| panic!("{self}: {wrong}"));
        let name = format!("add this line to tests/regressions/crash_states.txt:\n{self}\n");
        Crashes::new(&name, self.seed, deeper, self.combinations, tally).everywhere(run, last..);
    }
}

/// Tries the workloads that once failed, the empty one (only [`BEGINNING`]), all of one operation, all or a
/// sample of two, then random ones of three and four until the wanted number of states is reached.
#[test]
fn acknowledged_changes_survive_every_power_cut() {
    let all = is_full() || std::env::var_os("VECSTORE_CRASH_STATES").is_some();
    let wanted = setting("VECSTORE_CRASH_STATES", if all { STATES } else { FEW_STATES });
    let seed = setting("VECSTORE_CRASH_SEED", 1);
    let combinations = |usual: usize| if wanted > STATES { COMBINATIONS } else { usual };
    let regressions = include_str!("../regressions/crash_states.txt");
    let mut cases: Vec<Case> = regressions.lines().filter_map(Case::read).collect();
    let known = cases.len();
    let case = |combinations: usize, operations: Vec<usize>| Case {
        seed: seed.wrapping_mul(1_000_003) ^ hash_of(&operations),
        combinations,
        operations,
    };
    let count = ALPHABET.len();
    cases.push(case(COMBINATIONS, Vec::new()));
    cases.extend((0..count).map(|at| case(combinations(SOME_COMBINATIONS), vec![at])));
    // A step of 9 reaches every second operation, and every first one at least twice.
    let pairs = (0..count * count).step_by(if all { 1 } else { 9 });
    cases.extend(pairs.map(|at| case(combinations(FEW_COMBINATIONS), vec![at / count, at % count])));
    cases.retain(Case::makes_sense);
    let tally = Tally::default();
    in_parallel(|number| {
        if let Some(case) = cases.get(number) {
            case.try_all(DEEPER, &tally);
            return true;
        }
        if tally.distinct() as u64 >= wanted {
            return false;
        }
        let mut rng = Rng(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let operations = (0..3 + rng.below(2)).map(|_| rng.below(count)).collect();
        let case = case(combinations(FEW_COMBINATIONS), operations);
        if case.makes_sense() {
            case.try_all(DEEPER, &tally);
        }
        true
    });
    tally.line(&format!("workloads of up to four operations ({known} that once failed)"));
    assert!(tally.distinct() as u64 >= wanted);
}

#[test]
fn regression_lines_are_read_as_they_are_written() {
    let line = "17 3 append backup restore";
    let case = Case::read(line).expect("a case");
    assert_eq!((case.to_string().as_str(), case.makes_sense()), (line, true));
    assert_eq!(Case::read("# a remark"), None);
    assert!(!Case::read("1 1 close append").expect("a case").makes_sense());
}

/// A process is killed before each of its calls; a second process opens the store, shows its entries and goes
/// on; then the power fails. Everything that the second process has shown or acknowledged must survive, even
/// if it rests on names that the first process gave but did not flush.
#[test]
fn a_surviving_process_builds_only_on_durable_names() {
    let tally = Tally::default();
    let seed = setting("VECSTORE_CRASH_SEED", 1);
    let workloads: [&[Do]; 7] = [
        &[Do::Create(0), Do::Append(0), Do::Replace(0), Do::Close(0)],
        &[Do::Create(0), Do::Setting(0), Do::Append(0), Do::Fingerprint(0), Do::Delete(0)],
        &[Do::Create(0), Do::Append(0), Do::Open(1), Do::Append(1), Do::Replace(0), Do::Checkpoint(1)],
        &[Do::Create(0), Do::Append(0), Do::Close(0), Do::Open(0), Do::Skip(0), Do::Close(0)],
        &[Do::Create(0), Do::Append(0), Do::Name(0), Do::Replace(0), Do::FullMerge(0), Do::DropName(0)],
        &[Do::Create(0), Do::Append(0), Do::Backup(0), Do::Replace(0), Do::Merge(0), Do::Backup(0)],
        &[Do::Create(0), Do::Append(0), Do::Dated(0), Do::Replace(0), Do::Dated(0)],
    ];
    let jobs = workloads.iter().flat_map(|actions| {
        let calls = run(actions).fs.calls().len();
        let jobs = (0..calls).flat_map(|at| [(*actions, at, false), (*actions, at, true)]);
        // Long workloads take one of the two, in turn.
        jobs.filter(move |(_, at, was_open)| calls < 150 || (at % 2 == 0) == *was_open)
    });
    let jobs: Vec<(&[Do], usize, bool)> = sampled(jobs, 7, 3);
    in_parallel(|number| {
        let Some((actions, dies_at, was_open)) = jobs.get(number).copied() else { return false };
        let mut run = Run::new(SimFs::new());
        run.fs.die_at(dies_at);
        let survivor = run.fs.other_process();
        // The survivor may have opened the store before, with two handles that know the same commits.
        let mut opened_before: Vec<vecstore::Store> = Vec::new();
        for action in actions {
            run.act(*action);
            if was_open && opened_before.is_empty() && !run.fs.is_dead() {
                let open = || {
                    let store = crate::sim::run::options(&survivor)
                        .open(crate::sim::run::STORE)
                        .expect("it was created");
                    // Deletes nothing, but from here on the handle knows LOCK's counter.
                    store.delete(&["not there"]).expect("no other process is at work");
                    store
                };
                opened_before = vec![open(), open()];
            }
        }
        assert!(run.fs.is_dead(), "it was to be killed before call {dies_at}");
        run.errors.clear();
        let killed = survivor.changes();
        let mut run = run.into_process(survivor);
        run.stores.extend((2..).zip(opened_before));
        if run.stores.is_empty() {
            run.act(Do::Open(2));
        }
        if run.stores.is_empty() {
            let (_, error) = run.errors.remove(0);
            assert!(
                matches!(error, vecstore::Error::NotFound { .. }),
                "killed before call {dies_at}: {error}"
            );
            run.act(Do::Create(2));
        }
        if !run.stores.contains_key(&3) {
            run.act(Do::Open(3));
        }
        if !was_open {
            run.show(2).expect("the survivor reads what it opened");
        }
        // A handle that has just written knows every commit.
        for handle in [2, 3] {
            run.act(Do::Append(handle));
            run.show(handle).expect("the survivor reads what it wrote");
        }
        run.act(Do::Fingerprint(2));
        // The survivor goes on with the merges, backups and versions of the dead process.
        let mut step = 2;
        if actions.iter().any(|action| matches!(action, Do::Backup(_) | Do::Dated(_) | Do::Name(_))) {
            run.act(Do::FullMerge(3));
            run.act(Do::Backup(3));
            run.act(Do::Dated(3));
            step = 40;
        }
        run.act(Do::Close(2));
        if let Some((action, error)) = run.errors.first() {
            panic!("{actions:?} killed before call {dies_at}, then {action:?}: {error}");
        }
        let name = format!("{actions:?} killed before call {dies_at}, survivor open before: {was_open}");
        Crashes::new(&name, seed.wrapping_add(number as u64), 0, FEW_COMBINATIONS, &tally)
            .everywhere(run, (killed + number % step..).step_by(step));
        true
    });
    tally.line("a process killed and another one going on");
    assert!(tally.distinct() > full_or(1_000, 500));
}

/// A process is stopped before each of its calls and keeps its locks; another process opens or refreshes the
/// store and shows its entries; then the power fails. A writer may skip keys that were shown to it, so the
/// entries must survive.
#[test]
fn entries_shown_beside_a_stopped_writer_survive_a_power_cut() {
    let tally = Tally::default();
    let actions =
        [Do::Create(0), Do::Append(0), Do::Replace(0), Do::Fingerprint(0), Do::Delete(0), Do::FullMerge(0)];
    let calls = run(&actions).fs.calls().len();
    let created = run(&actions[..1]).fs.calls().len();
    let mut shown = 0;
    for (stops_at, was_open) in (created..calls).flat_map(|at| [(at, false), (at, true)]) {
        let mut run = Run::new(SimFs::new());
        run.fs.stop_at(stops_at);
        run.act(actions[0]);
        let other = run.fs.other_process();
        let open = || crate::sim::run::options(&other).open(crate::sim::run::STORE).expect("it was created");
        let opened_before = was_open.then(open);
        actions[1..].iter().for_each(|action| run.act(*action));
        run.errors.clear();
        let stopped = other.changes();
        let mut run = run.into_process(other);
        match opened_before {
            None => run.act(Do::Open(2)),
            Some(store) => {
                run.stores.insert(2, store);
                run.act(Do::Refresh(2));
            }
        }
        // A handle for which the counter has not changed does not list the segments, and so may not see a
        // commit that is still undecided.
        let sees_all = || {
            let reader = crate::sim::run::options(&run.fs).for_reading().open(crate::sim::run::STORE);
            let reader = State::read(&reader.expect("it opens").snapshot()).expect("it reads");
            State::read(&run.stores[&2].snapshot()).expect("it reads what it opened") == reader
        };
        match run.errors.first() {
            None if was_open && !sees_all() => continue,
            None => {
                run.show(2).expect("it reads what it opened");
                shown += 1;
            }
            Some((_, vecstore::Error::Busy { .. })) => {}
            Some((_, error)) => panic!("stopped before call {stops_at}: {error}"),
        }
        let name = format!("{actions:?} stopped before call {stops_at}, the other open before: {was_open}");
        Crashes::new(&name, stops_at as u64, 0, FEW_COMBINATIONS, &tally).everywhere(run, stopped..);
    }
    tally.line("a process stopped and another one reading");
    assert!(shown > calls, "only {shown} of {} could be shown", 2 * (calls - created));
}

/// Before each call of one process another process does a whole operation; then the power fails.
#[test]
fn two_writers_may_interleave_anywhere() {
    const OUTER: [Do; 9] = [
        Do::Append(0),
        Do::Merge(0),
        Do::FullMerge(0),
        Do::Name(0),
        Do::DropName(0),
        Do::Backup(0),
        Do::Dated(0),
        Do::Restore(8),
        Do::Close(0),
    ];
    const INNER: [Do; 5] = [Do::Append(5), Do::Merge(5), Do::Replace(5), Do::Name(5), Do::Backup(5)];
    let begin = || {
        let mut run = Run::new(SimFs::new());
        let beginning =
            [Do::Create(0), Do::Append(0), Do::Replace(0), Do::Name(0), Do::Backup(0), Do::Append(0)];
        beginning.iter().for_each(|action| run.act(*action));
        let mut other = Run::new(run.fs.other_process());
        other.skip_keys(500);
        other.act(Do::Open(5));
        (run, other)
    };
    let jobs = OUTER.iter().flat_map(|outer| {
        let (mut run, _other) = begin();
        let before = run.fs.calls().len();
        run.act(*outer);
        (before..run.fs.calls().len()).map(|at| (*outer, at))
    });
    let jobs: Vec<(Do, usize)> = sampled(jobs, 4, 0);
    let (tally, went_through) = (Tally::default(), AtomicUsize::new(0));
    in_parallel(|number| {
        let Some((outer, at)) = jobs.get(number).copied() else { return false };
        let inner = INNER[number % INNER.len()];
        let (mut run, other) = begin();
        let before = run.steps.len();
        let started = run.fs.changes();
        let other = Arc::new(Mutex::new(other));
        let meanwhile = Arc::clone(&other);
        run.fs.before(at, move || meanwhile.lock().expect("no panic").act(inner));
        run.act(outer);
        let mut other = other.lock().expect("no panic");
        for (action, error) in run.errors.iter().chain(&other.errors) {
            assert!(
                *action == inner && matches!(error, vecstore::Error::Busy { .. }),
                "{inner:?} before call {at} of {outer:?}: {action:?}: {error}"
            );
        }
        went_through.fetch_add(usize::from(other.errors.is_empty()), Ordering::Relaxed);
        let (before, ours) = run.steps.split_at(before);
        // Each operation happens at one moment between its begin and its end, so either may be the first.
        let orders = [[before, ours, &other.steps].concat(), [before, &other.steps, ours].concat()];
        other.stores.clear();
        run.stores.clear();
        tally.workloads.fetch_add(1, Ordering::Relaxed);
        let history = run.fs.history();
        let name = format!("{inner:?} before call {at} of {outer:?}");
        let mut crashes = Crashes::new(&name, number as u64, 0, FEW_COMBINATIONS, &tally);
        let end = history.log.len();
        let sample: BTreeSet<usize> =
            (0..4).map(|_| started + crashes.rng.below(end - started + 1)).chain([end]).collect();
        for prefix in sample {
            let right = orders.iter().flat_map(|steps| right_worlds(&nothing(), steps, prefix)).collect();
            crashes.after(&history, prefix, &right);
        }
        true
    });
    tally.line("two writers interleaved");
    let went_through = went_through.into_inner();
    assert!(went_through > jobs.len() / 4, "only {went_through} of {} were not busy", jobs.len());
    assert!(tally.distinct() > full_or(1_000, 400));
}

/// The merger of a handle works in its own thread while the handle appends; the power fails at any moment.
#[test]
fn a_power_cut_during_a_background_merge_loses_nothing() {
    let tally = Tally::default();
    let mut all = Run::new(SimFs::new());
    all.act(Do::Create(0));
    for number in 0..62 {
        all.act([Do::Append(0), Do::Replace(0), Do::Delete(0)][number % 3]);
    }
    all.act(Do::Name(0));
    all.act(Do::Close(0));
    let began = all.fs.changes();
    let (merged, heard) = std::sync::mpsc::channel();
    let options = crate::sim::run::options(&all.fs)
        .merge_policy(MergePolicy::Background)
        .lock_timeout(Duration::from_secs(60))
        .on_event(move |event| {
            if matches!(event, Event::Merged { .. }) {
                merged.send(()).expect("the test waits");
            }
        });
    all.stores.insert(0, options.open(crate::sim::run::STORE).expect("it opens"));
    for _ in 0..6 {
        all.act(Do::Append(0));
    }
    heard.recv_timeout(Duration::from_secs(60)).expect("it merges by itself");
    all.act(Do::Append(0));
    assert!(all.errors.is_empty(), "{:?}", all.errors);
    Crashes::new("a merge in the background", 1, 0, FEW_COMBINATIONS, &tally).everywhere(all, began..);
    tally.line("a merge in the background");
    assert!(tally.distinct() > 30);
}

/// The power fails at any moment of the checkpoint that is due after 64 commits.
#[test]
fn a_power_cut_during_the_checkpoint_after_64_commits_loses_nothing() {
    let tally = Tally::default();
    let mut all = Run::new(SimFs::new());
    all.act(Do::Create(0));
    let mut checkpoint = 0;
    for number in 0..66 {
        all.act([Do::Append(0), Do::Replace(0), Do::Delete(0)][number % 3]);
        if number == 62 {
            checkpoint = all.fs.changes();
        }
    }
    assert!(all.errors.is_empty(), "{:?}", all.errors);
    let replaced = all.fs.calls().iter().filter(|call| call.what == "replace").count();
    assert!(replaced >= 2, "a checkpoint was written");
    Crashes::new("66 commits", 1, 24, COMBINATIONS, &tally).everywhere(all, checkpoint..);
    tally.line("the checkpoint after 64 commits");
    assert!(tally.distinct() > 30);
}

/// Batches of several threads share one file. After a power cut each batch is there as a whole or not at all,
/// and every acknowledged one is there.
#[test]
fn batches_that_share_a_file_survive_every_power_cut() {
    let tally = Tally::default();
    for seed in 0..4 {
        let mut together = Run::new(SimFs::new());
        together.act(Do::Create(0));
        let created = together.fs.changes();
        together.append_together(0, 3);
        together.append_together(0, 3);
        assert_eq!(together.stores[&0].snapshot().last_commit(), 6);
        let files = together.fs.names("/d/s/segments").len();
        assert_eq!(files, 4, "the first of three has a file of its own, the others share one");
        Crashes::new("three threads", seed, 32, COMBINATIONS, &tally).everywhere(together, created..);
    }
    tally.line("batches of three threads");
    assert!(tally.distinct() > 100);
}
