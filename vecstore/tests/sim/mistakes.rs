//! Mistakes in a program's calls to the disk, to show that the tests notice them: flushes left out, calls in
//! a wrong order, failures handled wrongly. `VECSTORE_DISK_BUG` names the mistake to make;
//! `scripts/check-bugs` runs for each mistake the test that must fail.
//!
//! The program itself stays right. The simulated disk leaves a flush out of its record, or changes the order
//! of its record, so that the power cuts tried are those of a program that makes the mistake.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::disk::Disk;
use super::run::{BACKUP, DATED, STORE};
use super::{Ino, Op};

macro_rules! mistakes {
    ($($(#[$doc:meta])* $variant:ident $name:literal)*) => {
        /// A mistake that a program of this kind could make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mistake {
            $($(#[$doc])* $variant,)*
        }

        const ALL: &[(&str, Mistake)] = &[$(($name, Mistake::$variant),)*];
    };
}

mistakes! {
    // Flushes left out.

    /// The data of a committed segment is not flushed.
    SegmentData "segment-data"
    /// The data of a segment that is written anew because its name was in doubt is not flushed.
    RewrittenData "rewritten-data"
    /// The data of a merge's output is not flushed.
    MergedData "merged-data"
    /// The name of a committed segment is not flushed.
    SegmentName "segment-name"
    /// The names of segments that are written anew are not flushed before the originals are removed.
    RewrittenName "rewritten-name"
    /// The name of a merge's output is not flushed before a manifest lists it.
    MergedName "merged-name"
    /// The data of a manifest is not flushed.
    ManifestData "manifest-data"
    /// The name of a checkpoint's manifest is not flushed.
    ManifestName "manifest-name"
    /// The name of a merge's manifest is not flushed before the inputs are removed.
    MergeManifestName "merge-manifest-name"
    /// The names in a new store's directory are not flushed.
    NewNames "new-names"
    /// The names of the segments of a new backup or a restored store are not flushed.
    NewSegmentNames "new-segment-names"
    /// The name of a new store is not flushed.
    NewName "new-name"
    /// The names in an empty directory that becomes a store are not flushed before its manifest is named.
    InsideNames "inside-names"
    /// An opener for writing does not flush the store's name.
    OpenedName "opened-name"
    /// An opener for writing does not flush the names of the segments whose keys it may skip.
    OpenedNames "opened-names"
    /// A writer that refreshes does not flush the names of the segments whose keys it may skip.
    RefreshedNames "refreshed-names"
    /// The data of a copied segment is not flushed.
    CopiedData "copied-data"
    /// The names of a backup's new segments are not flushed before its manifest lists them.
    BackupNames "backup-names"
    /// The name of a backup's manifest is not flushed before the files that it does not list are removed.
    BackupManifestName "backup-manifest-name"
    /// The hidden name of an old backup is not flushed before its files are removed.
    HiddenName "hidden-name"
    /// The data of a version is not flushed.
    NamedData "named-data"
    /// The name of a version is not flushed.
    NamedName "named-name"
    /// The name of the new directory versions/ is not flushed.
    NamedFolder "named-folder"
    /// The removal of a version is not flushed.
    DroppedName "dropped-name"
    /// A merger removes the files of a removed version before the removal is flushed.
    FoundDropped "found-dropped"
    /// The data of a derived file is not flushed.
    DerivedData "derived-data"
    /// The name of a derived file is not flushed before a manifest lists it.
    DerivedName "derived-name"
    /// The name of the new directory derived/ is not flushed.
    DerivedFolder "derived-folder"
    /// The data of a segment that a repair writes is not flushed.
    RepairedData "repaired-data"
    /// The data of a version that a repair replaces is not flushed.
    RepairedFile "repaired-file"
    /// The name of a segment that a repair writes is not flushed before a manifest lists it.
    RepairedName "repaired-name"
    /// The names of files in quarantine are not flushed before their original names are removed.
    QuarantinedName "quarantined-name"
    /// The name of the new directory quarantine/ is not flushed.
    QuarantineFolder "quarantine-folder"

    // Wrong orders.

    /// A segment gets its name before its data is flushed.
    NameBeforeData "name-before-data"
    /// The directory of segments is flushed before the segment is named.
    FlushBeforeName "flush-before-name"
    /// The commit lock is released before the name of the segment is flushed.
    UnlockBeforeFlush "unlock-before-flush"
    /// A merge's output is listed before its name is flushed.
    ListBeforeName "list-before-name"
    /// A merge's inputs are removed before the manifest lists the output.
    RemoveBeforeList "remove-before-list"
    /// A backup's manifest is replaced before its new segments have their names.
    BackupListsFirst "backup-lists-first"
    /// An old backup is not hidden under another name before its files are removed.
    RemoveInPlace "remove-in-place"
    /// A repair removes damaged files before the files that replace them have their names.
    RepairRemovesFirst "repair-removes-first"
    /// The manifest is written in place.
    ManifestInPlace "manifest-in-place"
    /// Superseded bitmaps are removed before the manifest that lists newer ones is durable.
    RemoveBitmapsEarly "remove-bitmaps-early"
    /// A new store is built under its final name.
    BuildInPlace "build-in-place"

    // Failures handled wrongly.

    /// A failed flush of a temporary file is tried again.
    RetryFile "retry-file"
    /// A failed flush of a directory is tried again.
    RetryDirectory "retry-directory"
    /// A version whose flush failed is flushed again instead of being written anew.
    FlushNamedAgain "flush-named-again"
    /// A temporary file that could not be written stays.
    KeepTemporary "keep-temporary"
    /// The names that a backup gave before a failed flush are kept.
    KeepGiven "keep-given"
    /// A new segment replaces another file of the same name.
    ReplaceName "replace-name"
}

use Mistake::*;

/// The mistake to make. An unknown name ends the process, so that a run without the mistake is not taken for
/// one with it.
pub fn made() -> Option<Mistake> {
    static MADE: OnceLock<Option<Mistake>> = OnceLock::new();
    *MADE.get_or_init(|| {
        let wanted = std::env::var("VECSTORE_DISK_BUG").ok().filter(|wanted| !wanted.is_empty())?;
        let found = ALL.iter().find(|(name, _)| *name == wanted).map(|(_, mistake)| *mistake);
        if found.is_none() {
            eprintln!("VECSTORE_DISK_BUG: there is no mistake called \"{wanted}\"");
            std::process::exit(2);
        }
        found
    })
}

pub fn is_made(mistake: Mistake) -> bool {
    made() == Some(mistake)
}

/// A change of a process to the names of a directory that the process has not flushed since.
#[derive(Clone, Debug)]
pub enum Done {
    Named { from: OsString, to: OsString },
    Linked,
    MadeFolder(OsString),
    Removed,
}

/// State of the mistakes: unflushed changes of directories, and records put off.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    unflushed: HashMap<(usize, Ino), Vec<Done>>,
    /// Place in the log where the unflushed changes begin.
    began: HashMap<(usize, Ino), usize>,
    /// Flushes to be recorded later.
    late: Vec<Op>,
    /// Hidden names whose renames were left out of the log, and the original names.
    hidden: HashMap<OsString, OsString>,
}

fn begins(name: &OsStr, with: &str) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(with))
}

