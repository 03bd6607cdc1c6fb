//! How considerate a merge is: it rests while others commit, and can be stopped.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::base::sync::nap;
use crate::base::{Error, Result};
use crate::lock::Watch;

/// Bytes that are handed to the disk at once, before a rest, when commits of others wait meanwhile: a commit's flush has
/// to wait for what is under way.
pub(super) const SHORT_STEP: usize = 1 << 20;
/// The same when no other thread or process commits.
pub(super) const LONG_STEP: usize = 8 << 20;
/// A writer that has committed within this time is likely to commit again.
const RECENT: Duration = Duration::from_secs(1);
/// No rest is longer.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// How considerate a merge is, and how it is stopped.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// Time rested per time worked.
    pub rest: f64,
    /// Tells when another process or thread commits.
    pub commits: Option<Rc<Watch>>,
    /// How long a commit is taken for a sign of further ones.
    pub recent: Duration,
    /// Give up.
    pub stop: Arc<AtomicBool>,
    /// Appends that wait: do not rest as long as there are any.
    pub hurry: Arc<AtomicUsize>,
}

impl Pace {
    /// Never rests.
    pub fn full_speed() -> Self {
        Pace { rest: 0.0, commits: None, recent: RECENT, stop: Arc::default(), hurry: Arc::default() }
    }
}

/// Why a merge that was stopped has no output.
pub(super) const STOPPED: &str = "the merge was stopped because the store is being closed";

/// Counts what a merge has read and written, and rests after every few MiB.
pub(super) struct Pacer<'p> {
    pace: &'p Pace,
    pending: Cell<usize>,
    /// Since when it has worked or rested, and LOCK's counter then.
    since: Cell<(Instant, Option<u64>)>,
    /// When that was last seen to change.
    pub(super) commit: Cell<Option<Instant>>,
}

impl<'p> Pacer<'p> {
    pub fn new(pace: &'p Pace) -> Self {
        let counter = pace.commits.as_ref().and_then(|watch| watch.counter());
        Pacer {
            pace,
            pending: Cell::new(0),
            since: Cell::new((Instant::now(), counter)),
            commit: Cell::new(counter.is_none().then(Instant::now)),
        }
    }

    /// The time since the last look, at which it also looks for commits of others.
    fn look(&self) -> Duration {
        let counter = self.pace.commits.as_ref().and_then(|watch| watch.counter());
        let now = Instant::now();
        let (then, before) = self.since.replace((now, counter));
        if counter != before || counter.is_none() {
            self.commit.set(Some(now));
        } else if self.commit.get().is_some_and(|commit| now - commit >= self.pace.recent) {
            self.commit.set(None);
        }
        now - then
    }

    /// Counts bytes that have been worked on.
    pub fn worked(&self, bytes: usize) {
        self.pending.set(self.pending.get() + bytes);
        if self.pending.get() < self.step() {
            return;
        }
        self.pending.set(0);
        self.pause();
    }

    /// The same for work that can be stopped.
    ///
    /// # Errors
    /// The store is being closed.
    pub fn worked_on(&self, bytes: usize) -> Result<()> {
        self.worked(bytes);
        if self.is_stopped() { Err(Error::bad_input(STOPPED)) } else { Ok(()) }
    }

    /// Lets others go on for as long as what was done since the last time calls for.
    pub fn pause(&self) {
        let worked = self.look();
        if self.is_gentle() {
            self.rest(worked.mul_f64(self.pace.rest).min(LONGEST_REST));
            self.look();
        }
    }

    /// Bytes until the next rest.
    pub fn step(&self) -> usize {
        if self.is_gentle() { SHORT_STEP } else { LONG_STEP }
    }

    /// Sleeps, until an append waits or the store is closed.
    fn rest(&self, rest: Duration) {
        let end = Instant::now() + rest;
        while self.pace.hurry.load(Ordering::Relaxed) == 0 && !self.is_stopped() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            nap(left.min(Duration::from_millis(10)));
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.pace.stop.load(Ordering::Relaxed)
    }

    /// Other threads or processes commit, or it cannot be told.
    pub fn is_gentle(&self) -> bool {
        self.pace.rest > 0.0 && self.commit.get().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::sync::threads::naps;

    #[test]
    fn rests_in_proportion() {
        let pace = Pace { rest: 3.0, ..Pace::full_speed() };
        let pacer = Pacer::new(&pace);
        let start = Instant::now();
        for _ in 0..4 {
            // Work; any duration passes: the longer it takes, the longer is the rest.
            std::thread::sleep(Duration::from_millis(2));
            pacer.worked(SHORT_STEP / 2);
        }
        assert!(start.elapsed() >= Duration::from_millis(8 * 4), "worked 8 ms, rested three times as long");
    }

    #[test]
    fn does_not_rest_while_an_append_waits_or_without_commits() {
        let hour = |pace: Pace| {
            let before = naps();
            let pacer = Pacer::new(&pace);
            // Work; any duration passes: it would be rested for an hour per millisecond.
            std::thread::sleep(Duration::from_millis(1));
            pacer.worked(LONG_STEP);
            assert_eq!(naps(), before, "it does not rest");
        };
        let long = 3_600_000.0;
        hour(Pace { rest: long, hurry: Arc::new(AtomicUsize::new(1)), ..Pace::full_speed() });
        hour(Pace { rest: long, stop: Arc::new(AtomicBool::new(true)), ..Pace::full_speed() });
        let dir = tempfile::tempdir().unwrap();
        let mut lock =
            crate::lock::Lock::open(&crate::vfs::RealFs, &dir.path().join("LOCK"), "commit").unwrap();
        lock.prepare().unwrap();
        let watch = Rc::new(Watch::open(&crate::vfs::RealFs, &dir.path().join("LOCK")));
        hour(Pace { rest: long, commits: Some(Rc::clone(&watch)), ..Pace::full_speed() });

        let pace = Pace { rest: long, commits: Some(watch), ..Pace::full_speed() };
        let pacer = Pacer::new(&pace);
        lock.raise();
        lock.release();
        let start = Instant::now();
        // Work; any duration passes: the rest is cut to the longest there is.
        std::thread::sleep(Duration::from_millis(1));
        pacer.worked(LONG_STEP);
        assert!(start.elapsed() >= LONGEST_REST, "another handle committed");
    }
}
