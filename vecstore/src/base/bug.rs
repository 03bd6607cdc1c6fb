//! Mistakes that can be switched on, to show that tests notice them.
//!
//! For each flush, ordering and check that the promises of `docs/DURABILITY.md` rest on there is a switch
//! that leaves it out; `scripts/check-bugs` runs for each the one test that has to fail then. Only builds
//! with `--cfg vecstore_bugs` have them: the variable `VECSTORE_BUG` names the one that is on. In every other
//! build [`Bug::is_on`] is the constant `false`.

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

    // Failures not taken for what they are.

    /// A batch whose commit failed is acknowledged.
    AcknowledgeFailed "acknowledge-failed"
    /// After a failed flush of a directory the handle goes on writing.
    NoLatch "no-latch"
    /// After a failed flush of a directory there is no mark in LOCK.
    NoMark "no-mark"
    /// After a failed flush of a manifest's name there is no mark in LOCK.manifest.
    NoManifestMark "no-manifest-mark"
    /// After a failed flush of a backup's manifest there is no mark in the backup's LOCK.manifest.
    NoBackupMark "no-backup-mark"

    // What others left, taken for sound.

    /// That the last holder of the commit lock died is overlooked.
    IgnoreDied "ignore-died"
    /// The mark in LOCK is overlooked.
    IgnoreMark "ignore-mark"
    /// Commits in doubt are taken over as they are.
    NoRewrite "no-rewrite"
    /// A lock holder that finds commits in doubt does not raise the counter.
    NoRaise "no-raise"
    /// That the manifest is in doubt is overlooked.
    TrustManifestName "trust-manifest-name"
    /// Files that versions need are removed.
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
}

/// The bug that is on. A name that no bug has ends the process, so that a run that tests nothing cannot pass.
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
