//! Mistakes that can be switched on, to show that the tests notice them.
//!
//! A test that passes says little unless it can fail. So for each flush, each ordering and each check that the promises
//! of `docs/DURABILITY.md` rest on there is a switch that leaves it out, and `scripts/check-bugs` runs for each switch
//! the one test that has to fail then. The switches are in builds with `--cfg vecstore_bugs` alone: there the variable
//! `VECSTORE_BUG` names the one that is on. In every other build [`Bug::is_on`] is the constant `false`.

use std::io;

macro_rules! bugs {
    ($($(#[$doc:meta])* $variant:ident $name:literal)*) => {
        /// A mistake that a program of this kind could make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Bug {
            $($(#[$doc])* $variant,)*
        }

        #[cfg(vecstore_bugs)]
        const ALL: &[(&str, Bug)] = &[$(($name, Bug::$variant),)*];
    };
}

bugs! {
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
    /// Who opens a store for writing does not flush its name.
    OpenedName "opened-name"
    /// Who opens for writing does not flush the names it will skip keys by.
    OpenedNames "opened-names"
    /// Who refreshes does not flush them.
    RefreshedNames "refreshed-names"
    /// The data of a copied segment is not flushed.
    CopiedData "copied-data"
    /// The names of segments that a backup gets are not flushed before its manifest lists them.
    BackupNames "backup-names"
    /// The name of a backup's manifest is not flushed before what it does not list goes.
    BackupManifestName "backup-manifest-name"
    /// The hidden name of an old dated backup is not flushed before its files go.
    HiddenName "hidden-name"
    /// The data of a named checkpoint is not flushed.
    NamedData "named-data"
    /// The name of a named checkpoint is not flushed.
    NamedName "named-name"
    /// The directory of named checkpoints is made, and its name not flushed.
    NamedFolder "named-folder"
    /// That a named checkpoint was dropped is not flushed.
    DroppedName "dropped-name"
    /// Who finds a named checkpoint dropped removes its files before that is flushed.
    FoundDropped "found-dropped"
    /// The data of a liveness bitmap is not flushed.
    BitmapData "bitmap-data"
    /// The name of a liveness bitmap is not flushed before a manifest lists it.
    BitmapName "bitmap-name"
    /// The directory of liveness bitmaps is made, and its name not flushed.
    BitmapFolder "bitmap-folder"
    /// The data of a segment that a repair writes is not flushed.
    RepairedData "repaired-data"
    /// The data of a named checkpoint that a repair replaces is not flushed.
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
    /// Superseded bitmaps go before the manifest that lists newer ones is durable.
    RemoveBitmapsEarly "remove-bitmaps-early"
    /// A backup's manifest is replaced before its segments are there.
    BackupListsFirst "backup-lists-first"
    /// The files of an old dated backup go under its own name.
    RemoveInPlace "remove-in-place"
    /// A repair removes the damaged files before what takes their place has its name.
    RepairRemovesFirst "repair-removes-first"
    /// The manifest is written in place.
    ManifestInPlace "manifest-in-place"
    /// A store is built under its own name.
    BuildInPlace "build-in-place"

    // Failures not taken for what they are.

    /// A batch whose commit failed is acknowledged.
    AcknowledgeFailed "acknowledge-failed"
    /// A flush of a temporary file that failed is tried again.
    RetryFile "retry-file"
    /// A flush of a directory that failed is tried again.
    RetryDirectory "retry-directory"
    /// After a failed flush of a directory the handle goes on writing.
    NoLatch "no-latch"
    /// After a failed flush of a directory there is no mark in LOCK.
    NoMark "no-mark"
    /// After a failed flush of a manifest's name there is no mark in LOCK.manifest.
    NoManifestMark "no-manifest-mark"
    /// After that of a backup's manifest there is no mark in the backup's LOCK.manifest.
    NoBackupMark "no-backup-mark"
    /// Names that a backup gave before a failed flush stay.
    KeepGiven "keep-given"
    /// A named checkpoint whose flush failed is flushed again, and not given anew.
    FlushNamedAgain "flush-named-again"
    /// A temporary file that could not be written stays.
    KeepTemporary "keep-temporary"

    // What others left, taken for sound.

    /// That the last holder of the commit lock died is overlooked.
    IgnoreDied "ignore-died"
    /// The mark in LOCK is overlooked.
    IgnoreMark "ignore-mark"
    /// Commits in doubt are taken over as they are.
    NoRewrite "no-rewrite"
    /// Who finds commits in doubt does not raise the counter.
    NoRaise "no-raise"
    /// That the manifest is in doubt is overlooked.
    TrustManifestName "trust-manifest-name"
    /// A segment takes a name that is taken.
    ReplaceName "replace-name"
    /// Files that named checkpoints need are removed.
    IgnorePins "ignore-pins"
    /// Files beyond the manifest of a backup are read.
    ReadBeyondBackup "read-beyond-backup"
    /// A restored store begins no epoch.
    NoEpochRestored "no-epoch-restored"
    /// A backup that is written to begins no epoch.
    NoEpochBackup "no-epoch-backup"
    /// A lock file that is no longer at its path is locked.
    LockAnything "lock-anything"

    // Lengths, checksums and links believed.

    /// The checksum of a footer is not compared.
    TrustFooter "trust-footer"
    /// The length of a file is not compared with what its footer says.
    TrustFileLength "trust-file-length"
    /// The lengths of sections are not compared with the footer's counts.
    TrustSection "trust-section"
    /// The checksums of blocks are not compared.
    TrustBlocks "trust-blocks"
    /// The checksum of kills is not compared before they are replayed.
    TrustKills "trust-kills"
    /// The checksums of run table and settings are not compared when opening.
    TrustTables "trust-tables"
    /// Padding may be anything.
    TrustPadding "trust-padding"
    /// The checksum of the manifest is not compared.
    TrustManifest "trust-manifest"
    /// The checksum of a liveness bitmap is not compared.
    TrustBitmap "trust-bitmap"
    /// The checksum of a lock's record is not compared.
    TrustRecord "trust-record"
    /// Links between segments are not compared.
    TrustLink "trust-link"
    /// A segment may be of any store.
    TrustStore "trust-store"
    /// A segment may be of any epoch.
    TrustEpoch "trust-epoch"
    /// Any file of the name that the manifest lists will do.
    TrustListed "trust-listed"
    /// The inputs of a merge are not checked.
    TrustInputs "trust-inputs"
    /// The bytes of a backup that is restored are not checked.
    TrustBackup "trust-backup"
    /// What was written is not read back.
    TrustWritten "trust-written"
}

impl Bug {
    /// True when this bug is switched on.
    #[cfg(not(vecstore_bugs))]
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }

    /// True when this bug is switched on.
    #[cfg(vecstore_bugs)]
    pub fn is_on(self) -> bool {
        static ON: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
        *ON.get_or_init(switched_on) == Some(self)
    }

    /// The flush of a segment's data that is left out: of a commit, of a commit in doubt, or of a merge's output.
    pub fn of_segment(prefix: &str, generation: u32) -> Self {
        match (prefix == crate::writer::TMP_PREFIX, generation) {
            (true, 0) => Bug::SegmentData,
            (true, _) => Bug::RewrittenData,
            (false, _) => Bug::MergedData,
        }
    }

    /// The same for a file that is written whole under a temporary name, by what its error says was being done.
    pub fn of_temporary(op: &str) -> Self {
        match op {
            "write the manifest" => Bug::ManifestData,
            "write the checkpoint" => Bug::NamedData,
            "write a liveness bitmap" => Bug::BitmapData,
            _ => Bug::RepairedFile,
        }
    }
}

/// Which one is on. A name that no bug has ends the process: a run that tests nothing shall not pass for one that does.
#[cfg(vecstore_bugs)]
fn switched_on() -> Option<Bug> {
    let wanted = std::env::var("VECSTORE_BUG").ok().filter(|wanted| !wanted.is_empty())?;
    let found = ALL.iter().find(|(name, _)| *name == wanted).map(|(_, bug)| *bug);
    if found.is_none() {
        eprintln!("VECSTORE_BUG: there is no bug called \"{wanted}\"");
        std::process::exit(2);
    }
    found
}

/// Does the work, or claims to have done it when the bug is switched on.
pub(crate) fn unless<E>(bug: Bug, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    if bug.is_on() { Ok(()) } else { work() }
}

/// Flushes; when the bug is switched on, a second time where the first one failed.
pub(crate) fn once_unless(bug: Bug, mut flush: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    match flush() {
        Err(_) if bug.is_on() => flush(),
        flushed => flushed,
    }
}