/// True for the temporary segment of a commit; false for the other segments written under the commit lock.
fn is_commit(name: &OsStr) -> bool {
    begins(name, "tmp-commit-") && !is_anew(name) && !is_repaired(name)
}

fn is_anew(name: &OsStr) -> bool {
    begins(name, "tmp-commit-anew-")
}

fn is_repaired(name: &OsStr) -> bool {
    begins(name, "tmp-commit-repair-")
}

fn is_merged(name: &OsStr) -> bool {
    begins(name, "tmp-merge-")
}

fn is_backup(path: &Path) -> bool {
    path.starts_with(BACKUP) || path.starts_with(DATED)
}

fn is_new(path: &Path) -> bool {
    path.to_string_lossy().contains(".creating-")
}

/// True if the mistake leaves out the flush of this file.
pub fn leaves_out_file(path: &Path) -> bool {
    let (Some(mistake), Some(name)) = (made(), path.file_name()) else { return false };
    let within = |folder: &str| path.parent().is_some_and(|dir| dir.ends_with(folder));
    let is_manifest = begins(name, "tmp-manifest-");
    match mistake {
        SegmentData => is_commit(name),
        RewrittenData => is_anew(name),
        MergedData => is_merged(name),
        ManifestData => is_manifest && !within("versions") && !within("derived") && !within("quarantine"),
        NamedData | RepairedFile => is_manifest && within("versions"),
        DerivedData => is_manifest && within("derived"),
        CopiedData => begins(name, "tmp-backup-"),
        RepairedData => is_repaired(name),
        _ => false,
    }
}

