//! Backups: a consistent copy that is itself a store, and restoring one.
//!
//! A backup pins the store's files with a version, copies (or links) every file that the destination lacks,
//! and replaces the destination's manifest last. A crash leaves the previous backup or the new one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::copy::{COPYING, TMP_PREFIX, copy};
use super::exclusive::exclusively;
use super::pins;
use super::rotate::rotate;
use crate::base::{Bug, Error, IoContext, Progress, Result};
use crate::format::{hex, random_id, section};
use crate::lock::{LOCK_BACKUP, Lock, Timeout};
use crate::merge::{Host, drop_pins};
use crate::segment::{SegmentName, open_unmapped};
use crate::state::{
    Body, DERIVED, Manifest, PIN_PREFIX, SEGMENTS, SegmentRecord, create, derived, if_there, load,
    make_folder, quarantine, remove_own, remove_temporaries, temporaries, versions,
};
use crate::vfs::Vfs;

/// Options of a backup: what it copies, and how.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # use vecstore::{BackupOptions, Progress, Store, StoreConfig};
/// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
/// # store.create_version("v1")?;
/// let progress = Progress::new();
/// let options = BackupOptions::new().at_version("v1").link(false).progress(&progress);
/// let report = store.backup_with(dir.path().join("backup"), options)?;
/// assert_eq!(report.linked, 0);
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct BackupOptions<'a> {
    version: Option<&'a str>,
    pub(super) link: bool,
    keep: Option<usize>,
    progress: Option<&'a Progress>,
}

impl<'a> BackupOptions<'a> {
    /// The defaults: the store's present state, with every file copied, into one directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies the store as it was when this version was created.
    pub fn at_version(mut self, name: &'a str) -> Self {
        self.version = Some(name);
        self
    }

    /// If `link` is true, links files instead of copying them, if the file system can: that takes neither
    /// space nor time. Such a backup survives the deletion of the store, but not a bad sector: store and
    /// backup share the bytes on the disk.
    pub fn link(mut self, link: bool) -> Self {
        self.link = link;
        self
    }

    /// Makes one of several backups side by side, whose names differ only in their digits (`2026-11-30`,
    /// say). Files that the previous backup has are linked from there. Afterwards only the `count` backups of
    /// this store with the latest names are kept; `count` is at least 1.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{BackupOptions, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// for name in ["night-001", "night-002", "night-003"] {
    ///     store.backup_with(dir.path().join("backups").join(name), BackupOptions::new().keep(2))?;
    /// }
    /// assert_eq!(std::fs::read_dir(dir.path().join("backups")).unwrap().count(), 2);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn keep(mut self, count: usize) -> Self {
        self.keep = Some(count);
        self
    }

    /// Counts the copied bytes in `progress`. A backup that is stopped there leaves the destination as it
    /// was.
    pub fn progress(mut self, progress: &'a Progress) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// The report of a backup or restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The destination directory.
    pub path: PathBuf,
    /// Last commit that the destination holds.
    pub last_commit: u64,
    /// Number of segments that the destination had already.
    pub kept: usize,
    /// Number of segments linked: no bytes were copied.
    pub linked: usize,
    /// Number of segments copied.
    pub copied: usize,
    /// Number of bytes copied.
    pub bytes_copied: u64,
    /// Number of older backups removed: see [`BackupOptions::keep`].
    pub removed: usize,
}

/// Copies a state of the store to `dest`, while writers go on.
pub(crate) fn backup(host: &impl Host, dest: &Path, options: BackupOptions<'_>) -> Result<BackupReport> {
    let dest = &std::path::absolute(dest).at(dest, "find the backup's absolute path")?;
    if dest.starts_with(host.path()) {
        let reason = "it lies in the store itself".to_owned();
        return Err(Error::BackupRefused { path: dest.clone(), reason });
    }
    match options.keep {
        Some(keep) => rotate(host, dest, keep, options),
        None => pinned(host, options, |source| source.transfer(dest, None)),
    }
}

