//! The pace of a merge: it rests while other threads or processes commit, and can be stopped.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::base::sync::nap;
use crate::base::{Error, Progress, Result};
use crate::lock::Watch;

/// Bytes handed to the disk between two rests while other threads or processes commit: the flush of a commit
/// has to wait for the bytes under way.
pub(super) const SHORT_STEP: usize = 1 << 20;
/// Bytes handed to the disk at once while no other thread or process commits.
pub(super) const LONG_STEP: usize = 8 << 20;
/// A writer that has committed within this time is likely to commit again.
const RECENT: Duration = Duration::from_secs(1);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// The pace of a merge, and how the merge is stopped.
#[derive(Clone, Debug)]
pub(crate) struct Pace<'p> {
    /// Time rested per time worked.
    pub rest: f64,
    /// Tells when another thread or process commits.
    pub commits: Option<Rc<Watch>>,
    /// How long after a commit further commits are expected.
    pub recent: Duration,
    /// Set to stop the merge.
    pub stop: Arc<AtomicBool>,
    /// Number of appends that wait: the merge does not rest meanwhile.
    pub hurry: Arc<AtomicUsize>,
    /// The user's progress, for a merge that a user asked for.
    pub progress: Option<&'p Progress>,
}

impl Pace<'_> {
    /// A pace without rests.
    pub fn full_speed() -> Self {
        let (stop, hurry) = (Arc::default(), Arc::default());
        Pace { rest: 0.0, commits: None, recent: RECENT, stop, hurry, progress: None }
    }
}

/// The operation that the error of a stopped merge names.
pub(super) const STOPPED: &str = "the merge";

/// Counts the bytes that a merge has read and written, and rests after every few MiB.
pub(super) struct Pacer<'p> {
    pace: &'p Pace<'p>,
    /// Bytes of this merge that the user's progress was told to expect.
    expected: Cell<u64>,
    /// Bytes of this merge that were reported to the user's progress as done.
    counted: Cell<u64>,
    /// Bytes that the merge has worked on since the last rest.
    pending: Cell<usize>,
    /// Time of the last look, and LOCK's counter then.
    since: Cell<(Instant, Option<u64>)>,
    /// When LOCK's counter was last seen to change; `None` if that is longer ago than `recent`.
    pub(super) commit: Cell<Option<Instant>>,
}

impl<'p> Pacer<'p> {
    pub fn new(pace: &'p Pace<'p>) -> Self {
        let counter = pace.commits.as_ref().and_then(|watch| watch.counter());
        Pacer {
            pace,
            expected: Cell::new(0),
            counted: Cell::new(0),
            pending: Cell::new(0),
            since: Cell::new((Instant::now(), counter)),
            commit: Cell::new(counter.is_none().then(Instant::now)),
        }
    }

    /// Looks for commits of other threads and processes. Returns the time since the last look.
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

    /// Counts bytes that the merge has worked on, and rests if there were enough.
    pub fn worked(&self, bytes: usize) {
        self.count(bytes as u64);
        self.pending.set(self.pending.get() + bytes);
        if self.pending.get() < self.step() {
            return;
        }
        self.pending.set(0);
        self.pause();
    }

    /// Like [`Pacer::worked`], but fails once the merge is stopped.
    pub fn worked_on(&self, bytes: usize) -> Result<()> {
        self.worked(bytes);
        if self.is_stopped() { Err(Error::Interrupted { action: STOPPED }) } else { Ok(()) }
    }

    /// Tells the user's progress that the merge has `bytes` more bytes to work on.
    pub fn expect(&self, bytes: u64) {
        self.expected.set(self.expected.get() + bytes);
        self.pace.progress.inspect(|progress| progress.expect(bytes));
    }

    /// Ends the merge: all bytes that were expected count as done.
    pub fn done(&self) {
        self.count(u64::MAX);
    }

    /// Counts bytes as done, but no more than were expected: padding and tables are worked on in passing.
    fn count(&self, bytes: u64) {
        let bytes = bytes.min(self.expected.get() - self.counted.get());
        self.counted.set(self.counted.get() + bytes);
        self.pace.progress.inspect(|progress| drop(progress.worked(bytes, STOPPED)));
    }

    /// Rests in proportion to the time since the last rest, if other threads or processes commit.
    pub fn pause(&self) {
        let worked = self.look();
        if self.is_gentle() {
            self.rest(worked.mul_f64(self.pace.rest).min(LONGEST_REST));
            self.look();
        }
    }

    /// Bytes between two rests.
    pub fn step(&self) -> usize {
        if self.is_gentle() { SHORT_STEP } else { LONG_STEP }
    }

    /// Sleeps for `rest`, or until an append waits or the merge is stopped.
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
        self.pace.stop.load(Ordering::Relaxed) || self.pace.progress.is_some_and(Progress::is_stopped)
    }

    /// True if the merge rests: other threads or processes commit, or LOCK's counter cannot be read.
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
            // Simulated work; any duration passes: the rest grows with it.
            std::thread::sleep(Duration::from_millis(2));
            pacer.worked(SHORT_STEP / 2);
        }
        assert!(start.elapsed() >= Duration::from_millis(8 * 4), "worked 8 ms, rested three times as long");
    }

    #[test]
    fn does_not_rest_while_an_append_waits_or_without_commits() {
        let hour = |pace: Pace<'_>| {
            let before = naps();
            let pacer = Pacer::new(&pace);
            // Simulated work; any duration passes: a rest would take an hour per millisecond.
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
        // Simulated work; any duration passes: the rest is cut to the longest there is.
        std::thread::sleep(Duration::from_millis(1));
        pacer.worked(LONG_STEP);
        assert!(start.elapsed() >= LONGEST_REST, "another handle committed");
    }
}