/// True if the mistake leaves out this flush of a directory.
fn leaves_out_dir(disk: &Disk, process: usize, dir: Ino, path: &Path) -> bool {
    let Some(mistake) = made() else { return false };
    let none = Vec::new();
    let done = disk.notes.unflushed.get(&(process, dir)).unwrap_or(&none);
    let named = |which: &dyn Fn(&OsStr, &OsStr) -> bool| {
        done.iter().any(|done| matches!(done, Done::Named { from, to } if which(from, to)))
    };
    let made = |name: &str| done.iter().any(|done| matches!(done, Done::MadeFolder(made) if made == name));
    let lists = || named(&|_, to| to == "MANIFEST") && !is_new(path);
    let holds = |lock: &str| disk.holds(process, &Path::new(STORE).join(lock));
    let is_store = path == Path::new(STORE);
    match mistake {
        SegmentName => named(&|from, _| is_commit(from)),
        RewrittenName => named(&|from, _| is_anew(from)),
        MergedName => named(&|from, _| is_merged(from)),
        ManifestName => lists() && !is_backup(path) && holds("LOCK"),
        MergeManifestName => lists() && !is_backup(path) && !holds("LOCK"),
        NewNames => is_new(path) && !path.ends_with("segments"),
        NewSegmentNames => is_new(path) && path.ends_with("segments"),
        InsideNames => is_store && made("segments"),
        NewName => named(&|from, _| is_new(Path::new(from))),
        OpenedName => path == Path::new("/d") && done.is_empty(),
        OpenedNames | RefreshedNames => done.is_empty() && (is_store || path.ends_with("segments")),
        BackupNames => {
            let given = done.iter().any(|done| matches!(done, Done::Linked));
            is_backup(path) && path.ends_with("segments") && (given || named(&|_, _| true))
        }
        BackupManifestName => lists() && is_backup(path),
        HiddenName => named(&|_, to| to.to_string_lossy().contains(".removing-")),
        NamedName => path.ends_with("versions") && named(&|_, _| true),
        NamedFolder => made("versions"),
        DroppedName => path.ends_with("versions") && done.iter().any(|done| matches!(done, Done::Removed)),
        FoundDropped => path.ends_with("versions") && done.is_empty(),
        DerivedName => path.ends_with("derived") && named(&|_, _| true),
        DerivedFolder => made("derived"),
        RepairedName => named(&|from, _| is_repaired(from)),
        QuarantinedName => path.ends_with("quarantine"),
        QuarantineFolder => made("quarantine"),
        _ => false,
    }
}

/// Notes the change that a call made to the names of a directory.
fn note(disk: &mut Disk, process: usize, dir: Ino, done: Done) {
    let at = disk.log.len();
    let unflushed = disk.notes.unflushed.entry((process, dir)).or_default();
    if unflushed.is_empty() {
        disk.notes.began.insert((process, dir), at);
    }
    unflushed.push(done);
}

pub(super) fn linked(disk: &mut Disk, process: usize, dir: Ino) {
    note(disk, process, dir, Done::Linked);
}

pub(super) fn made_folder(disk: &mut Disk, process: usize, path: &Path) {
    if let Ok((dir, name)) = disk.place(path) {
        note(disk, process, dir, Done::MadeFolder(name));
    }
}

