//! Pinned states of a store: versions, and the pins of backups under way.

use crate::base::Result;
use crate::format::milliseconds;
use crate::lock::hold_manifest;
use crate::merge::{Host, Merges};
use crate::state::{Manifest, versions};

/// Pins the current state of the store, or the state of a version, under a name.
pub(crate) fn pin(host: &impl Host, name: &str, version: Option<&str>) -> Result<Manifest> {
    host.locked(|writer, view| writer.checkpoint(view))?;
    hold_manifest(host.vfs(), host.path(), host.writing_timeout()?, |_, _| {
        let manifest = match version {
            Some(version) => versions::read(host.vfs(), host.path(), version)?,
            None => Manifest { time: milliseconds(), ..Manifest::read(host.vfs(), host.path())? },
        };
        versions::write(host.vfs(), host.path(), name, &manifest)?;
        Ok(manifest)
    })
}

/// Removes the pin of this name, and the files that only this pin needed.
pub(crate) fn unpin(host: &impl Host, name: &str) -> Result<()> {
    hold_manifest(host.vfs(), host.path(), host.writing_timeout()?, |_, _| {
        versions::remove(host.vfs(), host.path(), name)
    })?;
    Merges::of(host).tidy()
}
