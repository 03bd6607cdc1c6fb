//! Bugs that can be switched on, to prove that the tests notice them.
//!
//! The promises of `docs/DURABILITY.md` rest on flushes, orderings and checks. A switch leaves one of them
//! out, and `scripts/check-bugs` runs the one test that must then fail. (Bugs in flushes and orderings are
//! made by the simulated disk, `tests/sim/mistakes.rs`.)
//!
//! Only builds with `--cfg vecstore_bugs` have the switches: the environment variable `VECSTORE_BUG` names
//! the bug that is on. In every other build [`Bug::is_on`] is the constant `false`.

macro_rules! bugs {
    ($($(#[$doc:meta])* $variant:ident $name:literal)*) => {
        /// A bug that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Bug {
            $($(#[$doc])* $variant,)*
        }

        #[cfg(vecstore_bugs)]
        const ALL: &[(&str, Bug)] = &[$(($name, Bug::$variant),)*];
    };
}

bugs! {

    // Failures that are ignored.

    /// A batch whose commit failed is acknowledged.
    AcknowledgeFailed "acknowledge-failed"
    /// The handle goes on writing after a failed flush of a directory.
    NoLatch "no-latch"
    /// A failed flush of a directory leaves no mark in LOCK.
    NoMark "no-mark"
    /// A failed flush of a manifest's name leaves no mark in LOCK.manifest.
    NoManifestMark "no-manifest-mark"
    /// A failed flush of a backup's manifest leaves no mark in the backup's LOCK.manifest.
    NoBackupMark "no-backup-mark"

    // Doubtful or foreign state that is taken for sound.

    /// The death of the last lock holder is overlooked.
    IgnoreDied "ignore-died"
    /// The mark in LOCK is overlooked.
    IgnoreMark "ignore-mark"
    /// Commits in doubt are not written anew.
    NoRewrite "no-rewrite"
    /// A lock holder that finds commits in doubt does not raise the counter.
    NoRaise "no-raise"
    /// Doubt about the manifest's name is overlooked.
    TrustManifestName "trust-manifest-name"
    /// Files that versions need are removed.
    IgnorePins "ignore-pins"
    /// Files beyond the manifest of a backup are read.
    ReadBeyondBackup "read-beyond-backup"
    /// A restored store begins no epoch.
    NoEpochRestored "no-epoch-restored"
    /// The first write to a backup begins no epoch.
    NoEpochBackup "no-epoch-backup"
    /// A lock file that is no longer at its path is locked.
    LockAnything "lock-anything"

    // Lengths, checksums, links and contents that are not checked.

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
    /// Padding is not compared with zeros.
    TrustPadding "trust-padding"
    /// The checksum of the manifest is not compared.
    TrustManifest "trust-manifest"
    /// The checksums of derived files are not compared.
    TrustDerived "trust-derived"
    /// The checksum of a lock's record is not compared.
    TrustRecord "trust-record"
    /// Links between segments are not compared.
    TrustLink "trust-link"
    /// The store id of a segment is not compared.
    TrustStore "trust-store"
    /// The epoch of a segment is not compared.
    TrustEpoch "trust-epoch"
    /// A listed segment is not compared with its record in the manifest.
    TrustListed "trust-listed"
    /// The inputs of a merge are not checked.
    TrustInputs "trust-inputs"
    /// The bytes of a backup that is restored are not checked.
    TrustBackup "trust-backup"
    /// A written file is not read back.
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

/// The bug that is on. An unknown name ends the process: a run that tests nothing must not pass.
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

/// Does `work`; if the bug is switched on, only claims to have done it.
pub(crate) fn unless<E>(bug: Bug, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    if bug.is_on() { Ok(()) } else { work() }
}
