//! States of a store that are kept: named checkpoints, and the pins of backups under way.

use crate::base::Result;
use crate::lock::{LOCK_MANIFEST, Lock};
use crate::merge::{Host, Merges};
use crate::state::{Manifest, named};

/// Keeps the store as it is now under a name.
pub(crate) fn pin(host: &impl Host, name: &str) -> Result<Manifest> {
    host.locked("create a checkpoint", |writer, view| writer.checkpoint(view))?;
    under_manifest_lock(host, "create a checkpoint", || {
        let manifest = Manifest::read(host.vfs(), host.path())?;
        named::write(host.vfs(), host.path(), name, &manifest)?;
        Ok(manifest)
    })
}

/// Drops what is kept under a name; files that only it needed are removed.
pub(crate) fn unpin(host: &impl Host, name: &str) -> Result<()> {
    under_manifest_lock(host, "drop a checkpoint", || named::drop_named(host.vfs(), host.path(), name))?;
    Merges::of(host).tidy()
}

fn under_manifest_lock<T>(
    host: &impl Host,
    action: &'static str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let timeout = host.writing_timeout(action)?;
    let mut lock = Lock::open(host.vfs(), &host.path().join(LOCK_MANIFEST), "manifest")?;
    lock.acquire_named(&timeout)?;
    let result = work();
    lock.release();
    result
}