/// Pins the state that the options select, and runs `work` with it.
pub(super) fn pinned<T>(
    host: &impl Host,
    options: BackupOptions<'_>,
    work: impl FnOnce(&Source<'_>) -> Result<T>,
) -> Result<T> {
    let timeout = host.writing_timeout()?;
    let mut lock = Lock::open(host.vfs(), &host.path().join(LOCK_BACKUP), "backup")?;
    lock.hold(&timeout, |_| {
        // Pins of killed backups: the holder of the backup lock has the only backup under way.
        drop_pins(host.vfs(), host.path(), &timeout)?;
        let name = format!("{PIN_PREFIX}{}", hex(&random_id()?));
        let manifest = pins::pin(host, &name, options.version)?;
        let (progress, link) = (options.progress, options.link);
        let (vfs, dir, timeout) = (host.vfs(), host.path(), timeout.clone());
        let result = work(&Source { vfs, dir, manifest, timeout, link, progress });
        let dropped = pins::unpin(host, &name);
        let result = result?;
        dropped.map(|()| result)
    })
}

/// A pinned state: the source of a backup.
pub(crate) struct Source<'a> {
    pub vfs: &'a dyn Vfs,
    dir: &'a Path,
    pub manifest: Manifest,
    timeout: Timeout,
    /// True if files of the store may be linked.
    link: bool,
    progress: Option<&'a Progress>,
}

