//! How far a long operation is, and a way to stop it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::base::{Error, Result};

/// How far a long operation is, and a way to stop it: one thread runs the operation, others look at its
/// progress.
///
/// A value belongs to one operation: it counts on from where it is, and stays stopped once it was stopped.
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
    /// Of an operation that has not begun.
    pub const fn new() -> Self {
        Progress { done: AtomicU64::new(0), total: AtomicU64::new(0), stopped: AtomicBool::new(false) }
    }

    /// Bytes that the operation is done with; never less than before.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes that there are to do, as far as is known; 0 before the operation has looked. Grows where an
    /// operation finds more to do.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed).max(self.done())
    }

    /// Asks the operation to stop. It ends soon (after a wait for a lock, if it is in one) with
    /// [`Error::Interrupted`](crate::Error::Interrupted), and leaves the store as it was, or with a part of
    /// the work done that need not be done again. An operation that is past the point where it could be taken
    /// back ends as usual.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// True once [`Progress::stop`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// There is so much more to do.
    pub(crate) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much more is done; an error once the operation is to stop.
    pub(crate) fn worked(&self, bytes: u64, action: &'static str) -> Result<()> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.is_stopped() { Err(Error::Interrupted { action }) } else { Ok(()) }
    }
}

/// The share of an operation that one file is: no more of it is counted than it has bytes, and no less in the
/// end.
pub(crate) struct Part<'a> {
    progress: &'a Progress,
    action: &'static str,
    left: Cell<u64>,
}

impl<'a> Part<'a> {
    /// A part of so many bytes, which are expected already.
    pub fn new(progress: &'a Progress, action: &'static str, bytes: u64) -> Self {
        Part { progress, action, left: Cell::new(bytes) }
    }

    /// So much more is done; an error once the operation is to stop.
    pub fn worked(&self, bytes: usize) -> Result<()> {
        let bytes = (bytes as u64).min(self.left.get());
        self.left.set(self.left.get() - bytes);
        self.progress.worked(bytes, self.action)
    }

    /// The part is done.
    pub fn done(self) -> Result<()> {
        self.progress.worked(self.left.get(), self.action)
    }
}
