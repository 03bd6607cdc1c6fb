//! Restoring: makes a store from a backup.

use std::path::Path;

use super::copy::{COPYING, copy};
use crate::base::{Bug, Part, Progress, Result, unless};
use crate::care::BackupReport;
use crate::segment::check_unmapped;
use crate::state::{Manifest, SEGMENTS, View, create, derived, load};
use crate::vfs::{RealFs, Vfs};

/// Makes a store at `dir` from a backup, or from any store that is not written to meanwhile. Every byte is
/// checked and copied. The new store begins an epoch of its own, so that later segments of the two stores can
/// never be mixed up.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # use vecstore::{Progress, Reader, Store, StoreConfig};
/// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
/// # let backup = dir.path().join("backup");
/// store.backup(&backup)?;
/// vecstore::restore(&backup, dir.path().join("restored"))?;
/// vecstore::restore_with(&backup, dir.path().join("again"), &Progress::new())?;
/// assert!(Reader::open(dir.path().join("restored"))?.snapshot().is_empty());
/// # Ok::<(), vecstore::Error>(())
/// ```
///
/// # Errors
/// [`Error::AlreadyExists`](crate::Error::AlreadyExists) if `dir` is anything but an empty directory;
/// [`Error::Damaged`](crate::Error::Damaged) if the backup is damaged, with nothing left at `dir`; otherwise
/// as for opening and creating a store.
pub fn restore(backup: impl AsRef<Path>, dir: impl AsRef<Path>) -> Result<BackupReport> {
    restore_with(backup, dir, &Progress::new())
}

/// [`restore`] with a [`Progress`] to watch and stop it.
///
/// # Errors
/// As [`restore`]; [`Error::Interrupted`](crate::Error::Interrupted) if it was stopped, with nothing left at
/// `dir`.
pub fn restore_with(
    backup: impl AsRef<Path>,
    dir: impl AsRef<Path>,
    progress: &Progress,
) -> Result<BackupReport> {
    restore_on(&RealFs, backup.as_ref(), dir.as_ref(), progress)
}

/// [`restore_with`] through another file system; for tests.
#[doc(hidden)]
pub fn restore_on(vfs: &dyn Vfs, backup: &Path, dir: &Path, progress: &Progress) -> Result<BackupReport> {
    create::refuse_existing(vfs, dir)?;
    let view: View = load::load_unmapped(vfs, backup)?;
    let mut manifest = Manifest::read(vfs, backup)?;
    manifest.body.list(view.records().collect());
    if !Bug::NoEpochRestored.is_on() {
        manifest.body.begin_epoch()?;
    }
    derived::forget(&mut manifest.body);
    manifest.body.damaged.clear();
    manifest.generation += 1;
    let mut report = BackupReport {
        path: dir.to_owned(),
        last_commit: manifest.body.last_commit(),
        ..BackupReport::default()
    };
    create::place(vfs, dir, manifest, |building, _| {
        let segments = building.join(SEGMENTS);
        // Each file counts twice: it is copied, and its source is checked.
        progress.expect(view.totals.bytes.saturating_mul(2));
        for live in &view.segments {
            let (from, name) = (live.segment.path(), live.segment.name());
            // Copied before it is checked: an unreadable file is an I/O error, and not damage.
            copy(vfs, from, &segments, &segments.join(name.to_string()), Some(progress))?;
            let part = Part::new(progress, COPYING, live.segment.footer().file_len);
            unless(Bug::TrustBackup, || check_unmapped(vfs, from, name, &|bytes| part.worked(bytes)))?;
            part.done()?;
            report.copied += 1;
            report.bytes_copied += live.segment.footer().file_len;
        }
        // The names of the copies are flushed with those of the other files.
        Ok(())
    })?;
    Ok(report)
}
