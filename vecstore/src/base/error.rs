//! The one error type of the crate.
//!
//! Every variant names the file or argument concerned, what was expected, what was found, and the remedy.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::remedy::{is_lasting, remedy};
use crate::base::{DType, LockHolder, escaped};

/// Result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a store operation. Its text names the file or argument concerned, the problem and the remedy.
///
/// The text includes the cause that the operating system reported, and [`source`](std::error::Error::source)
/// returns `None`: a program that prints a chain of errors prints the cause once.
///
/// | the caller can | [`is_transient`](Error::is_transient) | [`needs_reopen`](Error::needs_reopen) | errors |
/// |---|---|---|---|
/// | call again later | yes | | `Busy`, `NoSpace`, most of `Io` |
/// | repeat the operation | | | `Interrupted` |
/// | open the store again, and look up which keys are missing | | yes | `OutcomeUnknown`, `Latched`, `NameTaken`, `Moved`, `Abandoned` |
/// | read the newest state, and build a new batch | | | `EntryChanged`, `StoreChanged`, `DuplicateKey` |
/// | change an argument | | | `InvalidArgument`, `DimensionMismatch`, `DTypeMismatch`, `FingerprintMismatch`, `NoSuchVersion`, `VersionExists`, `BackupRefused`, `AlreadyExists`, `NotFound`, `NotAStore` |
/// | [repair](crate::repair) or [salvage](crate::salvage) the store | | | `Damaged`, `MissingSegment`, `ForeignSegment`, `ManifestMissing` |
/// | use a newer version of this crate | | | `UnsupportedVersion` |
/// | report a bug in this crate | | | `Internal` |
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path does not exist, or is an empty directory.
    #[non_exhaustive]
    #[error(
        "{}: there is no store here; create one with `vecstore create` or `Store::create`",
        path.display()
    )]
    NotFound {
        /// The path given by the caller.
        path: PathBuf,
    },

    /// The path holds something other than a store.
    #[non_exhaustive]
    #[error(
        "{}: this is not a store: {found}; give the path of a directory made by `vecstore create`",
        path.display()
    )]
    NotAStore {
        /// The path given by the caller.
        path: PathBuf,
        /// Description of what the path holds.
        found: String,
    },

    /// The path of a new store holds something already.
    #[non_exhaustive]
    #[error(
        "{}: cannot create a store here: {found}; open it instead, or choose another path",
        path.display()
    )]
    AlreadyExists {
        /// The path of the new store.
        path: PathBuf,
        /// Description of what the path holds.
        found: String,
    },

    /// The store has segments, but no manifest. No entry is lost: [`repair`](crate::repair) rebuilds the
    /// manifest from the segments.
    #[non_exhaustive]
    #[error(
        "{}: the manifest is missing, but segments/ holds {segments} segment file(s); no entry is lost: \
         `vecstore repair` rebuilds the manifest from them",
        path.display()
    )]
    ManifestMissing {
        /// The manifest's path.
        path: PathBuf,
        /// Number of segment files.
        segments: usize,
    },

    /// A lock is held by another handle or process and was not released in time.
    #[non_exhaustive]
    #[error(
        "{}: the store is busy: waited {waited_secs} s for the {lock} lock, held by {holder}; \
         wait for the holder, stop it, or raise the lock timeout",
        path.display()
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// Name of the lock.
        lock: &'static str,
        /// The lock holder, as far as the lock's record names it.
        holder: LockHolder,
        /// Seconds that this call waited.
        waited_secs: u64,
    },

    /// The vectors come from another model, or from other preprocessing.
    #[non_exhaustive]
    #[error(
        "{}: the store holds vectors of \"{expected}\" (fingerprint {expected_id}), not of \"{found}\" \
         (fingerprint {found_id}); use the model that made the store, or another store",
        path.display()
    )]
    FingerprintMismatch {
        /// The store.
        path: PathBuf,
        /// Description of the recorded fingerprint.
        expected: String,
        /// The recorded fingerprint's first eight bytes in hexadecimal.
        expected_id: String,
        /// Description of the given fingerprint.
        found: String,
        /// The given fingerprint's first eight bytes in hexadecimal.
        found_id: String,
    },

    /// A vector, batch, query or configuration has another dimension than the store.
    #[non_exhaustive]
    #[error(
        "{what} has dimension {found}, the store has {expected}; use vectors of {expected} elements{}",
        rows_hint(what, *expected, *found)
    )]
    DimensionMismatch {
        /// The argument with the wrong dimension.
        what: &'static str,
        /// The store's dimension, in elements per vector.
        expected: usize,
        /// The argument's dimension.
        found: usize,
    },

    /// Elements have another type than the store's.
    #[non_exhaustive]
    #[error("{what} has elements of type {found}, the store has {expected}; convert them explicitly")]
    DTypeMismatch {
        /// The argument with the wrong type.
        what: &'static str,
        /// The store's element type.
        expected: DType,
        /// The argument's element type.
        found: DType,
    },

    /// With [`OnDuplicate::Error`](crate::OnDuplicate::Error), a key of the batch is stored already, or is in
    /// the batch twice.
    #[non_exhaustive]
    #[error(
        "{count} key(s) are stored already or twice in the batch, the first is \"{}\"; nothing of this batch \
         was written; append with OnDuplicate::Skip or OnDuplicate::Replace to accept them",
        escaped(key)
    )]
    DuplicateKey {
        /// The first such key.
        key: Vec<u8>,
        /// Number of entries of the batch with such a key.
        count: usize,
    },

    /// The stored entry of a key is not the expected one: another writer has replaced or deleted it. See
    /// [`EntryBuilder::replace_if`](crate::EntryBuilder::replace_if).
    #[non_exhaustive]
    #[error(
        "key \"{}\": the batch expects its entry of commit {expected}, but {}; nothing of this batch was \
         written; read the key again and build a new batch",
        escaped(key),
        found.map_or_else(|| "the key is not stored".to_owned(), |at| format!("its entry is of commit {at}"))
    )]
    EntryChanged {
        /// The key.
        key: Vec<u8>,
        /// Commit of the expected entry.
        expected: u64,
        /// Commit of the stored entry; `None` if the key is not stored.
        found: Option<u64>,
    },

    /// The store's last commit is not the one that the batch expects: see
    /// [`Batch::expect_last_commit`](crate::Batch::expect_last_commit).
    #[non_exhaustive]
    #[error(
        "the batch expects {expected} as the last commit, but the last commit is {found}; nothing of this \
         batch was written; read the newest state and build a new batch"
    )]
    StoreChanged {
        /// The last commit that the batch expects.
        expected: u64,
        /// The last commit of the store.
        found: u64,
    },

    /// An argument is invalid.
    #[non_exhaustive]
    #[error("{what}")]
    InvalidArgument {
        /// The problem, what is expected, and the remedy.
        what: String,
    },

    /// The store has no version of this name.
    #[non_exhaustive]
    #[error(
        "{}: there is no version \"{name}\"; `vecstore version list` lists the versions",
        path.display()
    )]
    NoSuchVersion {
        /// The store.
        path: PathBuf,
        /// The name.
        name: String,
    },

    /// The store has a version of this name already.
    #[non_exhaustive]
    #[error(
        "{}: there is a version \"{name}\" already; remove it first, or choose another name",
        path.display()
    )]
    VersionExists {
        /// The store.
        path: PathBuf,
        /// The name.
        name: String,
    },

    /// The destination of a backup holds something other than an earlier backup of this store, or lies in the
    /// store itself.
    #[non_exhaustive]
    #[error("{}: cannot back up into this directory: {reason}; choose another one", path.display())]
    BackupRefused {
        /// The destination.
        path: PathBuf,
        /// Why the destination is refused.
        reason: String,
    },

    /// The operation was stopped before its end: by its [`Progress`](crate::Progress), because the store is
    /// being closed, or because a repair or restore replaced the files that it was reading.
    #[non_exhaustive]
    #[error("{action} was stopped before its end; nothing is lost, and it can be started again")]
    Interrupted {
        /// Name of the operation.
        action: &'static str,
    },

    /// A contradiction within this crate's own state: a bug. Nothing was written.
    #[non_exhaustive]
    #[error("a bug in vecstore: {what}; nothing was written; please report it")]
    Internal {
        /// The contradiction.
        what: Cow<'static, str>,
    },

    /// The disk or the quota is full. Stored entries are untouched, and reading continues to work.
    #[non_exhaustive]
    #[error(
        "{}: no space left to {op}: {needed} bytes were needed, {} free; stored entries are \
         untouched; free some space and try again",
        path.display(), free.map_or_else(|| "an unknown number is".to_owned(), |free| format!("{free} are"))
    )]
    NoSpace {
        /// The file that was being written.
        path: PathBuf,
        /// The operation that failed.
        op: &'static str,
        /// Bytes that the file needs.
        needed: u64,
        /// Bytes free for this user; `None` if the file system does not report them.
        free: Option<u64>,
        /// The error of the operating system.
        cause: Arc<io::Error>,
    },

    /// Bytes of a file are not the bytes that were written.
    #[non_exhaustive]
    #[error(
        "{}: damaged: {section}: {detail}; `vecstore verify` lists all damage, `vecstore repair` keeps all \
         intact entries and makes the store whole",
        path.display()
    )]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// The damaged section, and the block where known.
        section: String,
        /// What was expected, and what was found.
        detail: String,
    },

    /// A segment file is missing.
    #[non_exhaustive]
    #[error(
        "{}: the segment that holds commit {commit} is missing (looked twice); put the file back from a \
         backup, or go on without it after `vecstore repair`; every other file is untouched",
        path.display()
    )]
    MissingSegment {
        /// The directory of segments.
        path: PathBuf,
        /// The first commit number that no file covers.
        commit: u64,
    },

    /// A segment file is not part of this store's chain of segments: it comes from another store, or from
    /// another history of this one.
    #[non_exhaustive]
    #[error(
        "{}: this segment does not belong here: {detail}; `vecstore repair` moves it to quarantine/ and \
         makes the store whole without it",
        path.display()
    )]
    ForeignSegment {
        /// The file.
        path: PathBuf,
        /// Why the file is not part of the chain.
        detail: String,
    },

    /// The file was written by a later version of the format, which this program cannot read.
    #[non_exhaustive]
    #[error("{}: it has {found}, and this program knows {expected}; use a newer vecstore", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The newest version, or the features, that this program knows.
        expected: String,
        /// The version or features of the file.
        found: String,
    },

    /// Giving a segment its name, or flushing that name, failed: it is unknown whether the commit survives a
    /// power cut.
    #[non_exhaustive]
    #[error(
        "{}: the commit's name could not be made durable, so it is unknown whether it survives a power cut \
         ({cause}); this handle accepts no more writes; open the store again, which writes these \
         commits anew",
        path.display()
    )]
    OutcomeUnknown {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        cause: Arc<io::Error>,
    },

    /// An earlier write of this handle ended in [`Error::OutcomeUnknown`].
    #[non_exhaustive]
    #[error(
        "{}: this handle stopped writing after an earlier failure ({reason}); open the store again",
        path.display()
    )]
    Latched {
        /// The store.
        path: PathBuf,
        /// The earlier failure.
        reason: String,
    },

    /// The file name of the next segment is taken.
    #[non_exhaustive]
    #[error(
        "{}: the name of the next segment is taken, so this handle does not know the store's present state; \
         nothing was written; open the store again (`vecstore verify` says whether the file belongs to it)",
        path.display()
    )]
    NameTaken {
        /// The file that has the name.
        path: PathBuf,
    },

    /// The store's directory was moved or replaced while this handle was open.
    #[non_exhaustive]
    #[error("{}: {found} since this handle was opened; open the store again", path.display())]
    Moved {
        /// The path at which the store was opened.
        path: PathBuf,
        /// What happened to the directory.
        found: &'static str,
    },

    /// The thread that was committing this batch (the leader) panicked.
    #[non_exhaustive]
    #[error(
        "{}: the thread that was committing the batch ended in a panic; open the store again",
        path.display()
    )]
    Abandoned {
        /// The store.
        path: PathBuf,
    },

    /// A file operation failed.
    #[non_exhaustive]
    #[error("{}: cannot {op}: {cause}{}", path.display(), remedy(cause))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operation that failed.
        op: &'static str,
        /// The error of the operating system.
        cause: Arc<io::Error>,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, op: &'static str, cause: io::Error) -> Self {
        Error::Io { path: path.to_owned(), op, cause: Arc::new(cause) }
    }

    pub(crate) fn damaged(path: &Path, section: impl Into<String>, detail: impl Into<String>) -> Self {
        Error::Damaged { path: path.to_owned(), section: section.into(), detail: detail.into() }
    }

    pub(crate) fn internal(what: impl Into<Cow<'static, str>>) -> Self {
        Error::Internal { what: what.into() }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Error::InvalidArgument { what: what.into() }
    }

    /// True if the same call may succeed later without a change to the program: a lock was held, the disk was
    /// full, or the operating system reported an error that can pass.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// let error = vecstore::Store::open(dir.path().join("none")).unwrap_err();
    /// assert!(!error.is_transient() && !error.needs_reopen());
    /// ```
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Busy { .. } | Error::NoSpace { .. } => true,
            Error::Io { cause, .. } => !is_lasting(cause),
            _ => false,
        }
    }

    /// True if this handle no longer writes, but a handle that is opened anew may. Opening reads the store's
    /// state again; [`Snapshot::missing`](crate::Snapshot::missing) then tells which keys of an append with
    /// unknown outcome are stored.
    pub fn needs_reopen(&self) -> bool {
        matches!(
            self,
            Error::OutcomeUnknown { .. }
                | Error::Latched { .. }
                | Error::NameTaken { .. }
                | Error::Moved { .. }
                | Error::Abandoned { .. }
        )
    }
}

