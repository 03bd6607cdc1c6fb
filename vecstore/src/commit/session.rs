//! The writing side of a handle, and its time under the commit lock: [`Writer::begin`] to [`Writer::end`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Bug, Error, Event, Result};
use crate::commit::Committed;
use crate::commit::others::follow;
use crate::lock::{Found, LOCK, LOCK_MANIFEST, LOCK_TURN, Lock, Timeout, Watch};
use crate::segment::SegmentName;
use crate::state::{SEGMENTS, Target, Verify, View};
use crate::vfs::Vfs;

/// Temporary segments begin with this; only the holder of the commit lock may remove them.
pub(crate) const TMP_PREFIX: &str = "tmp-commit-";

/// The writing side of a handle. One thread at a time has it.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) dir: PathBuf,
    pub(super) lock: Lock,
    pub(super) manifest_lock: Lock,
    /// How long it waits for locks.
    pub(crate) timeout: Timeout,
    pub(super) verify_saves: bool,
    /// LOCK's counter when the view was last known to be complete; `None`: look.
    pub(crate) counter: Option<u64>,
    /// Commits since the manifest was last written by this handle, and their bytes.
    pub(crate) since_checkpoint: u64,
    pub(super) bytes_since_checkpoint: u64,
    pub(super) failed_checkpoints: u32,
    /// What is to be told once no lock is held.
    pub(crate) events: Vec<Event>,
    /// A segment that is committed, and not yet part of the view.
    pub(super) committed: Option<Committed>,
    /// From this many segments on the directory is listed.
    pub(super) many: usize,
    /// Why the handle stopped writing.
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

    /// Runs `work` under the commit lock, with a view that knows everything that is on disk.
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
            // What others have committed is mapped while one of them commits: then fewer wait for that.
            if let Some(spans) = counter.and_then(|then| lock.peek(then)) {
                follow(&*vfs, &segments, view, &spans);
            }
        })?;
        let result = self.begin(found, view).and_then(|()| work(self, view));
        self.end(result.is_ok());
        result
    }

    /// Under the commit lock, just taken: brings the view up to date, and out of doubt what is in doubt.
    pub(super) fn begin(&mut self, found: Found, view: &mut View) -> Result<()> {
        // A holder that died may have died of a failed flush, before the mark could be left. (One that could not write its
        // record when it gave the lock back looks the same.)
        let in_doubt =
            found.died && !Bug::IgnoreDied.is_on() || found.suspect != 0 && !Bug::IgnoreMark.is_on();
        // Such a holder may have committed and not counted it. Without a raise here, a third handle that knows the
        // same count would take its view for complete, and give a commit number twice.
        if in_doubt {
            if !Bug::NoRaise.is_on() {
                self.lock.raise();
            }
            // Stays until the commits have been written anew, even if that fails this time. Others see it meanwhile.
            self.lock.mark_suspect(view.first_unlisted());
            self.lock.write()?;
        } else if found.counter.is_some() && found.counter == self.counter {
            return view.check_writable();
        }
        // A holder that released the lock with a raised counter had flushed its names, or left the mark. They are flushed
        // again only if the record is void, or this handle has no counter to compare with.
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

    /// Gives the commit lock back.
    pub(super) fn end(&mut self, is_ok: bool) {
        // What failed may have left something: no handle may take a view from before for complete.
        if !is_ok {
            self.lock.raise();
            self.counter = None;
        }
        let told = self.lock.release();
        self.counter = self.counter.filter(|_| told).map(|_| self.lock.counter());
    }

    /// Brings commits out of doubt when the record asks for it: a flush of their directory failed, or a holder died.
    pub fn recover(&mut self, timeout: &Timeout, view: &mut View, watch: &Watch) -> Result<()> {
        if watch.record().is_some_and(|record| record.suspect != 0) {
            return self.locked(timeout, view, |_, _| Ok(()));
        }
        // If the lock cannot be had its holder is alive, and has done this when it took it, or left a mark.
        if watch.is_held()
            && let Some(found) = self.lock.try_acquire()?
        {
            let result = self.begin(found, view);
            self.end(result.is_ok());
            return result;
        }
        Ok(())
    }

    /// Refuses what is written outside the commit lock where [`Writer::locked`] would.
    pub fn check_may_write(&self) -> Result<()> {
        self.check_latch()?;
        self.lock.check_place()
    }

    /// Refuses once the handle has stopped writing.
    fn check_latch(&self) -> Result<()> {
        match &self.latched {
            Some(reason) => Err(Error::Latched { path: self.dir.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// The handle stopped writing after a failed directory flush.
    pub fn is_latched(&self) -> bool {
        self.latched.is_some()
    }

    /// Where a segment written under the commit lock goes.
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
