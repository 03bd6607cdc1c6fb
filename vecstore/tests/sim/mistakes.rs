//! Mistakes of a program in what it asks of the disk, to show that the tests notice them: flushes left out,
//! calls in a wrong order, failures not taken for what they are. `VECSTORE_DISK_BUG` names the one that is
//! made; `scripts/check-bugs` runs for each the test that has to fail then.
//!
//! The program itself is right. A flush is left out by not recording it, and an order is changed in what is
//! recorded: so the power cuts that are tried are those of the program that makes the mistake.

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
    /// The data of a segment that is written anew, because its name was in doubt, is not flushed.
    RewrittenData "rewritten-data"
    /// The data of a merge's output is not flushed.
    MergedData "merged-data"
    /// The name of a committed segment is not flushed.
    SegmentName "segment-name"
    /// The names of segments that are written anew are not flushed before the originals go.
    RewrittenName "rewritten-name"
    /// The name of a merge's output is not flushed before a manifest lists it.
    MergedName "merged-name"
    /// The data of a manifest is not flushed.
    ManifestData "manifest-data"
    /// The name of a checkpoint's manifest is not flushed.
    ManifestName "manifest-name"
    /// The name of a merge's manifest is not flushed before the inputs go.
    MergeManifestName "merge-manifest-name"
    /// The names in a new store's directory are not flushed.
    NewNames "new-names"
    /// The names of its segments are not flushed, where a new store is restored or a backup.
    NewSegmentNames "new-segment-names"
    /// The name of a new store is not flushed.
    NewName "new-name"
    /// The names in an empty directory that becomes a store are not flushed before its manifest is named.
    InsideNames "inside-names"
    /// An opener for writing does not flush the store's name.
    OpenedName "opened-name"
    /// An opener for writing does not flush the names it will skip keys by.
    OpenedNames "opened-names"
    /// A writer that refreshes does not flush them.
    RefreshedNames "refreshed-names"
    /// The data of a copied segment is not flushed.
    CopiedData "copied-data"
    /// The names of segments that a backup gets are not flushed before its manifest lists them.
    BackupNames "backup-names"
    /// The name of a backup's manifest is not flushed before what it does not list goes.
    BackupManifestName "backup-manifest-name"
    /// The hidden name of an old backup is not flushed before its files go.
    HiddenName "hidden-name"
    /// The data of a version is not flushed.
    NamedData "named-data"
    /// The name of a version is not flushed.
    NamedName "named-name"
    /// The directory of versions is made, and its name not flushed.
    NamedFolder "named-folder"
    /// That a version was dropped is not flushed.
    DroppedName "dropped-name"
    /// A merger that finds a version dropped removes its files before that is flushed.
    FoundDropped "found-dropped"
    /// The data of a liveness bitmap is not flushed.
    BitmapData "bitmap-data"
    /// The name of a liveness bitmap is not flushed before a manifest lists it.
    BitmapName "bitmap-name"
    /// The directory of liveness bitmaps is made, and its name not flushed.
    BitmapFolder "bitmap-folder"
    /// The data of a segment that a repair writes is not flushed.
    RepairedData "repaired-data"
    /// The data of a version that a repair replaces is not flushed.
    RepairedFile "repaired-file"
    /// The name of a segment that a repair writes is not flushed before a manifest lists it.
    RepairedName "repaired-name"
    /// Second names in quarantine are not flushed before the first ones go.
    QuarantinedName "quarantined-name"
    /// The directory quarantine/ is made, and its name not flushed.
    QuarantineFolder "quarantine-folder"

    // Wrong orders.

    /// A segment gets its name before its data is flushed.
    NameBeforeData "name-before-data"
    /// The directory of segments is flushed before the segment is named.
    FlushBeforeName "flush-before-name"
    /// The lock is given back before the name is flushed.
    UnlockBeforeFlush "unlock-before-flush"
    /// A merge's output is listed before its name is flushed.
    ListBeforeName "list-before-name"
    /// A merge's inputs go before the manifest names the output.
    RemoveBeforeList "remove-before-list"
    /// A backup's manifest is replaced before its segments are there.
    BackupListsFirst "backup-lists-first"
    /// The files of an old backup go under its own name.
    RemoveInPlace "remove-in-place"
    /// A repair removes the damaged files before what takes their place has its name.
    RepairRemovesFirst "repair-removes-first"
    /// The manifest is written in place.
    ManifestInPlace "manifest-in-place"
    /// Superseded bitmaps go before the manifest that lists newer ones is durable.
    RemoveBitmapsEarly "remove-bitmaps-early"
    /// A store is built under its own name.
    BuildInPlace "build-in-place"

    // Failures not taken for what they are.

    /// A flush of a temporary file that failed is tried again.
    RetryFile "retry-file"
    /// A flush of a directory that failed is tried again.
    RetryDirectory "retry-directory"
    /// A version whose flush failed is flushed again, and not given anew.
    FlushNamedAgain "flush-named-again"
    /// A temporary file that could not be written stays.
    KeepTemporary "keep-temporary"
    /// Names that a backup gave before a failed flush stay.
    KeepGiven "keep-given"
    /// A segment takes a name that is taken.
    ReplaceName "replace-name"
}

