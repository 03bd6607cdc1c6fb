//! Remedies for errors of the operating system.

use std::borrow::Cow;
use std::io;

use rustix::process::{Resource, getrlimit};

use super::Unreadable;

/// True for the errors that mean "the disk or the quota is full".
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// True for errors of the operating system that repeating the call does not cure.
pub(super) fn is_lasting(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::FileTooLarge
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidData
            | ErrorKind::UnexpectedEof
            | ErrorKind::Unsupported
    ) || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        || error.get_ref().is_some_and(|inner| inner.is::<Unreadable>())
}

/// The remedy for an error of the operating system, as the end of the error's text.
pub(super) fn remedy(error: &io::Error) -> Cow<'static, str> {
    let remedy = match (error.kind(), error.raw_os_error().map(rustix::io::Errno::from_raw_os_error)) {
        (io::ErrorKind::FileTooLarge, _) => {
            return match getrlimit(Resource::Fsize).current {
                Some(limit) => {
                    format!("; the limit on the size of files is {limit} bytes: raise it (ulimit -f)").into()
                }
                None => "; the file system cannot hold a file of this size: move the store to another".into(),
            };
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "; check the owner and the permissions of the file and its directory"
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            "; the file system is read-only: a store on it can be read, but not written"
        }
        (io::ErrorKind::NotFound, _) => "; the file was removed or moved: open the store again",
        (io::ErrorKind::OutOfMemory, _) => {
            "; there is not enough memory: raise the limit on memory mappings (vm.max_map_count), compact \
             the store, or map its segments instead of copying them"
        }
        (io::ErrorKind::InvalidInput, _) if error.to_string().starts_with("expected a regular file") => {
            "; put the file back from a backup, or go on without it: `vecstore repair` sets it aside"
        }
        _ if error.get_ref().is_some_and(|inner| inner.is::<Unreadable>()) => {
            "; if the error persists the disk is failing: `vecstore repair` saves all readable entries, in \
             place or in a copy of the store"
        }
        (_, Some(rustix::io::Errno::IO)) => {
            "; if the error persists the disk is failing: `vecstore repair` saves all readable entries, and \
             `salvage` returns them"
        }
        (_, Some(rustix::io::Errno::MFILE)) => "; raise the limit on open files (ulimit -n)",
        (_, Some(rustix::io::Errno::NOLCK)) => {
            "; writing needs a file system with advisory locks (flock): open read-only, or move the store"
        }
        _ => "; acknowledged entries are not affected: try again when the cause is gone",
    };
    remedy.into()
}
