//! Every state that a power cut may leave, opened by the real code and held against what was acknowledged.
//!
//! `VECSTORE_CRASH_STATES` is the number of distinct states to try (6,000 unless set); `VECSTORE_CRASH_SEED` begins
//! elsewhere.

mod sim;

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sim::SimFs;
use sim::crash::{Fates, History, Rng, digest};
use sim::oracle::{State, Step, right_states};
use sim::run::{Do, Run, check};

/// Combinations of fates that are tried exhaustively; beyond it a sample of this size.
const COMBINATIONS: usize = 96;
/// The same where there are as many runs as calls.
const FEW_COMBINATIONS: usize = 3;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Counts over all workloads.
#[derive(Debug, Default)]
struct Tally {
    distinct: Mutex<HashSet<u64>>,
    tried: AtomicUsize,
    second: AtomicUsize,
    workloads: AtomicUsize,
}

impl Tally {
    fn add(&self, image: u64) {
        self.tried.fetch_add(1, Ordering::Relaxed);
        self.distinct.lock().unwrap_or_else(PoisonError::into_inner).insert(image);
    }

    fn distinct(&self) -> usize {
        self.distinct.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn line(&self, what: &str) {
        println!(
            "crash states, {what}: {} distinct ({} tried, {} of them crashed again while recovering) after {} \
             workloads",
            self.distinct(),
            self.tried.load(Ordering::Relaxed),
            self.second.load(Ordering::Relaxed),
            self.workloads.load(Ordering::Relaxed)
        );
    }
}

/// One run's crash states, tried one after the other.
struct Crashes<'a> {
    workload: &'a str,
    seed: u64,
    /// Every so many states one is crashed again while it is recovered; 0: never.
    deeper: usize,
    tally: &'a Tally,
    /// Images tried, with what was right then: the same image may be right at one moment and wrong at a later one.
    seen: HashSet<(u64, u64)>,
    combinations: usize,
}

fn nothing() -> BTreeSet<State> {
    BTreeSet::from([State::default()])
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<'a> Crashes<'a> {
    fn new(workload: &'a str, seed: u64, deeper: usize, tally: &'a Tally) -> Self {
        Crashes { workload, seed, deeper, tally, seen: HashSet::new(), combinations: COMBINATIONS }
    }

    /// Crashes a run after each of these changes, and checks what is left.
    fn everywhere(&mut self, run: Run, prefixes: impl Iterator<Item = usize>) {
        let history = run.fs.history();
        let Run { steps, stores, .. } = run;
        drop(stores);
        self.tally.workloads.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng(self.seed);
        for prefix in prefixes.take_while(|prefix| *prefix <= history.log.len()) {
            let right = right_states(&nothing(), &steps, prefix);
            for fates in history.fates(prefix, self.combinations, &mut rng) {
                self.once(&history, prefix, &fates, &right, &mut rng);
            }
        }
    }

    fn once(
        &mut self,
        history: &History,
        prefix: usize,
        fates: &Fates,
        right: &BTreeSet<State>,
        rng: &mut Rng,
    ) {
        let image = history.image(prefix, fates, rng);
        let key = digest(&image);
        if !self.seen.insert((key, hash_of(right))) {
            return;
        }
        self.tally.add(key);
        let fs = SimFs::from_image(image);
        let recovered = check(&fs, right)
            .unwrap_or_else(|wrong| panic!("{}", self.story(history, prefix, fates, &wrong)));
        if self.deeper == 0 || !self.seen.len().is_multiple_of(self.deeper) {
            return;
        }
        let again = fs.history();
        for second in 0..=again.log.len() {
            let right = right_states(right, &recovered, second);
            let all = again.fates(second, COMBINATIONS, rng);
            // A few of each: the first two are all lost and all whole.
            for number in [0, 1, rng.below(all.len()), rng.below(all.len())] {
                let Some(fates_again) = all.get(number) else { continue };
                let image = again.image(second, fates_again, rng);
                let key = digest(&image);
                if !self.seen.insert((key, hash_of(&right))) {
                    continue;
                }
                self.tally.add(key);
                self.tally.second.fetch_add(1, Ordering::Relaxed);
                if let Err(wrong) = check(&SimFs::from_image(image), &right) {
                    panic!(
                        "{}\nand then, while recovering: {}",
                        self.story(history, prefix, fates, ""),
                        self.story(&again, second, fates_again, &wrong)
                    );
                }
            }
        }
    }

    fn story(&self, history: &History, prefix: usize, fates: &Fates, wrong: &str) -> String {
        format!(
            "{}, seed {}, crash after {prefix} changes: {wrong}\n{}",
            self.workload,
            self.seed,
            history.tell(prefix, fates)
        )
    }
}

fn run(actions: &[Do]) -> Run {
    let mut run = Run::new(SimFs::new());
    actions.iter().for_each(|action| run.act(*action));
    if let Some((action, error)) = run.errors.first() {
        panic!("{actions:?}: {action:?}: {error}");
    }
    run
}

/// Operations that workloads are made of; handle 1 is a second one on the same store.
const ALPHABET: [&[Do]; 11] = [
    &[Do::Append(0)],
    &[Do::Replace(0)],
    &[Do::Skip(0)],
    &[Do::Delete(0)],
    &[Do::Append(1)],
    &[Do::Replace(1)],
    &[Do::Close(0), Do::Open(0)],
    &[Do::Setting(0)],
    &[Do::Fingerprint(0)],
    &[Do::Checkpoint(1)],
    &[Do::Merge(1)],
];

fn workload(mut number: usize, operations: usize) -> Vec<Do> {
    let mut actions = vec![Do::Create(0), Do::Open(1), Do::Append(0), Do::Replace(0)];
    for _ in 0..operations {
        actions.extend(ALPHABET[number % ALPHABET.len()]);
        number /= ALPHABET.len();
    }
    actions.push(Do::Close(0));
    actions
}

/// Runs jobs 0, 1, 2, … on all cores until one says that it was the last.
fn in_parallel(job: impl Fn(usize) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| while job(next.fetch_add(1, Ordering::Relaxed)) {});
        }
    });
}