/// Moves the records from `from` on that satisfy `is_moved` to an earlier place.
fn move_before(disk: &mut Disk, at: usize, from: usize, is_moved: impl Fn(&Op) -> bool) {
    let later = disk.log.split_off(from);
    let between = disk.log.split_off(at);
    let (moved, rest): (Vec<Op>, Vec<Op>) = later.into_iter().partition(is_moved);
    disk.log.extend(moved);
    disk.log.extend(between);
    disk.log.extend(rest);
}

/// Place of the last record that satisfies `is_it`.
fn last(disk: &Disk, is_it: impl Fn(&Op) -> bool) -> Option<usize> {
    disk.log.iter().rposition(is_it)
}

/// Notes a rename that was just recorded, and makes the mistake if it is one about renames.
pub(super) fn renamed(disk: &mut Disk, process: usize, from: &Path, to: &Path, before: usize) {
    let (Ok((dir, name)), Some(old)) = (disk.place(to), from.file_name().map(OsStr::to_owned)) else {
        return;
    };
    let at = disk.log.len();
    let unflushed = disk.notes.unflushed.entry((process, dir)).or_default();
    if unflushed.is_empty() {
        disk.notes.began.insert((process, dir), before);
    }
    unflushed.push(Done::Named { from: old.clone(), to: name.clone() });
    let Some(mistake) = made() else { return };
    let Some(ino) = disk.names(dir).get(&name).copied() else { return };
    let is_rename = |op: &Op| matches!(op, Op::Rename { ino: renamed, .. } if *renamed == ino);
    let is_added = |op: &Op| matches!(op, Op::Add { ino: added, .. } if *added == ino);
    let is_flush = |op: &Op| matches!(op, Op::Flush { ino: flushed, .. } if *flushed == ino);
    let of_file = |op: &Op| match op {
        Op::Write { ino: changed, .. } | Op::Flush { ino: changed, .. } => *changed == ino,
        op => is_rename(op) || is_added(op),
    };
    let is_list = name == "MANIFEST" && !is_new(to);
    match mistake {
        NameBeforeData if is_commit(&old) => {
            if let Some(flush) = last(disk, is_flush) {
                move_before(disk, flush, flush + 1, is_rename);
            }
        }
        UnlockBeforeFlush if is_commit(&old) => give_back(disk, &Path::new(STORE).join("LOCK")),
        ManifestInPlace if is_list => {
            if let Some(added) = last(disk, is_added) {
                move_before(disk, added + 1, added + 1, is_rename);
            }
        }
        BuildInPlace if is_new(from) => {
            if let Some(added) = last(disk, is_added) {
                move_before(disk, added + 1, added + 1, is_rename);
            }
        }
        BackupListsFirst if is_list && is_backup(to) => {
            let segments = disk.find(&to.with_file_name("segments")).ok();
            let began = segments.and_then(|segments| disk.notes.began.get(&(process, segments)).copied());
            if let Some(began) = began {
                move_before(disk, began, began, of_file);
            }
        }
        ListBeforeName if is_list => {
            let late = std::mem::take(&mut disk.notes.late);
            disk.log.extend(late);
        }
        FlushNamedAgain if to.parent().is_some_and(|dir| dir.ends_with("versions")) => {
            let is_given = |op: &&Op| matches!(op, Op::Rename { to, .. } if *to == name);
            if disk.log.iter().filter(is_given).count() > 1
                && let Some(again) = last(disk, is_rename)
            {
                disk.log.remove(again);
            }
        }
        RemoveInPlace if name.to_string_lossy().contains(".removing-") => {
            disk.log.truncate(at - 1);
            disk.notes.hidden.insert(name, old);
        }
        _ => {}
    }
}

