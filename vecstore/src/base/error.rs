//! The one error type of the crate.
//!
//! Every variant names what was touched, what was expected, what was found and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use crate::base::{DType, escaped};

/// Result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong, with the path it went wrong at and the remedy.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing at this path, or an empty directory.
    #[non_exhaustive]
    #[error("{}: there is no store here; create one with `vecstore create` or `Store::create`", path.display())]
    NotFound {
        /// The path that was to be opened.
        path: PathBuf,
    },

    /// There is something else than a store at this path.
    #[non_exhaustive]
    #[error("{}: this is not a store: {found}; give the path of a directory made by `vecstore create`", path.display())]
    NotAStore {
        /// The path that was to be opened.
        path: PathBuf,
        /// What was found there.
        found: String,
    },

    /// A store cannot be created over something that exists.
    #[non_exhaustive]
    #[error("{}: cannot create a store here: {found}; open it instead, or choose another path", path.display())]
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
        holder: Holder,
        /// How long this call waited.
        waited_secs: u64,
    },

    /// The handle was opened read-only.
    #[non_exhaustive]
    #[error("{}: the store was opened read-only; open it with `Store::open` to {action}", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// The operation that needs a writable handle.
        action: &'static str,
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
    #[error("{what} has dimension {found}, the store has {expected}; use vectors of {expected} elements")]
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

    /// The append asked for an error on keys that are stored already.
    #[non_exhaustive]
    #[error(
        "{count} key(s) are stored already, the first is \"{}\"; nothing of this batch was written; \
         append with OnDuplicate::Skip or OnDuplicate::Replace to accept them",
        escaped(key)
    )]
    DuplicateKey {
        /// The first such key.
        key: Vec<u8>,
        /// How many such keys there are.
        count: usize,
    },

    /// An argument that cannot be used, and why.
    #[non_exhaustive]
    #[error("{what}")]
    BadInput {
        /// What was wrong, what was expected, and what to do.
        what: String,
    },

    /// The store contradicts itself: a mistake in this library. Nothing was written.
    #[non_exhaustive]
    #[error("a mistake in vecstore: {what}; nothing was written; please report it")]
    Internal {
        /// The contradiction.
        what: &'static str,
    },

    /// The disk, or the quota, is full. Nothing of the batch is visible; readers go on.
    #[non_exhaustive]
    #[error(
        "{}: no space left: {needed} bytes were needed, {} free; the batch was not written and nothing else was \
         touched; make room and append it again",
        path.display(), free.map_or_else(|| "an unknown number is".to_owned(), |free| format!("{free} are"))
    )]
    NoSpace {
        /// The file that was being written.
        path: PathBuf,
        /// Bytes the file needs.
        needed: u64,
        /// Bytes free for this user, where the file system tells them.
        free: Option<u64>,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },

    /// Bytes of a file differ from what was written.
    #[non_exhaustive]
    #[error(
        "{}: damaged: {section}: {detail}; `vecstore verify` lists everything that is, `vecstore repair` keeps what is \
         intact and makes the store whole",
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
        "{}: the segment that holds commit {commit} is missing (looked twice); put the file back from a backup, or go on \
         without it after `vecstore repair`; every other file is untouched",
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
        "{}: this segment does not belong here: {detail}; `vecstore repair` moves it to quarantine/ and makes the store \
         whole without it",
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
        "{}: the commit's name could not be made durable, so it is unknown whether it survives a power cut ({source}); \
         this handle accepts no more writes; open the store again: that writes the commits concerned anew",
        path.display()
    )]
    OutcomeUnknown {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },

    /// An earlier write of this handle ended in [`Error::OutcomeUnknown`].
    #[non_exhaustive]
    #[error("{}: this handle stopped writing after an earlier failure ({reason}); open the store again", path.display())]
    Latched {
        /// The store.
        path: PathBuf,
        /// The earlier failure.
        reason: String,
    },

    /// The name that the next segment needs is taken.
    #[non_exhaustive]
    #[error(
        "{}: the name of the next segment is taken, so this handle does not know the store's present state; nothing \
         was written; open the store again (`vecstore verify` says whether the file belongs to it)",
        path.display()
    )]
    NameTaken {
        /// The file that has the name.
        path: PathBuf,
    },

    /// The store's directory was moved or replaced while this handle was open.
    #[non_exhaustive]
    #[error("{}: {found} since this handle was opened; nothing was written; open the store again", path.display())]
    Moved {
        /// The path at which the store was opened.
        path: PathBuf,
        /// What happened to the directory.
        found: &'static str,
    },

    /// Another thread that was committing this batch ended in a panic.
    #[non_exhaustive]
    #[error("{}: the thread that was committing the batch ended in a panic; open the store again", path.display())]
    Abandoned {
        /// The store.
        path: PathBuf,
    },

    /// A file operation failed.
    #[non_exhaustive]
    #[error("{}: cannot {op}: {source}{}", path.display(), remedy(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operation that failed.
        op: &'static str,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
}