/// Turns an error of the operating system into one of this crate, naming path and operation.
pub(crate) trait IoContext<T> {
    fn at(self, path: &Path, op: &'static str) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, path: &Path, op: &'static str) -> Result<T> {
        self.map_err(|source| Error::io(path, op, source))
    }
}

/// The same text as `Display`: `main` and `unwrap` print errors with `Debug`, and the text has the remedy.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The argument that may hold several rows by mistake.
pub(crate) const ROW: &str = "the row";

/// A hint for a row that is empty, or as long as several rows.
fn rows_hint(what: &str, expected: usize, found: usize) -> &'static str {
    match found {
        _ if what != ROW => "",
        0 => "; add an input in which nothing was found with `push_empty`",
        _ if expected > 0 && found.is_multiple_of(expected) => {
            "; add several rows with `push_rows`, and use the model that the store was made with"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `main` prints errors with `Debug`.
    #[test]
    fn an_error_that_ends_main_is_printed_with_its_remedy() {
        let error = Error::NotFound { path: "s".into() };
        assert_eq!(format!("{error:?}"), error.to_string());
    }

    #[test]
    fn errors_of_the_system_that_stay_are_not_transient() {
        let io = |kind: io::ErrorKind| Error::io(Path::new("s"), "write", kind.into());
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied, io::ErrorKind::FileTooLarge] {
            assert!(!io(kind).is_transient(), "{kind:?}");
        }
        let failing = rustix::io::Errno::IO.raw_os_error();
        let failing = Error::io(Path::new("s"), "read", io::Error::from_raw_os_error(failing));
        assert!(!failing.is_transient() && failing.to_string().contains("the disk is failing"), "{failing}");
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::Other, io::ErrorKind::ResourceBusy] {
            assert!(io(kind).is_transient() && !io(kind).needs_reopen(), "{kind:?}");
        }
    }
}
