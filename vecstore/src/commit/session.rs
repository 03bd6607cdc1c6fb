//! The writer of a handle, and one hold of the commit lock, from [`Writer::begin`] to [`Writer::end`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Bug, Error, Event, Result};
use crate::commit::Committed;
use crate::commit::others::follow;
use crate::lock::{Found, LOCK, LOCK_MANIFEST, LOCK_TURN, Lock, Timeout, Watch};
use crate::segment::SegmentName;
use crate::state::{SEGMENTS, Target, Verify, View};
use crate::vfs::Vfs;

/// Prefix of the temporary files of commits. Only the holder of the commit lock removes such files.
pub(crate) const TMP_PREFIX: &str = "tmp-commit-";

/// The writer of a handle. One thread at a time uses it.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) dir: PathBuf,
    pub(super) lock: Lock,
    pub(super) manifest_lock: Lock,
    /// How long the writer waits for locks.
    pub(crate) timeout: Timeout,
    pub(super) verify_saves: bool,
    /// LOCK's counter when the view was last complete. `None`: unknown, so the directory is listed.
    pub(crate) counter: Option<u64>,
    /// Commits of this handle since it last wrote the manifest.
    pub(crate) since_checkpoint: u64,
    /// Bytes of the segments that this handle has committed since it last wrote the manifest.
    pub(super) bytes_since_checkpoint: u64,
    /// Routine checkpoints that failed in a row.
    pub(super) failed_checkpoints: u32,
    /// Events to report once no lock is held.
    pub(crate) events: Vec<Event>,
    /// A segment that this handle has committed and not yet added to its view.
    pub(super) committed: Option<Committed>,
    /// Segments in the view from which on the directory is listed.
    pub(super) many: usize,
    /// Why the handle stopped writing; `None` while it writes.
    pub(super) latched: Option<String>,
}

impl Writer {
    pub fn open(vfs: Arc<dyn Vfs>, dir: &Path, timeout: Timeout, verify_saves: bool) -> Result<Self> {
        let mut lock = Lock::open_fair(&*vfs, &dir.join(LOCK), &dir.join(LOCK_TURN), "commit")?;
        let manifest_lock = Lock::open(&*vfs, &dir.join(LOCK_MANIFEST), "manifest")?;
        lock.probe()?;
        Ok(Writer {
            vfs,
            dir: dir.to_owned(),
            lock,
            manifest_lock,
            timeout,
            verify_saves,
            counter: None,
            since_checkpoint: 0,
            bytes_since_checkpoint: 0,
            failed_checkpoints: 0,
            events: Vec::new(),
            committed: None,
            many: 0,
            latched: None,
        })
    }

    pub(super) fn segments(&self) -> PathBuf {
        self.dir.join(SEGMENTS)
    }

    /// Runs `work` under the commit lock, with a view of every commit on disk.
    pub fn locked<T>(
        &mut self,
        timeout: &Timeout,
        view: &mut View,
        work: impl FnOnce(&mut Self, &mut View) -> Result<T>,
    ) -> Result<T> {
        self.check_latch()?;
        let (vfs, segments) = (Arc::clone(&self.vfs), self.segments());
        let counter = self.counter;
        let found = self.lock.acquire_after(timeout, |lock| {
            // Segments of other processes are mapped while this thread still waits for the lock, so that it
            // holds the lock for less time.
            if let Some(spans) = counter.and_then(|then| lock.peek(then)) {
                follow(&*vfs, &segments, view, &spans);
            }
        })?;
        let result = self.begin(found, view).and_then(|()| work(self, view));
        self.end(result.is_ok());
        result
    }

    /// Called right after the commit lock was taken: brings the view up to date, and rewrites commits in
    /// doubt.
    pub(super) fn begin(&mut self, found: Found, view: &mut View) -> Result<()> {
        // A lock holder that died may have died of a failed flush, before it could leave the mark. A lock
        // holder that could not write its record on release looks the same.
        let in_doubt =
            found.died && !Bug::IgnoreDied.is_on() || found.suspect != 0 && !Bug::IgnoreMark.is_on();
        // The previous lock holder may have committed without raising the counter. Without a raise here, a
        // third handle with the same count would take its view for complete and give a commit number twice.
        if in_doubt {
            if !Bug::NoRaise.is_on() {
                self.lock.raise();
            }
            // The mark stays until the commits are rewritten, even if this attempt fails, and other processes
            // see it meanwhile.
            self.lock.mark_suspect(view.first_unlisted());
            self.lock.write()?;
        } else if found.counter.is_some() && found.counter == self.counter {
            return view.check_writable();
        }
        // A holder that released the lock with a raised counter had flushed its names or left the suspect
        // mark. Names are flushed again only if the record is void, or this handle has no counter to compare
        // with.
        let then = self.counter.take().filter(|_| found.counter.is_some() && !in_doubt);
        let spans = then.and_then(|then| self.lock.since(then));
        if view.segments.len() < self.many
            && spans.is_some_and(|spans| follow(&*self.vfs, &self.segments(), view, &spans))
        {
            self.counter = Some(self.lock.counter());
            view.check_writable()
        } else {
            self.catch_up(view, in_doubt, then.is_some())
        }
    }

    /// Releases the commit lock.
    pub(super) fn end(&mut self, is_ok: bool) {
        // A failed operation may have left files: no handle may take an earlier view for complete.
        if !is_ok {
            self.lock.raise();
            self.counter = None;
        }
        let told = self.lock.release();
        self.counter = self.counter.filter(|_| told).map(|_| self.lock.counter());
    }

    /// Rewrites commits in doubt if LOCK's record shows a failed directory flush or a dead lock holder.
    pub fn recover(&mut self, timeout: &Timeout, view: &mut View, watch: &Watch) -> Result<()> {
        if watch.record().is_some_and(|record| record.suspect != 0) {
            return self.locked(timeout, view, |_, _| Ok(()));
        }
        // If the lock cannot be taken, its holder is alive: it rewrote commits in doubt when it took the
        // lock, or left a mark.
        if watch.is_held()
            && let Some(found) = self.lock.try_acquire()?
        {
            let result = self.begin(found, view);
            self.end(result.is_ok());
            return result;
        }
        Ok(())
    }

    /// Fails where [`Writer::locked`] would refuse to write. Called before a write outside the commit lock.
    pub fn check_may_write(&self) -> Result<()> {
        self.check_latch()?;
        self.lock.check_place()
    }

    /// Fails once the handle has stopped writing.
    fn check_latch(&self) -> Result<()> {
        match &self.latched {
            Some(reason) => Err(Error::Latched { path: self.dir.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// True once a failed directory flush has stopped the handle from writing.
    pub fn is_latched(&self) -> bool {
        self.latched.is_some()
    }

    /// The target of a segment that is written under the commit lock.
    pub(super) fn target<'a>(
        &'a self,
        dir: &'a Path,
        prefix: &'a str,
        name: SegmentName,
        len: u64,
    ) -> Target<'a> {
        let verify = if self.verify_saves { Verify::FromDisk } else { Verify::No };
        Target { vfs: &*self.vfs, dir, prefix, name, len, verify, step: &|_| Ok(()) }
    }
}
