//! All locks under which nothing else changes a store.

use std::path::Path;

use crate::base::Result;
use crate::lock::{LOCK, Lanes, Lock, Timeout, hold_manifest};
use crate::vfs::Vfs;

/// Runs `work` under all locks of a store except the backup lock, then raises LOCK's counter so that readers
/// notice. `work` gets the manifest lock, and whether names of commits are in doubt: the names of a writer
/// that died are, until the next writer rewrites its commits.
pub(super) fn exclusively<T>(
    vfs: &dyn Vfs,
    dir: &Path,
    timeout: &Timeout,
    work: impl FnOnce(&mut Lock, bool) -> Result<T>,
) -> Result<T> {
    let mut lanes = Lanes::open(vfs, dir)?;
    let mut commit = Lock::open(vfs, &dir.join(LOCK), "commit")?;
    lanes.acquire(timeout)?;
    let result = commit.acquire_named(timeout).and_then(|in_doubt| {
        let result = hold_manifest(vfs, dir, timeout, |manifest, _| work(manifest, in_doubt));
        commit.raise();
        commit.release();
        result
    });
    lanes.release();
    result
}
