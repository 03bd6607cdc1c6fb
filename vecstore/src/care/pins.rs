//! States of a store that are kept: versions, and the pins of backups under way.

use crate::base::Result;
use crate::lock::hold_manifest;
use crate::merge::{Host, Merges};
use crate::state::{Manifest, versions};

/// Keeps the store as it is now under a name.
pub(crate) fn pin(host: &impl Host, name: &str) -> Result<Manifest> {
    host.locked("create a version", |writer, view| writer.checkpoint(view))?;
    hold_manifest(host.vfs(), host.path(), host.writing_timeout("create a version")?, |_, _| {
        let manifest = Manifest::read(host.vfs(), host.path())?;
        versions::write(host.vfs(), host.path(), name, &manifest)?;
        Ok(manifest)
    })
}

/// Drops what is kept under a name; files that only it needed are removed.
pub(crate) fn unpin(host: &impl Host, name: &str) -> Result<()> {
    hold_manifest(host.vfs(), host.path(), host.writing_timeout("drop a version")?, |_, _| {
        versions::drop_named(host.vfs(), host.path(), name)
    })?;
    Merges::of(host).tidy()
}