impl Source<'_> {
    /// Brings `dest` to the pinned state. Files may also be linked from `sibling`, another backup.
    pub fn transfer(&self, dest: &Path, sibling: Option<&Path>) -> Result<BackupReport> {
        let mut report = BackupReport {
            path: dest.to_owned(),
            last_commit: self.manifest.body.last_commit(),
            ..BackupReport::default()
        };
        let mut manifest = self.manifest.clone();
        manifest.body.is_backup = true;
        // Nothing is known yet about damage in the destination's own copies.
        manifest.body.damaged.clear();
        match Manifest::read(self.vfs, dest) {
            Ok(there) => {
                self.may_continue(dest, &there)?;
                // The destination's creator may have died before it flushed the destination's name.
                create::flush_name(self.vfs, dest)?;
                // One backup at a time goes into a destination, and no store is backed up into itself.
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
            // The new manifest may be visible without a durable name: files that only the former one lists
            // must stay.
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
        Err(Error::BackupRefused { path: dest.to_owned(), reason: reason.to_owned() })
    }

    /// True if a backup holds commits that are not in this store's history.
    fn has_other_commits(&self, theirs: &Body) -> bool {
        let ours = &self.manifest.body;
        let last = theirs.last_commit();
        // Epochs without a commit hold nothing, and the manifest of a rebuilt store lacks them: they are not
        // compared.
        let begun = theirs.epochs.iter().take_while(|epoch| epoch.first <= last).count();
        let epochs = theirs.epochs.get(..begun).unwrap_or_default();
        // True if this store began a new epoch at a commit that the backup has already.
        let left = ours.epochs.get(begun).is_some_and(|epoch| last >= epoch.first);
        let differs = theirs.segments.iter().any(|record| {
            let same = ours.segments.iter().find(|same| same.last == record.last);
            same.is_some_and(|same| same.link_out != record.link_out)
        });
        left || differs || !ours.epochs.starts_with(epochs) || last > ours.last_commit()
    }

    /// Gives `dest` every file that the pinned state lists, durably. Derived files that can be neither linked
    /// nor copied are not listed.
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
        // The kernel reports a lost name only once: the flush of the next attempt would claim success. So the
        // new names are removed, except names that a writer of the destination has given to its own files.
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
        let bytes = self.manifest.body.segments.iter().map(|record| record.file_len).sum();
        self.progress.inspect(|progress| progress.expect(bytes));
        self.worked(0)?;
        for record in &self.manifest.body.segments {
            let name = record.name().to_string();
            let to = segments.join(&name);
            if if_there(self.vfs.metadata(&to)).at(&to, "look at the file")?.is_some() {
                if !self.is_same(&to, record)? {
                    let detail = "the backup has another file of this name than the store".to_owned();
                    return Err(Error::ForeignSegment { path: to, detail });
                }
                self.worked(record.file_len)?;
                report.kept += 1;
                continue;
            }
            let beside = sibling.map(|sibling| sibling.join(SEGMENTS).join(&name));
            let from = self.dir.join(SEGMENTS).join(&name);
            let is_beside = beside.filter(|beside| self.is_same(beside, record).unwrap_or(false));
            let linked = [self.link.then_some(&from), is_beside.as_ref()]
                .into_iter()
                .flatten()
                .any(|source| self.vfs.link(source, &to).is_ok());
            // Noted even if the link failed: the name may exist all the same.
            given.push((to.clone(), *record));
            if linked {
                self.worked(record.file_len)?;
                report.linked += 1;
            } else {
                copy(self.vfs, &from, &segments, &to, self.progress)?;
                report.copied += 1;
                report.bytes_copied += record.file_len;
            }
        }
        self.vfs.flush_dir(&segments).at(&segments, "flush the directory")
    }

    /// Counts copied bytes. An error after the backup was stopped.
    fn worked(&self, bytes: u64) -> Result<()> {
        self.progress.map_or(Ok(()), |progress| progress.worked(bytes, COPYING))
    }

    /// Gives `dest` the derived files; a file that can be neither linked nor copied is not listed. A failed
    /// flush fails the backup: other names in the directory may be lost.
    fn give_derived(&self, dest: &Path, sibling: Option<&Path>, body: &mut Body) -> Result<()> {
        let vfs = self.vfs;
        // An interrupted backup may have left temporary files, even if no derived file is listed now.
        remove_temporaries(vfs, &dest.join(DERIVED), TMP_PREFIX);
        if body.derived.is_empty() {
            return Ok(());
        }
        let folder = make_folder(vfs, dest, DERIVED, true)?;
        let mut given = Vec::new();
        derived::keep(body, |record| {
            let name = record.name().to_string();
            let to = folder.join(&name);
            if vfs.metadata(&to).is_ok() {
                return true;
            }
            given.push(to.clone());
            let own = self.dir.join(DERIVED).join(&name);
            let beside = sibling.map(|sibling| sibling.join(DERIVED).join(&name));
            let linked = [self.link.then_some(&own), beside.as_ref()].into_iter().flatten();
            linked.into_iter().any(|from| vfs.link(from, &to).is_ok())
                || copy(vfs, &own, &folder, &to, None).is_ok()
        });
        let flushed = vfs.flush_dir(&folder).at(&folder, "flush the directory");
        flushed.inspect_err(|_| given.iter().for_each(|path| remove_own(vfs, path)))
    }

    /// True if the file is the one that `record` lists. An error if the file cannot be read: its content is
    /// then unknown.
    fn is_same(&self, path: &Path, record: &SegmentRecord) -> Result<bool> {
        match open_unmapped(self.vfs, path, record.name(), &[section::RUNS, section::SETT]) {
            Ok(segment) => Ok(SegmentRecord::of(&segment) == *record),
            Err(error @ Error::Io { .. }) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Replaces the destination's manifest, and removes files that only the former manifest needed.
    fn list_under_locks(&self, dest: &Path, manifest: &mut Manifest) -> Result<()> {
        let vfs = self.vfs;
        // The destination may have been written to while files were copied.
        let there = Manifest::read(vfs, dest)?;
        self.may_continue(dest, &there)?;
        manifest.generation = manifest.generation.max(there.generation + 1);
        let mut needed: Vec<SegmentName> = manifest.body.names().collect();
        for version in versions::read_all(vfs, dest)? {
            needed.extend(version.manifest.body.names());
        }
        // Temporary manifests of killed backups: this backup holds the destination's backup lock.
        remove_temporaries(vfs, dest, temporaries::TMP_PREFIX);
        manifest.write(vfs, dest)?;
        derived::remove_unlisted(vfs, dest, manifest, derived::list(vfs, dest))?;
        let mut gone = load::list_segments(vfs, dest)?;
        gone.retain(|name| !needed.contains(name));
        // If the source has lost entries, the backup may have the only copy.
        let missing = quarantine::with_what_is_missing(vfs, dest, &manifest.body.segments, &gone)?;
        quarantine::set_aside(vfs, dest, &missing)?;
        for name in gone.iter().filter(|name| !missing.contains(name)) {
            remove_own(vfs, &dest.join(SEGMENTS).join(name.to_string()));
        }
        if !missing.is_empty() {
            log::warn!(
                "{}: {} segment(s) moved to quarantine/: they may hold entries that a repair of the store \
                 lost",
                dest.display(),
                missing.len()
            );
        }
        Ok(())
    }
}