/// What a user can do about an error of the operating system.
fn remedy(error: &io::Error) -> Cow<'static, str> {
    let remedy = match (error.kind(), error.raw_os_error().map(rustix::io::Errno::from_raw_os_error)) {
        (io::ErrorKind::FileTooLarge, _) => {
            return match getrlimit(Resource::Fsize).current {
                Some(limit) => {
                    format!("; the limit on the size of files is {limit} bytes: raise it (ulimit -f)").into()
                }
                None => "; the file system holds no file of that size: move the store to another one".into(),
            };
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "; check the owner and the rights of the file and its directory"
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            "; the file system is read-only: open the store read-only, or elsewhere"
        }
        (io::ErrorKind::NotFound, _) => "; it was removed or moved: open the store again",
        (io::ErrorKind::OutOfMemory, _) => {
            "; raise the limit on memory mappings (vm.max_map_count), or compact the store"
        }
        (io::ErrorKind::InvalidInput, _) if error.to_string().starts_with("expected a regular file") => {
            "; put the file back from a backup, or go on without it: `vecstore repair` sets it aside"
        }
        _ if error.get_ref().is_some_and(|inner| inner.is::<Unreadable>()) => {
            "; if the error persists the disk is failing: `vecstore repair` saves what can be read, in place or in a copy"
        }
        (_, Some(rustix::io::Errno::MFILE)) => "; raise the limit on open files (ulimit -n)",
        (_, Some(rustix::io::Errno::NOLCK)) => {
            "; writing needs a file system with advisory locks (flock): open read-only, or move the store"
        }
        _ => "; nothing that was acknowledged is affected: try again when the cause is gone",
    };
    remedy.into()
}

impl Error {
    pub(crate) fn io(path: &Path, op: &'static str, source: io::Error) -> Self {
        Error::Io { path: path.to_owned(), op, source: Arc::new(source) }
    }

    pub(crate) fn damaged(path: &Path, section: impl Into<String>, detail: impl Into<String>) -> Self {
        Error::Damaged { path: path.to_owned(), section: section.into(), detail: detail.into() }
    }

    pub(crate) fn bad_input(what: impl Into<String>) -> Self {
        Error::BadInput { what: what.into() }
    }
}

/// True for the errors that mean "the disk or the quota is full".
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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

/// The holder of a lock, as the record says: only for the texts of errors, nothing else is decided by it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Process id; `None` when the record has none.
    pub pid: Option<u32>,
    /// Name of the machine.
    pub host: String,
    /// Seconds since the holder took the lock, by this machine's clock.
    pub held_secs: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} on {} for {} s", self.host, self.held_secs),
            None => f.write_str("another process"),
        }
    }
}

/// Bytes that the disk cannot read, and what the operating system said.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub ranges: Vec<Range<usize>>,
    pub error: io::Error,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.iter();
        let ranges: Vec<String> =
            ranges.map(|range| format!("{} to {}", range.start, range.end.saturating_sub(1))).collect();
        write!(f, "bytes {} of the file cannot be read: {}", ranges.join(", "), self.error)
    }
}

impl std::error::Error for Unreadable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Unreadable {
    /// The error of a caller that needs these bytes.
    pub fn at(self, path: &Path) -> Error {
        Error::io(path, "read the segment", io::Error::new(self.error.kind(), self))
    }
}