/// All workloads of one operation, those of two, then random ones of up to four until the number is reached.
#[test]
fn what_was_acknowledged_survives_every_power_cut() {
    let wanted = setting("VECSTORE_CRASH_STATES", 6_000) as usize;
    let seed = setting("VECSTORE_CRASH_SEED", 1);
    let tally = Tally::default();
    let jobs = ALPHABET.len() + ALPHABET.len().pow(2);
    in_parallel(|number| {
        if number >= ALPHABET.len() && tally.distinct() >= wanted {
            return false;
        }
        let mut rng = Rng(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let actions = match number {
            _ if number < ALPHABET.len() => workload(number, 1),
            _ if number < jobs => workload(number - ALPHABET.len(), 2),
            _ => workload(rng.below(usize::MAX), 3 + rng.below(2)),
        };
        let run = run(&actions);
        // Creation is the same in all of them.
        let created = match run.steps.first() {
            Some(Step::Change { outcome: sim::oracle::Outcome::Acknowledged(at), .. }) if number > 0 => *at,
            _ => 0,
        };
        let name = format!("{actions:?}");
        Crashes::new(&name, rng.next(), 16, &tally).everywhere(run, created..);
        true
    });
    tally.line("workloads of one to four operations");
    assert!(tally.distinct() >= wanted);
}

/// A process is killed before each of its calls; another one opens the store, shows what is in it and goes on; then
/// the power fails. What the second process has shown or acknowledged must be there, also where it rests on names
/// that the first one gave and did not live to flush.
#[test]
fn a_survivor_builds_on_nothing_that_may_vanish() {
    let tally = Tally::default();
    let seed = setting("VECSTORE_CRASH_SEED", 1);
    let workloads: [&[Do]; 4] = [
        &[Do::Create(0), Do::Append(0), Do::Replace(0), Do::Close(0)],
        &[Do::Create(0), Do::Setting(0), Do::Append(0), Do::Fingerprint(0), Do::Delete(0)],
        &[Do::Create(0), Do::Append(0), Do::Open(1), Do::Append(1), Do::Replace(0), Do::Checkpoint(1)],
        &[Do::Create(0), Do::Append(0), Do::Close(0), Do::Open(0), Do::Skip(0), Do::Close(0)],
    ];
    let jobs: Vec<(&[Do], usize, bool)> = workloads
        .iter()
        .flat_map(|actions| {
            let calls = run(actions).fs.calls().len();
            (0..calls).flat_map(|at| [(*actions, at, false), (*actions, at, true)])
        })
        .collect();
    in_parallel(|number| {
        let Some((actions, dies_at, was_open)) = jobs.get(number).copied() else { return false };
        let mut run = Run::new(SimFs::new());
        run.fs.die_at(dies_at);
        let survivor = run.fs.other_process();
        // The survivor may have had the store open since before, with two handles that know the same commits.
        let mut opened_before: Vec<vecstore::Store> = Vec::new();
        for action in actions {
            run.act(*action);
            if was_open && opened_before.is_empty() && !run.fs.is_dead() {
                let open = || sim::run::options(&survivor).open(sim::run::STORE).expect("it was created");
                opened_before = vec![open(), open()];
            }
        }
        assert!(run.fs.is_dead() || !run.stores.is_empty() || dies_at > 0);
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
        // A handle that has just written knows everything.
        for handle in [2, 3] {
            run.act(Do::Append(handle));
            run.show(handle).expect("the survivor reads what it wrote");
        }
        run.act(Do::Fingerprint(2));
        run.act(Do::Close(2));
        if let Some((action, error)) = run.errors.first() {
            panic!("{actions:?} killed before call {dies_at}, then {action:?}: {error}");
        }
        let name = format!("{actions:?} killed before call {dies_at}, survivor open before: {was_open}");
        let mut crashes = Crashes::new(&name, seed.wrapping_add(number as u64), 0, &tally);
        crashes.combinations = FEW_COMBINATIONS;
        crashes.everywhere(run, killed..);
        true
    });
    tally.line("a process killed and another one going on");
    assert!(tally.distinct() > 1_000);
}

/// A process is stopped before each of its calls and keeps its locks; another one opens the store and shows what is in
/// it, for somebody to skip what is there; then the power fails.
#[test]
fn what_was_shown_beside_a_stopped_writer_survives() {
    let tally = Tally::default();
    let actions =
        [Do::Create(0), Do::Append(0), Do::Replace(0), Do::Fingerprint(0), Do::Delete(0), Do::Merge(0)];
    let calls = run(&actions).fs.calls().len();
    let created = run(&actions[..1]).fs.calls().len();
    let mut shown = 0;
    for stops_at in created..calls {
        let mut run = Run::new(SimFs::new());
        run.fs.stop_at(stops_at);
        actions.iter().for_each(|action| run.act(*action));
        let other = run.fs.other_process();
        run.errors.clear();
        let stopped = other.changes();
        let mut run = run.into_process(other);
        run.act(Do::Open(2));
        match run.errors.first() {
            None => {
                run.show(2).expect("it reads what it opened");
                shown += 1;
            }
            Some((_, vecstore::Error::Busy { .. })) => {}
            Some((_, error)) => panic!("stopped before call {stops_at}: {error}"),
        }
        let name = format!("{actions:?} stopped before call {stops_at}");
        let mut crashes = Crashes::new(&name, stops_at as u64, 0, &tally);
        crashes.combinations = FEW_COMBINATIONS;
        crashes.everywhere(run, stopped..);
    }
    tally.line("a process stopped and another one reading");
    assert!(shown > 20, "only {shown} of {calls} could be opened");
}

/// The checkpoint that comes by itself, with a store large enough to have one.
#[test]
fn the_checkpoint_after_64_commits_may_be_interrupted() {
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
    Crashes::new("66 commits", 1, 24, &tally).everywhere(all, checkpoint..);
    tally.line("the checkpoint after 64 commits");
    assert!(tally.distinct() > 30);
}

/// Threads whose batches share one file: each is there or not, whole, and all that were acknowledged are.
#[test]
fn batches_of_several_threads_survive_together() {
    let tally = Tally::default();
    let mut shared = 0;
    for seed in 0..4 {
        let mut together = Run::new(SimFs::new());
        together.act(Do::Create(0));
        let created = together.fs.changes();
        together.fs.slow_flushes(Duration::from_millis(10));
        together.append_together(0, 3);
        together.append_together(0, 3);
        let commits = together.stores[&0].snapshot().last_commit();
        let files = together.fs.names("/d/s/segments").len();
        assert_eq!(commits, 6);
        shared += 6 - files;
        Crashes::new("three threads", seed, 32, &tally).everywhere(together, created..);
    }
    tally.line("batches of three threads");
    assert!(shared > 0, "some of them met at the lock");
    assert!(tally.distinct() > 100);
}
