//! Backups: a consistent copy that is itself a store, and restoring one.
//!
//! A backup pins the source's files with a version, gives every file it lacks a second name (a hard
//! link, or a copy on another file system), and replaces its own manifest last. A crash leaves the previous
//! backup, or the new one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exclusive::exclusively;
use super::pins;
use crate::base::{Bug, Error, IoContext, Result, unless};
use crate::format::{hex, random_id, section};
use crate::lock::{LOCK_BACKUP, Lock, Timeout};
use crate::merge::{Host, drop_pins};
use crate::segment::{Pieces, SegmentName, check_unmapped, open_unmapped};
use crate::state::{
    Body, DERIVED, Manifest, PIN_PREFIX, SEGMENTS, SegmentRecord, View, create, derived, if_there, load,
    make_folder, quarantine, remove_own, remove_temporaries, temporaries, versions, write_new,
};
use crate::vfs::{RealFs, Vfs};

/// How much is copied at once.
const COPY_LEN: usize = 1 << 20;
/// Temporary copies in a backup begin with this.
const TMP_PREFIX: &str = "tmp-backup-";

/// What a backup or restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The directory it went to.
    pub path: PathBuf,
    /// Last commit it holds.
    pub last_commit: u64,
    /// Segments that were there already.
    pub kept: usize,
    /// Segments linked: no bytes copied.
    pub linked: usize,
    /// Segments copied.
    pub copied: usize,
    /// Bytes copied.
    pub bytes_copied: u64,
    /// Older rotating backups removed.
    pub removed: usize,
}

/// Copies the store as it is now to `dest`, while writers go on.
pub(crate) fn backup(host: &impl Host, dest: &Path) -> Result<BackupReport> {
    pinned(host, |source| source.transfer(dest, None))
}

