//! How considerate a merge is: it rests, and lets smaller merges go first.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lock::Watch;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::nap;
use crate::vfs::VfsFile;

/// Bytes between two flushes and rests, when commits of others wait meanwhile: a commit's flush has to wait for the
/// one that is under way.
const SHORT_STEP: usize = 1 << 20;
/// Bytes between two flushes when nobody commits.
const LONG_STEP: usize = 8 << 20;
/// Who has committed within this time is likely to commit again.
const RECENT: Duration = Duration::from_secs(1);
/// No rest is longer.
const LONGEST_REST: Duration = Duration::from_millis(500);

/// How considerate a merge is, and how it is stopped.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// Time rested per time worked.
    pub rest: f64,
    /// Rest only while somebody commits, which this tells.
    pub commits: Option<Rc<Watch>>,
    /// Give up.
    pub stop: Arc<AtomicBool>,
    /// Appends that wait: do not rest as long as there are any.
    pub hurry: Arc<AtomicUsize>,
}

impl Pace {
    /// Never rests.
    pub fn full_speed() -> Self {
        Pace { rest: 0.0, commits: None, stop: Arc::default(), hurry: Arc::default() }
    }
}

/// Counts what a merge has read and written, and rests every few MiB.
pub(super) struct Pacer<'p> {
    pace: &'p Pace,
    /// Called at every step; may merge what has come in meanwhile.
    between: RefCell<&'p mut dyn FnMut()>,
    pending: Cell<usize>,
    since: Cell<Instant>,
    /// LOCK's counter at the last step.
    counter: Cell<Option<u64>>,
    /// When it was last seen to change.
    commit: Cell<Option<Instant>>,
}

impl<'p> Pacer<'p> {
    pub fn new(pace: &'p Pace, between: &'p mut dyn FnMut()) -> Self {
        Pacer {
            pace,
            between: RefCell::new(between),
            pending: Cell::new(0),
            since: Cell::new(Instant::now()),
            counter: Cell::new(pace.commits.as_ref().and_then(|watch| watch.counter())),
            commit: Cell::new(None),
        }
    }

    /// So many bytes have been worked on.
    pub fn worked(&self, bytes: usize) {
        self.pending.set(self.pending.get() + bytes);
        if self.pending.get() < self.step() {
            return;
        }
        let worked = self.since.get().elapsed();
        self.pending.set(0);
        // Not while it is borrowed: a step within a step does nothing more.
        if let Ok(mut between) = self.between.try_borrow_mut() {
            between();
        }
        if self.is_gentle() {
            self.rest(worked.mul_f64(self.pace.rest).min(LONGEST_REST));
        }
        self.since.set(Instant::now());
    }

    /// Bytes until the next rest.
    fn step(&self) -> usize {
        let gentle = self.pace.rest > 0.0 && (self.pace.commits.is_none() || self.commit.get().is_some());
        if gentle { SHORT_STEP } else { LONG_STEP }
    }

    /// Sleeps, but not longer than somebody wants it to.
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

    /// Somebody commits, or it cannot be told, or does not matter.
    fn is_gentle(&self) -> bool {
        let Some(watch) = &self.pace.commits else { return self.pace.rest > 0.0 };
        let counter = watch.counter();
        if counter.is_none() || self.counter.replace(counter) != counter {
            self.commit.set(Some(Instant::now()));
        }
        let recent = self.commit.get().is_some_and(|commit| commit.elapsed() < RECENT);
        if !recent {
            self.commit.set(None);
        }
        recent
    }
}

/// Passes writes on, flushing every few MiB: one flush of a gigabyte at the end would hold up every commit's flush.
pub(super) struct Throttled<'f, 'p> {
    file: &'f mut dyn VfsFile,
    pacer: &'f Pacer<'p>,
    pending: usize,
}

impl<'f, 'p> Throttled<'f, 'p> {
    /// Writes to `file` at a pace.
    pub fn new(file: &'f mut dyn VfsFile, pacer: &'f Pacer<'p>) -> Self {
        Throttled { file, pacer, pending: 0 }
    }
}

impl VfsFile for Throttled<'_, '_> {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        for piece in data.chunks(SHORT_STEP) {
            if self.pacer.is_stopped() {
                return Err(io::Error::other("the merge was stopped because the store is being closed"));
            }
            self.file.write_all(piece)?;
            self.pending += piece.len();
            if self.pending >= self.pacer.step() {
                self.pending = 0;
                self.file.flush()?;
            }
            self.pacer.worked(piece.len());
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_in_proportion_and_steps_in_between() {
        let pace = Pace { rest: 3.0, ..Pace::full_speed() };
        let steps = Cell::new(0);
        let mut between = || steps.set(steps.get() + 1);
        let pacer = Pacer::new(&pace, &mut between);
        let start = Instant::now();
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(2));
            pacer.worked(SHORT_STEP / 2);
        }
        assert!(start.elapsed() >= Duration::from_millis(8 * 4), "worked 8 ms, rested three times as long");
        assert_eq!(steps.get(), 2);
    }

    #[test]
    fn does_not_rest_while_an_append_waits_or_nobody_commits() {
        let hour = |pace: Pace| {
            let mut between = || ();
            let pacer = Pacer::new(&pace, &mut between);
            std::thread::sleep(Duration::from_millis(1));
            pacer.worked(LONG_STEP);
        };
        let long = 3_600_000.0;
        let start = Instant::now();
        hour(Pace { rest: long, hurry: Arc::new(AtomicUsize::new(1)), ..Pace::full_speed() });
        hour(Pace { rest: long, stop: Arc::new(AtomicBool::new(true)), ..Pace::full_speed() });
        let dir = tempfile::tempdir().unwrap();
        let mut lock =
            crate::lock::Lock::open(&crate::vfs::RealFs, &dir.path().join("LOCK"), "commit").unwrap();
        lock.prepare().unwrap();
        let watch = Rc::new(Watch::open(&crate::vfs::RealFs, &dir.path().join("LOCK")));
        hour(Pace { rest: long, commits: Some(Rc::clone(&watch)), ..Pace::full_speed() });
        assert!(start.elapsed() < LONGEST_REST);

        let pace = Pace { rest: long, commits: Some(watch), ..Pace::full_speed() };
        let mut between = || ();
        let pacer = Pacer::new(&pace, &mut between);
        lock.raise();
        lock.release();
        pacer.worked(LONG_STEP);
        assert!(start.elapsed() >= LONGEST_REST, "somebody committed");
    }
}