/// Releases a lock as its holder does: raises the counter in the record, and clears the mark that it is held.
/// See docs/FORMAT.md.
fn give_back(disk: &mut Disk, path: &Path) {
    let (Ok(ino), Ok(record)) = (disk.find(path), disk.file(path)) else { return };
    let mut record = record.to_vec();
    let counter = u64::from_le_bytes(record[8..16].try_into().expect("eight bytes"));
    record[8..16].copy_from_slice(&(counter + 1).to_le_bytes());
    record[32..36].fill(0);
    // The newest pair of the list is zero: this raise of the counter is for no new segment.
    record.copy_within(120..248, 104);
    record[232..248].fill(0);
    let crc = crc32fast::hash(&record[..252]);
    record[252..].copy_from_slice(&crc.to_le_bytes());
    disk.record(Op::Write { ino, offset: 0, data: Arc::new(record) });
    disk.locks.remove(&ino);
}

/// Records the flush of a directory, unless the mistake leaves it out; returns the caller's result.
pub(super) fn flush_dir(
    disk: &mut Disk,
    process: usize,
    dir: Ino,
    path: &Path,
    may: io::Result<()>,
) -> io::Result<()> {
    if leaves_out_dir(disk, process, dir, path) {
        disk.notes.unflushed.remove(&(process, dir));
        return Ok(());
    }
    let done = disk.notes.unflushed.remove(&(process, dir)).unwrap_or_default();
    let from = |which: fn(&OsStr) -> bool| {
        done.iter().any(|done| matches!(done, Done::Named { from, .. } if which(from)))
    };
    let op = Op::FlushDir { dir, ok: may.is_ok() };
    if is_made(ListBeforeName) && from(is_merged) {
        disk.notes.late.push(op);
        return may;
    }
    disk.record(op);
    if is_made(FlushBeforeName) && from(is_commit) {
        let is_rename = |op: &Op| matches!(op, Op::Rename { dir: renamed, .. } if *renamed == dir);
        if let Some(rename) = last(disk, is_rename) {
            let is_flush = |op: &Op| matches!(op, Op::FlushDir { dir: flushed, .. } if *flushed == dir);
            move_before(disk, rename, rename + 1, is_flush);
        }
    }
    if is_made(RetryDirectory) && may.is_err() {
        disk.record(Op::FlushDir { dir, ok: true });
        return Ok(());
    }
    may
}

/// Records the removal of a name, unless the mistake keeps the name.
pub(super) fn removed(disk: &mut Disk, process: usize, path: &Path) -> io::Result<()> {
    let (dir, name) = disk.place(path)?;
    let stays = match made() {
        Some(KeepTemporary) => begins(&name, "tmp-"),
        Some(KeepGiven) => is_backup(path) && path.parent().is_some_and(|dir| dir.ends_with("segments")),
        _ => false,
    };
    if stays {
        return Ok(());
    }
    let began = disk.notes.began.get(&(process, dir)).copied();
    note(disk, process, dir, Done::Removed);
    disk.record(Op::Remove { dir, name: name.clone() });
    let at = disk.log.len() - 1;
    let within = |folder| path.parent().is_some_and(|dir| dir.ends_with(folder)) && !begins(&name, "tmp-");
    let (is_segment, is_bitmap) = (within("segments"), within("derived"));
    match made() {
        Some(RemoveInPlace) => {
            if let (Some(shown), Some(Op::Remove { name, .. })) =
                (disk.notes.hidden.get(&name).cloned(), disk.log.last_mut())
            {
                *name = shown;
            }
        }
        // The removal is recorded just before the rename that lists the output.
        Some(RemoveBeforeList) if is_segment && !disk.holds(process, &Path::new(STORE).join("LOCK")) => {
            let is_list = |op: &Op| matches!(op, Op::Rename { to, .. } if to == "MANIFEST");
            if let Some(listed) = last(disk, is_list) {
                move_before(disk, listed, at, |_| true);
            }
        }
        Some(RemoveBitmapsEarly) if is_bitmap => {
            let is_list = |op: &Op| matches!(op, Op::Rename { to, .. } if to == "MANIFEST");
            if let Some(listed) = last(disk, is_list) {
                move_before(disk, listed, at, |_| true);
            }
        }
        Some(RepairRemovesFirst) if is_segment => {
            if let Some(began) = began.filter(|began| *began < at) {
                move_before(disk, began, at, |_| true);
            }
        }
        _ => {}
    }
    Ok(())
}
