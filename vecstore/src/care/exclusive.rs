//! The locks under which nothing else changes a store.

use std::path::Path;

use crate::base::Result;
use crate::lock::{LOCK, LOCK_MANIFEST, Lanes, Lock, Timeout};
use crate::vfs::Vfs;

/// All locks of a store but that of backups.
pub(super) struct Exclusive {
    lanes: Lanes,
    commit: Lock,
    manifest: Lock,
}

impl Exclusive {
    pub fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Self> {
        Ok(Exclusive {
            lanes: Lanes::open(vfs, dir)?,
            commit: Lock::open(vfs, &dir.join(LOCK), "commit")?,
            manifest: Lock::open(vfs, &dir.join(LOCK_MANIFEST), "manifest")?,
        })
    }

    /// Runs `work` under all of them, and tells readers afterwards. `work` gets the lock of the manifest, and
    /// is told whether names of commits are in doubt: those of a writer that died are, until the next one has
    /// written them anew.
    pub fn hold<T>(
        &mut self,
        timeout: &Timeout,
        work: impl FnOnce(&mut Lock, bool) -> Result<T>,
    ) -> Result<T> {
        let Exclusive { lanes, commit, manifest } = self;
        lanes.acquire(timeout)?;
        let result = commit.acquire_named(timeout).and_then(|in_doubt| {
            let result = manifest.acquire_named(timeout).and_then(|_| {
                let result = work(manifest, in_doubt);
                manifest.release();
                result
            });
            commit.raise();
            commit.release();
            result
        });
        lanes.release();
        result
    }
}
