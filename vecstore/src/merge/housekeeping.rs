//! Which segment files exist, which of them are needed, and which are leftovers.

use crate::lock::LOCK_BACKUP;
use crate::state::{PIN_PREFIX, quarantine, remove_own, remove_temporaries, temporaries};
use std::collections::HashSet;
use std::path::Path;

use super::run::TMP_PREFIX;
use crate::base::{Bug, IoContext, Result};
use crate::lock::{Lock, Timeout, hold_manifest};
use crate::segment::SegmentName;
use crate::state::{DERIVED, Manifest, SEGMENTS, VERSIONS, derived, load, versions};
use crate::vfs::Vfs;

/// The segment files that exist, and those that the manifest or a version needs.
///
/// Read under the manifest lock. Versions are copies of the manifest, made under the same lock: so a free
/// file stays free.
#[derive(Debug)]
pub(super) struct Files {
    present: Vec<SegmentName>,
    listed: HashSet<SegmentName>,
    pinned: HashSet<SegmentName>,
    listed_last: u64,
}

impl Files {
    /// Reads directory, manifest and versions. An unreadable version is an error: the files that it needs are
    /// unknown.
    pub fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Self> {
        let manifest = Manifest::read(vfs, dir)?;
        let present = load::list_segments(vfs, dir)?;
        let mut pinned = HashSet::new();
        for version in versions::read_all(vfs, dir)? {
            pinned.extend(version.manifest.body.names());
        }
        Ok(Files {
            present,
            listed: manifest.body.names().collect(),
            pinned,
            listed_last: manifest.body.last_commit(),
        })
    }

    /// True if neither the manifest nor a version lists the file.
    fn is_free(&self, name: &SegmentName) -> bool {
        !self.listed.contains(name) && (!self.pinned.contains(name) || Bug::IgnorePins.is_on())
    }

    /// The files among `names` that neither the manifest nor a version lists.
    pub fn unlisted(&self, names: impl Iterator<Item = SegmentName>) -> Vec<SegmentName> {
        names.filter(|name| self.is_free(name)).collect()
    }

    /// Files of an interrupted merge, free and within the manifest's range: inputs not yet removed, or an
    /// output not yet listed. None if a listed file is missing: a free file may be all that is left of its
    /// rows.
    fn leftovers(&self) -> Vec<SegmentName> {
        let present: HashSet<&SegmentName> = self.present.iter().collect();
        if !self.listed.iter().all(|name| present.contains(name)) {
            return Vec::new();
        }
        self.unlisted(self.present.iter().copied().filter(|name| name.last <= self.listed_last))
    }
}

/// Drops the pins of killed backups; a live backup holds the backup lock. That lock comes before the locks of
/// mergers, which the caller holds, so it is only tried.
pub(super) fn drop_dead_pins(vfs: &dyn Vfs, dir: &Path, timeout: &Timeout) -> Result<()> {
    let pins = versions::names(vfs, dir)?;
    if !pins.iter().any(|name| name.starts_with(PIN_PREFIX)) {
        return Ok(());
    }
    let mut backup = Lock::open(vfs, &dir.join(LOCK_BACKUP), "backup")?;
    if backup.try_acquire()?.is_none() {
        return Ok(());
    }
    let result = drop_pins(vfs, dir, timeout);
    backup.release();
    result
}

/// Drops the pins of backups. Called by the holder of the backup lock.
pub(crate) fn drop_pins(vfs: &dyn Vfs, dir: &Path, timeout: &Timeout) -> Result<()> {
    hold_manifest(vfs, dir, timeout, |_, _| {
        let names = versions::names(vfs, dir)?;
        let mut pins = names.iter().filter(|name| name.starts_with(PIN_PREFIX));
        pins.try_for_each(|name| versions::remove(vfs, dir, name))
    })
}

/// Removes the leftovers of interrupted merges. Called under the locks of both lanes.
pub(super) fn remove_leftovers(vfs: &dyn Vfs, dir: &Path, timeout: &Timeout) -> Result<()> {
    for folder in [SEGMENTS, DERIVED] {
        remove_temporaries(vfs, &dir.join(folder), TMP_PREFIX);
    }
    let removed = hold_manifest(vfs, dir, timeout, |lock, in_doubt| {
        let durable = durable_manifest(vfs, dir, in_doubt);
        match &durable {
            Ok(_) => lock.clear_suspect(),
            Err(_) => lock.mark_suspect(1),
        }
        for folder in [dir, &dir.join(DERIVED), &dir.join(VERSIONS)] {
            remove_temporaries(vfs, folder, temporaries::TMP_PREFIX);
        }
        let (manifest, files) = (durable?, Files::read(vfs, dir)?);
        let mut leftovers = files.leftovers();
        // A leftover may have been put back by hand after a repair gave its entries up as lost: it is kept in
        // quarantine.
        let missing = quarantine::with_what_is_missing(vfs, dir, &manifest.body.segments, &leftovers)?;
        quarantine::set_aside(vfs, dir, &missing)?;
        leftovers.retain(|name| !missing.contains(name));
        leftovers.iter().for_each(|name| remove_own(vfs, &dir.join(SEGMENTS).join(name.to_string())));
        Ok(leftovers.len() + derived::remove_unlisted(vfs, dir, &manifest, derived::list(vfs, dir))?)
    })?;
    if removed > 0 {
        log::info!("removed {removed} file(s) that an interrupted merge or checkpoint had left");
    }
    Ok(())
}

/// Reads the manifest and makes its name durable: the writer of a visible manifest may have died before
/// flushing it. A manifest whose flush failed is never flushed again, but written anew.
fn durable_manifest(vfs: &dyn Vfs, dir: &Path, in_doubt: bool) -> Result<Manifest> {
    let mut manifest = Manifest::read(vfs, dir)?;
    if in_doubt && !Bug::TrustManifestName.is_on() {
        manifest.generation += 1;
        manifest.write(vfs, dir)?;
    } else {
        vfs.flush_dir(dir).at(dir, "flush the directory")?;
    }
    Ok(manifest)
}
