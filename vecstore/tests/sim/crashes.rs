//! Crash states of runs: tried one after the other, and counted.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::SimFs;
use super::check::check;
use super::crash::{Fates, History, Rng, digest};
use super::run::Run;
use super::world::{World, nothing, right_worlds};

/// Up to this many combinations of fates, all are tried; of more, a sample of this size.
pub const COMBINATIONS: usize = 96;

/// Counts over all workloads.
#[derive(Debug, Default)]
pub struct Tally {
    distinct: Mutex<HashSet<u64>>,
    tried: AtomicUsize,
    second: AtomicUsize,
    pub workloads: AtomicUsize,
}

impl Tally {
    fn add(&self, image: u64) {
        self.tried.fetch_add(1, Ordering::Relaxed);
        self.distinct.lock().unwrap_or_else(PoisonError::into_inner).insert(image);
    }

    pub fn distinct(&self) -> usize {
        self.distinct.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn line(&self, what: &str) {
        println!(
            "crash states, {what}: {} distinct ({} tried, {} of them crashed again while recovering) after \
             {} \
             workloads",
            self.distinct(),
            self.tried.load(Ordering::Relaxed),
            self.second.load(Ordering::Relaxed),
            self.workloads.load(Ordering::Relaxed)
        );
    }
}

/// Tries the crash states of one run.
pub struct Crashes<'a> {
    workload: &'a str,
    pub rng: Rng,
    /// One of this many states is crashed again during its recovery; 0: none.
    deeper: usize,
    combinations: usize,
    tally: &'a Tally,
    /// Images tried, each with its right worlds: an image may be right at one moment and wrong later.
    seen: HashSet<(u64, u64)>,
}

pub fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<'a> Crashes<'a> {
    pub fn new(workload: &'a str, seed: u64, deeper: usize, combinations: usize, tally: &'a Tally) -> Self {
        Crashes { workload, rng: Rng(seed), deeper, combinations, tally, seen: HashSet::new() }
    }

    /// Crashes a run after each of these numbers of changes and at its end, and checks the images.
    pub fn everywhere(&mut self, run: Run, prefixes: impl Iterator<Item = usize>) {
        let history = run.fs.history();
        let Run { steps, stores, .. } = run;
        drop(stores);
        self.tally.workloads.fetch_add(1, Ordering::Relaxed);
        let end = history.log.len();
        for prefix in prefixes.take_while(|prefix| *prefix < end).chain([end]) {
            self.after(&history, prefix, &right_worlds(&nothing(), &steps, prefix));
        }
    }

    /// Crashes after the first `prefix` changes, with several combinations of fates.
    pub fn after(&mut self, history: &History, prefix: usize, right: &BTreeSet<World>) {
        for fates in history.fates(prefix, self.combinations, &mut self.rng) {
            self.once(history, prefix, &fates, right);
        }
    }

    fn once(&mut self, history: &History, prefix: usize, fates: &Fates, right: &BTreeSet<World>) {
        let image = history.image(prefix, fates, &mut self.rng);
        let key = digest(&image);
        if !self.seen.insert((key, hash_of(right))) {
            return;
        }
        self.tally.add(key);
        let fs = SimFs::from_image(image);
        let recovered = check(&fs, right, self.rng.next())
            .unwrap_or_else(|wrong| panic!("{}", self.story(history, prefix, fates, &wrong)));
        if self.deeper == 0 || !self.seen.len().is_multiple_of(self.deeper) {
            return;
        }
        let again = fs.history();
        for second in 0..=again.log.len() {
            let right = right_worlds(right, &recovered, second);
            let all = again.fates(second, COMBINATIONS, &mut self.rng);
            // All changes lost, all whole, and two random combinations.
            for number in [0, 1, self.rng.below(all.len()), self.rng.below(all.len())] {
                let Some(fates_again) = all.get(number) else { continue };
                let image = again.image(second, fates_again, &mut self.rng);
                let key = digest(&image);
                if !self.seen.insert((key, hash_of(&right))) {
                    continue;
                }
                self.tally.add(key);
                self.tally.second.fetch_add(1, Ordering::Relaxed);
                if let Err(wrong) = check(&SimFs::from_image(image), &right, self.rng.next()) {
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
        format!("{}, crash after {prefix} changes: {wrong}\n{}", self.workload, history.tell(prefix, fates))
    }
}

/// Runs jobs 0, 1, 2, … on all cores. A thread ends when one of its jobs returns false; after a panic of a
/// job no thread begins another one.
pub fn in_parallel(job: impl Fn(usize) -> bool + Sync) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let _stop = Stop(&stop);
                let mut is_more = true;
                while is_more && !stop.load(Ordering::Relaxed) {
                    is_more = job(next.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
}