use Mistake::*;

/// The mistake that is made. A name that no mistake has ends the process: a run that tests nothing shall not
/// pass for one that does.
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

/// What a process has done to the names of a directory since it last flushed it.
#[derive(Clone, Debug)]
pub enum Done {
    Named { from: OsString, to: OsString },
    Linked,
    MadeFolder(OsString),
    Removed,
}

/// What processes have done to directories.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    unflushed: HashMap<(usize, Ino), Vec<Done>>,
    /// Where in the log that began.
    began: HashMap<(usize, Ino), usize>,
    /// Flushes that are to be recorded later.
    late: Vec<Op>,
    /// Hidden names that were never given, and the names that they stand for.
    hidden: HashMap<OsString, OsString>,
}

fn begins(name: &OsStr, with: &str) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(with))
}

/// A temporary segment of a commit, and of nothing else that is written under the commit lock.
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

/// The flush of a file that is left out.
pub fn leaves_out_file(path: &Path) -> bool {
    let (Some(mistake), Some(name)) = (made(), path.file_name()) else { return false };
    let within = |folder: &str| path.parent().is_some_and(|dir| dir.ends_with(folder));
    let is_manifest = begins(name, "tmp-manifest-");
    match mistake {
        SegmentData => is_commit(name),
        RewrittenData => is_anew(name),
        MergedData => is_merged(name),
        ManifestData => is_manifest && !within("versions") && !within("live") && !within("quarantine"),
        NamedData | RepairedFile => is_manifest && within("versions"),
        BitmapData => is_manifest && within("live"),
        CopiedData => begins(name, "tmp-backup-"),
        RepairedData => is_repaired(name),
        _ => false,
    }
}

/// The flush of a directory that is left out.
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
        BitmapName => path.ends_with("live") && named(&|_, _| true),
        BitmapFolder => made("live"),
        RepairedName => named(&|from, _| is_repaired(from)),
        QuarantinedName => path.ends_with("quarantine"),
        QuarantineFolder => made("quarantine"),
        _ => false,
    }
}

/// Notes what a call did to the names of a directory.
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

/// Moves what was recorded of a file, and its names, from `from` on to an earlier place.
fn move_before(disk: &mut Disk, at: usize, from: usize, is_moved: impl Fn(&Op) -> bool) {
    let later = disk.log.split_off(from);
    let between = disk.log.split_off(at);
    let (moved, rest): (Vec<Op>, Vec<Op>) = later.into_iter().partition(is_moved);
    disk.log.extend(moved);
    disk.log.extend(between);
    disk.log.extend(rest);
}

/// Where the last operation was recorded that this says.
fn last(disk: &Disk, is_it: impl Fn(&Op) -> bool) -> Option<usize> {
    disk.log.iter().rposition(is_it)
}

/// To be called after a rename was recorded.
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

/// Gives a lock back as its holder does: the record counts one more change, and says that there is no holder.
/// See docs/FORMAT.md.
fn give_back(disk: &mut Disk, path: &Path) {
    let (Ok(ino), Ok(record)) = (disk.find(path), disk.file(path)) else { return };
    let mut record = record.to_vec();
    let counter = u64::from_le_bytes(record[8..16].try_into().expect("eight bytes"));
    record[8..16].copy_from_slice(&(counter + 1).to_le_bytes());
    record[32..36].fill(0);
    // No commit stands for it.
    record.copy_within(120..248, 104);
    record[232..248].fill(0);
    let crc = crc32fast::hash(&record[..252]);
    record[252..].copy_from_slice(&crc.to_le_bytes());
    disk.record(Op::Write { ino, offset: 0, data: Arc::new(record) });
    disk.locks.remove(&ino);
}

/// Records that a directory was flushed, unless that is the mistake; says what the caller is told.
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

/// Records that a name was removed, unless that is the mistake.
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
    let (is_segment, is_bitmap) = (within("segments"), within("live"));
    match made() {
        Some(RemoveInPlace) => {
            if let (Some(shown), Some(Op::Remove { name, .. })) =
                (disk.notes.hidden.get(&name).cloned(), disk.log.last_mut())
            {
                *name = shown;
            }
        }
        // After the listing, and before anything that came of it.
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
