//! The one error type of the crate.
//!
//! Every variant names what was touched, what was expected, what was found and what to do about it.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::remedy::remedy;
use crate::base::{DType, LockHolder, escaped};

/// Result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, with the path it went wrong at and the remedy.
///
/// The text of an error is complete: the cause that the operating system gave is part of it, and
/// [`source`](std::error::Error::source) gives nothing, so that a chain of errors prints it once.
///
/// | the caller can | [`is_transient`](Error::is_transient) | [`needs_reopen`](Error::needs_reopen) | errors |
/// |---|---|---|---|
/// | call again later | yes | | `Busy`, `NoSpace`, most of `Io` |
/// | start the operation again | | | `Interrupted` |
/// | open the store again, and ask which keys are missing | | yes | `OutcomeUnknown`, `Latched`, `NameTaken`, `Moved`, `Abandoned` |
/// | read again, and decide anew | | | `EntryChanged`, `StoreChanged`, `DuplicateKey` |
/// | change an argument | | | `InvalidArgument`, `DimensionMismatch`, `DTypeMismatch`, `FingerprintMismatch`, `NoSuchVersion`, `VersionExists`, `BackupRefused`, `AlreadyExists`, `NotFound`, `NotAStore` |
/// | [repair](crate::repair) or [salvage](crate::salvage) the store | | | `Damaged`, `MissingSegment`, `ForeignSegment`, `ManifestMissing` |
/// | use a newer version | | | `UnsupportedVersion` |
/// | report a mistake in this crate | | | `Internal` |
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing at this path, or an empty directory.
    #[non_exhaustive]
    #[error(
        "{}: there is no store here; create one with `vecstore create` or `Store::create`",
        path.display()
    )]
    NotFound {
        /// The path that was to be opened.
        path: PathBuf,
    },

    /// There is something else than a store at this path.
    #[non_exhaustive]
    #[error(
        "{}: this is not a store: {found}; give the path of a directory made by `vecstore create`",
        path.display()
    )]
    NotAStore {
        /// The path that was to be opened.
        path: PathBuf,
        /// What was found there.
        found: String,
    },

    /// A store cannot be created over something that exists.
    #[non_exhaustive]
    #[error(
        "{}: cannot create a store here: {found}; open it instead, or choose another path",
        path.display()
    )]
    AlreadyExists {
        /// The path of the store to be.
        path: PathBuf,
        /// What is there already.
        found: String,
    },

    /// Segments are there, but the manifest is gone. Nothing is lost: segments describe themselves.
    #[non_exhaustive]
    #[error(
        "{}: the manifest is missing, but segments/ holds {segments} segment file(s); nothing is lost: \
         `vecstore repair` rebuilds the manifest from them",
        path.display()
    )]
    ManifestMissing {
        /// The manifest's path.
        path: PathBuf,
        /// How many segment files there are.
        segments: usize,
    },

    /// A lock is held by another handle or process and was not released in time.
    #[non_exhaustive]
    #[error(
        "{}: the store is busy: waited {waited_secs} s for the {lock} lock, held by {holder}; \
         wait for it, stop it, or raise the lock time-out",
        path.display()
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// Which lock it is.
        lock: &'static str,
        /// The holder, as far as the record says.
        holder: LockHolder,
        /// How long this call waited.
        waited_secs: u64,
    },

    /// The vectors come from another model, or from other preprocessing.
    #[non_exhaustive]
    #[error(
        "{}: the store holds vectors of \"{expected}\" (fingerprint {expected_id}), not of \"{found}\" \
         (fingerprint {found_id}); use the model the store was made with, or another store",
        path.display()
    )]
    FingerprintMismatch {
        /// The store.
        path: PathBuf,
        /// Description of the recorded fingerprint.
        expected: String,
        /// The recorded fingerprint's first eight bytes in hexadecimal.
        expected_id: String,
        /// Description of the fingerprint given.
        found: String,
        /// The given fingerprint's first eight bytes in hexadecimal.
        found_id: String,
    },

    /// A vector, batch or query of another dimension than the store's.
    #[non_exhaustive]
    #[error(
        "{what} has dimension {found}, the store has {expected}; use vectors of {expected} elements{}",
        rows_hint(*expected, *found)
    )]
    DimensionMismatch {
        /// The argument with the wrong dimension.
        what: &'static str,
        /// The store's dimension.
        expected: usize,
        /// What was given.
        found: usize,
    },

    /// Elements of another type than the store's.
    #[non_exhaustive]
    #[error("{what} has elements of type {found}, the store has {expected}; convert them explicitly")]
    DTypeMismatch {
        /// The argument with the wrong type.
        what: &'static str,
        /// The store's element type.
        expected: DType,
        /// What was given.
        found: DType,
    },

    /// The append asked for an error on keys that are stored already, or that the batch holds twice.
    #[non_exhaustive]
    #[error(
        "{count} key(s) are stored already or twice in the batch, the first is \"{}\"; nothing of this batch \
         was written; append with OnDuplicate::Skip or OnDuplicate::Replace to accept them",
        escaped(key)
    )]
    DuplicateKey {
        /// The first such key.
        key: Vec<u8>,
        /// How many such keys there are.
        count: usize,
    },

    /// An entry that was to be replaced only if it is still the expected one is another by now.
    #[non_exhaustive]
    #[error(
        "key \"{}\" was to replace the entry of commit {expected}, and {}; nothing of this batch was \
         written; read the key again and decide anew",
        escaped(key),
        found.map_or_else(|| "is not stored".to_owned(), |at| format!("its entry is of commit {at}"))
    )]
    EntryChanged {
        /// The key.
        key: Vec<u8>,
        /// Commit of the expected entry.
        expected: u64,
        /// Commit of the stored entry; `None` when the key is not stored.
        found: Option<u64>,
    },

    /// The store has other commits than the batch expects.
    #[non_exhaustive]
    #[error(
        "the batch was to follow commit {expected}, and the last commit is {found}; nothing of this batch \
         was written; read what came in between and decide anew"
    )]
    StoreChanged {
        /// The last commit that the batch expects.
        expected: u64,
        /// The last commit of the store.
        found: u64,
    },

    /// An argument that cannot be used.
    #[non_exhaustive]
    #[error("{what}")]
    InvalidArgument {
        /// What was wrong, what was expected, and what to do.
        what: String,
    },

    /// The store has no version of this name.
    #[non_exhaustive]
    #[error(
        "{}: there is no version \"{name}\"; `vecstore version list` names those there are",
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

    /// The destination of a backup holds something that the backup does not continue.
    #[non_exhaustive]
    #[error("{}: cannot back up into this directory: {reason}; choose another one", path.display())]
    BackupRefused {
        /// The destination.
        path: PathBuf,
        /// What was found there.
        reason: String,
    },

    /// The operation was stopped before its end: by its [`Progress`](crate::Progress), because the store is
    /// being closed, or because a repair or restore replaced what it was reading.
    #[non_exhaustive]
    #[error("{action} was stopped before its end; nothing is lost, and it can be started again")]
    Interrupted {
        /// What was stopped.
        action: &'static str,
    },

    /// The store contradicts itself: a mistake in this library. Nothing was written.
    #[non_exhaustive]
    #[error("a mistake in vecstore: {what}; nothing was written; please report it")]
    Internal {
        /// The contradiction.
        what: Cow<'static, str>,
    },

    /// The disk, or the quota, is full. What was there before is as it was; readers go on.
    #[non_exhaustive]
    #[error(
        "{}: no space left to {op}: {needed} bytes were needed, {} free; what was stored before is \
         untouched; make room and do it again",
        path.display(), free.map_or_else(|| "an unknown number is".to_owned(), |free| format!("{free} are"))
    )]
    NoSpace {
        /// The file that was being written.
        path: PathBuf,
        /// The operation that failed.
        op: &'static str,
        /// Bytes the file needs.
        needed: u64,
        /// Bytes free for this user, where the file system tells them.
        free: Option<u64>,
        /// What the operating system said.
        cause: Arc<io::Error>,
    },

    /// Bytes of a file differ from what was written.
    #[non_exhaustive]
    #[error(
        "{}: damaged: {section}: {detail}; `vecstore verify` lists everything that is, `vecstore repair` \
         keeps what is intact and makes the store whole",
        path.display()
    )]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// Section (and block, where known).
        section: String,
        /// What was expected and found.
        detail: String,
    },

    /// A segment that should be there is not.
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

    /// A segment that is no part of this chain: it is of another store, or of another history of this one.
    #[non_exhaustive]
    #[error(
        "{}: this segment does not belong here: {detail}; `vecstore repair` moves it to quarantine/ and \
         makes the store whole without it",
        path.display()
    )]
    ForeignSegment {
        /// The file.
        path: PathBuf,
        /// Which link of the chain is broken.
        detail: String,
    },

    /// The file was written by a later version of the format.
    #[non_exhaustive]
    #[error("{}: it has {found}, and this program knows {expected}; use a newer vecstore", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// The newest version, or the features, that this program knows.
        expected: String,
        /// What the file says.
        found: String,
    },

    /// Naming a segment, or flushing its name, failed, and it is unknown whether the commit survives.
    #[non_exhaustive]
    #[error(
        "{}: the commit's name could not be made durable, so it is unknown whether it survives a power cut \
         ({cause}); this handle accepts no more writes; open the store again: that writes the commits \
         concerned anew",
        path.display()
    )]
    OutcomeUnknown {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
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

    /// The name that the next segment needs is taken.
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

    /// Another thread that was committing this batch ended in a panic.
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
        /// What the operating system said.
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

    /// True when the same call may succeed later without any change to the program: a lock was held, the disk
    /// was full, or the operating system failed in a way that can pass.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// let error = vecstore::Store::open(dir.path().join("none")).unwrap_err();
    /// assert!(!error.is_transient() && !error.needs_reopen());
    /// ```
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Busy { .. } | Error::NoSpace { .. } => true,
            Error::Io { cause, .. } => !matches!(
                cause.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::FileTooLarge
            ),
            _ => false,
        }
    }

    /// True when this handle writes no more, and a handle that is opened anew does: the state of the store is
    /// then read again, and an append whose outcome was unknown is found by its keys.
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

/// What may have gone wrong with a vector that is none, or several.
fn rows_hint(expected: usize, found: usize) -> &'static str {
    match found {
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

    #[test]
    fn errors_of_the_system_that_stay_are_not_transient() {
        let io = |kind: io::ErrorKind| Error::io(Path::new("s"), "write", kind.into());
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied, io::ErrorKind::FileTooLarge] {
            assert!(!io(kind).is_transient(), "{kind:?}");
        }
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::Other, io::ErrorKind::ResourceBusy] {
            assert!(io(kind).is_transient() && !io(kind).needs_reopen(), "{kind:?}");
        }
    }
}