/// Runs `work` with everything that is committed now pinned.
pub(crate) fn pinned<T>(host: &impl Host, work: impl FnOnce(&Source<'_>) -> Result<T>) -> Result<T> {
    let timeout = host.writing_timeout("back up")?;
    let mut lock = Lock::open(host.vfs(), &host.path().join(LOCK_BACKUP), "backup")?;
    lock.hold(&timeout, |_| pin_and(host, &timeout, work))
}

fn pin_and<T>(host: &impl Host, timeout: &Timeout, work: impl FnOnce(&Source<'_>) -> Result<T>) -> Result<T> {
    // Those of backups that were killed: only the holder of the lock, which is this one, has a backup under way.
    drop_pins(host.vfs(), host.path(), timeout)?;
    let name = format!("{PIN_PREFIX}{}", hex(&random_id()?));
    pins::pin(host, &name)?;
    let manifest = versions::read(host.vfs(), host.path(), &name);
    let result = manifest.and_then(|manifest| {
        work(&Source { vfs: host.vfs(), dir: host.path(), manifest, timeout: timeout.clone() })
    });
    let dropped = pins::unpin(host, &name);
    let result = result?;
    dropped.map(|()| result)
}

/// A pinned state to be copied.
pub(crate) struct Source<'a> {
    pub vfs: &'a dyn Vfs,
    dir: &'a Path,
    pub manifest: Manifest,
    timeout: Timeout,
}

impl Source<'_> {
    /// Brings `dest` to the pinned state. Files that `sibling` (another backup) has are linked from there.
    pub fn transfer(&self, dest: &Path, sibling: Option<&Path>) -> Result<BackupReport> {
        let mut report = BackupReport {
            path: dest.to_owned(),
            last_commit: self.manifest.body.last_commit(),
            ..BackupReport::default()
        };
        let mut manifest = self.manifest.clone();
        manifest.body.is_backup = true;
        // Of its own copies nothing is known.
        manifest.body.damaged.clear();
        match Manifest::read(self.vfs, dest) {
            Ok(there) => {
                self.may_continue(dest, &there)?;
                // Its maker may have died before its name was flushed.
                create::flush_name(self.vfs, dest)?;
                // One backup at a time into a destination; and a store is no backup of itself.
                let mut lock = Lock::open(self.vfs, &dest.join(LOCK_BACKUP), "backup")?;
                lock.hold(Duration::ZERO, |_| {
                    remove_temporaries(self.vfs, &dest.join(SEGMENTS), TMP_PREFIX);
                    self.fill(dest, sibling, &mut manifest, &mut report)?;
                    self.list(dest, &mut manifest)
                })?;
            }
            Err(Error::NotFound { .. } | Error::NotAStore { .. }) => {
                create::place(self.vfs, dest, manifest, |building, manifest| {
                    self.fill(building, sibling, manifest, &mut report)
                })?;
            }
            Err(other) => return Err(other),
        }
        Ok(report)
    }

    /// Replaces the destination's manifest while nothing else changes the destination.
    fn list(&self, dest: &Path, manifest: &mut Manifest) -> Result<()> {
        exclusively(self.vfs, dest, &self.timeout, |lock, _| {
            let listed = self.list_under_locks(dest, manifest);
            // A new manifest may be visible, and its name not durable: what only the former one lists must
            // stay.
            match &listed {
                Ok(()) => lock.clear_suspect(),
                Err(_) if Bug::NoBackupMark.is_on() => {}
                Err(_) => lock.mark_suspect(1),
            }
            listed
        })
    }

    /// Refuses a destination whose content is not an earlier state of this store.
    fn may_continue(&self, dest: &Path, there: &Manifest) -> Result<()> {
        let (ours, theirs) = (&self.manifest.body, &there.body);
        let reason = if ours.store_id != theirs.store_id {
            "it holds another store"
        } else if !theirs.is_backup {
            "it has been written to, and is no backup any more"
        } else if self.has_other_commits(theirs) {
            "it holds commits that this store does not have (was this store restored?)"
        } else {
            return Ok(());
        };
        Err(Error::bad_input(format!(
            "{}: cannot back up into this directory: {reason}; choose another one",
            dest.display()
        )))
    }

    /// True when a backup holds commits of a history that is not this store's.
    fn has_other_commits(&self, theirs: &Body) -> bool {
        let ours = &self.manifest.body;
        let last = theirs.last_commit();
        // An epoch that has no commit yet says nothing of any; and a manifest that had to be rebuilt cannot
        // know of it.
        let begun = theirs.epochs.iter().take_while(|epoch| epoch.first <= last).count();
        let epochs = theirs.epochs.get(..begun).unwrap_or_default();
        // This store went on in a new epoch from an earlier commit than the backup's last.
        let left = ours.epochs.get(begun).is_some_and(|epoch| last >= epoch.first);
        let differs = theirs.segments.iter().any(|record| {
            let same = ours.segments.iter().find(|same| same.last == record.last);
            same.is_some_and(|same| same.link_out != record.link_out)
        });
        left || differs || !ours.epochs.starts_with(epochs) || last > ours.last_commit()
    }

    /// Gives `dest` every file the pinned state lists, durably. What cannot be had of the derived files is not listed.
    fn fill(
        &self,
        dest: &Path,
        sibling: Option<&Path>,
        manifest: &mut Manifest,
        report: &mut BackupReport,
    ) -> Result<()> {
        self.give_derived(dest, sibling, &mut manifest.body)?;
        let mut given = Vec::new();
        let filled = self.give(dest, sibling, report, &mut given);
        // The kernel reports a lost name once, and the next attempt's flush would claim that these are durable: so
        // they go, but for those that a writer of the destination has given to files of its own.
        let is_ours =
            |(path, record): &&(PathBuf, SegmentRecord)| self.is_same(path, record).unwrap_or(false);
        let take_back = |(path, _): &(PathBuf, SegmentRecord)| remove_own(self.vfs, path);
        filled.inspect_err(|_| given.iter().filter(is_ours).for_each(take_back))
    }

    fn give(
        &self,
        dest: &Path,
        sibling: Option<&Path>,
        report: &mut BackupReport,
        given: &mut Vec<(PathBuf, SegmentRecord)>,
    ) -> Result<()> {
        let segments = dest.join(SEGMENTS);
        for record in &self.manifest.body.segments {
            let name = record.name().to_string();
            let to = segments.join(&name);
            if if_there(self.vfs.metadata(&to)).at(&to, "look at the file")?.is_some() {
                if !self.is_same(&to, record)? {
                    let detail = "the backup has another file of this name than the store".to_owned();
                    return Err(Error::ForeignSegment { path: to, detail });
                }
                report.kept += 1;
                continue;
            }
            let beside = sibling.map(|sibling| sibling.join(SEGMENTS).join(&name));
            let from = self.dir.join(SEGMENTS).join(&name);
            let linked = [Some(&from), beside.as_ref()].into_iter().flatten().any(|source| {
                (source == &from || self.is_same(source, record).unwrap_or(false))
                    && self.vfs.link(source, &to).is_ok()
            });
            // Also where it fails: the name may have been given.
            given.push((to.clone(), *record));
            if linked {
                report.linked += 1;
            } else {
                copy(self.vfs, &from, &segments, &to)?;
                report.copied += 1;
                report.bytes_copied += record.file_len;
            }
        }
        self.vfs.flush_dir(&segments).at(&segments, "flush the directory")
    }

    /// A file that cannot be had is not listed. A flush that fails fails the backup: it may have lost the names beside.
    fn give_derived(&self, dest: &Path, sibling: Option<&Path>, body: &mut Body) -> Result<()> {
        if body.derived.is_empty() {
            return Ok(());
        }
        let vfs = self.vfs;
        let folder = make_folder(vfs, dest, DERIVED, true)?;
        remove_temporaries(vfs, &folder, TMP_PREFIX);
        let mut given = Vec::new();
        derived::keep(body, |record| {
            let name = record.name().to_string();
            let to = folder.join(&name);
            if vfs.metadata(&to).is_ok() {
                return true;
            }
            let from =
                [Some(self.dir), sibling].into_iter().flatten().map(|dir| dir.join(DERIVED).join(&name));
            let from: Vec<PathBuf> = from.collect();
            given.push(to.clone());
            from.iter().any(|from| vfs.link(from, &to).is_ok())
                || from.iter().any(|from| copy(vfs, from, &folder, &to).is_ok())
        });
        let flushed = vfs.flush_dir(&folder).at(&folder, "flush the directory");
        flushed.inspect_err(|_| given.iter().for_each(|path| remove_own(vfs, path)))
    }

    /// An error when the file cannot be read: that says nothing about what is in it.
    fn is_same(&self, path: &Path, record: &SegmentRecord) -> Result<bool> {
        match open_unmapped(self.vfs, path, record.name(), &[section::RUNS, section::SETT]) {
            Ok(segment) => Ok(SegmentRecord::of(&segment) == *record),
            Err(error @ Error::Io { .. }) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Replaces the destination's manifest, and removes what only the former one needed.
    fn list_under_locks(&self, dest: &Path, manifest: &mut Manifest) -> Result<()> {
        let vfs = self.vfs;
        // It may have been written to while its files were brought.
        let there = Manifest::read(vfs, dest)?;
        self.may_continue(dest, &there)?;
        manifest.generation = manifest.generation.max(there.generation + 1);
        let mut needed: Vec<SegmentName> = manifest.body.names().collect();
        for version in versions::read_all(vfs, dest)? {
            needed.extend(version.manifest.body.names());
        }
        // Manifests that a backup was killed in; its lock is ours now.
        remove_temporaries(vfs, dest, temporaries::TMP_PREFIX);
        manifest.write(vfs, dest)?;
        derived::remove_unlisted(vfs, dest, manifest, derived::list(vfs, dest))?;
        let mut gone = load::list_segments(vfs, dest)?;
        gone.retain(|name| !needed.contains(name));
        // Where the source has lost entries, the backup may have the only copy.
        let missing = quarantine::with_what_is_missing(vfs, dest, &manifest.body.segments, &gone)?;
        quarantine::set_aside(vfs, dest, &missing)?;
        for name in gone.iter().filter(|name| !missing.contains(name)) {
            remove_own(vfs, &dest.join(SEGMENTS).join(name.to_string()));
        }
        if !missing.is_empty() {
            log::warn!(
                "{}: {} segment(s) moved to quarantine/: they may hold what a repair of the store had to give up",
                dest.display(),
                missing.len()
            );
        }
        Ok(())
    }
}

/// Copies a file under a temporary name, flushed before it gets its own. It is not mapped: a sector that
/// cannot be read is an error that says which.
fn copy(vfs: &dyn Vfs, from: &Path, dir: &Path, to: &Path) -> Result<()> {
    let mut pieces = Pieces::open(vfs, from).at(from, "open the segment")?;
    let len = pieces.len();
    let mut unreadable = None;
    let written = write_new(vfs, (dir, TMP_PREFIX), len as u64, "copy the segment", |file| {
        for start in (0..len).step_by(COPY_LEN) {
            match pieces.read(start..len.min(start.saturating_add(COPY_LEN))) {
                Ok(piece) => file.write_all(piece)?,
                Err(found) => {
                    unreadable = Some(found.at(from));
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        file.flush()
    });
    let (tmp, ()) = written.map_err(|error| unreadable.unwrap_or(error))?;
    vfs.rename_noreplace(&tmp, to).inspect_err(|_| remove_own(vfs, &tmp)).at(to, "name the copy")
}

/// Makes a store at `dir` from a backup (or from any store at rest): every byte is checked and copied, and
/// the new store begins an epoch of its own, so that later segments of the two can never be mixed up.
///
/// # Errors
/// [`Error::AlreadyExists`] when something is at `dir`; [`Error::Damaged`] when the backup is, with nothing
/// left at `dir`; otherwise as for opening and creating.
pub fn restore(backup: impl AsRef<Path>, dir: impl AsRef<Path>) -> Result<BackupReport> {
    restore_with(&RealFs, backup.as_ref(), dir.as_ref())
}

/// [`restore`] through another file system; for tests.
#[doc(hidden)]
pub fn restore_with(vfs: &dyn Vfs, backup: &Path, dir: &Path) -> Result<BackupReport> {
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
        for live in &view.segments {
            let (from, name) = (live.segment.path(), live.segment.name());
            // What cannot be read is told by copying: that is no damage of the file.
            copy(vfs, from, &segments, &segments.join(name.to_string()))?;
            unless(Bug::TrustBackup, || check_unmapped(vfs, from, name))?;
            report.copied += 1;
            report.bytes_copied += live.segment.footer().file_len;
        }
        // Their names are flushed with those of the rest.
        Ok(())
    })?;
    Ok(report)
}
