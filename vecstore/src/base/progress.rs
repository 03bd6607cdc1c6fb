//! Progress of a long operation, and a way to stop it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::base::{Error, Result};

/// Progress of a long operation, and a way to stop it. One thread runs the operation; other threads read its
/// progress.
///
/// Each operation needs a value of its own: the counts are never reset, and a stopped value stays stopped.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// # vecstore::Store::create(&path, vecstore::StoreConfig::new(2))?;
/// use vecstore::Progress;
///
/// let progress = Progress::new();
/// let report = std::thread::scope(|scope| {
///     let verifying = scope.spawn(|| vecstore::verify_with(&path, &progress));
///     // Meanwhile: draw a bar of `progress.done()` in `progress.total()`, or call `progress.stop()`.
///     verifying.join().unwrap()
/// })?;
/// assert!(report.is_whole());
/// assert_eq!(progress.done(), progress.total());
///
/// let stopped = Progress::new();
/// stopped.stop();
/// assert!(matches!(vecstore::verify_with(&path, &stopped), Err(vecstore::Error::Interrupted { .. })));
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Progress of an operation that has not begun: 0 of 0 bytes.
    pub const fn new() -> Self {
        Progress { done: AtomicU64::new(0), total: AtomicU64::new(0), stopped: AtomicBool::new(false) }
    }

    /// Bytes processed so far. Never decreases.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes to process in all, as far as known: 0 before the operation has counted them, and more if it
    /// finds further work. At least [`Progress::done`].
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed).max(self.done())
    }

    /// Asks the operation to stop. It soon ends with [`Error::Interrupted`](crate::Error::Interrupted); an
    /// operation that waits for a lock ends after the wait. The store stays as it was, except for finished
    /// parts of the work (completed merges, say), which need not be repeated. An operation that can no longer
    /// be undone runs to its normal end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// True after [`Progress::stop`].
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Adds `bytes` to the total.
    pub(crate) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` as processed. An error after [`Progress::stop`].
    pub(crate) fn worked(&self, bytes: u64, action: &'static str) -> Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.is_stopped() { Err(Error::Interrupted { action }) } else { Ok(()) }
    }
}

/// The part of an operation that processes one file. Counts at most the file's length, and exactly that
/// length in the end.
pub(crate) struct Part<'a> {
    progress: &'a Progress,
    action: &'static str,
    left: Cell<u64>,
}

impl<'a> Part<'a> {
    /// A part of `bytes` bytes, which are in the total already.
    pub fn new(progress: &'a Progress, action: &'static str, bytes: u64) -> Self {
        Part { progress, action, left: Cell::new(bytes) }
    }

    /// Counts `bytes` as processed. An error after [`Progress::stop`].
    pub fn worked(&self, bytes: usize) -> Result<()> {
        let bytes = (bytes as u64).min(self.left.get());
        self.left.set(self.left.get() - bytes);
        self.progress.worked(bytes, self.action)
    }

    /// Ends the part: counts its remaining bytes as processed.
    pub fn done(self) -> Result<()> {
        self.progress.worked(self.left.get(), self.action)
    }
}
