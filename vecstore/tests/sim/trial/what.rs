//! The operations of a trial, their handles and processes.

use std::io::ErrorKind;

use vecstore::{Error, OnDuplicate};

use super::super::act::RESTORED;
use super::super::oracle::Value;
use super::super::run::Do;

/// An operation of a handle.
#[derive(Clone, Debug)]
pub(super) enum What<'a> {
    Write(OnDuplicate, &'a [(String, Option<Value>)]),
    Do(Do),
}

impl What<'_> {
    /// True if the handle knows every commit afterwards.
    pub(super) fn catches_up(&self) -> bool {
        self.shows() || matches!(self, What::Do(Do::Refresh(_) | Do::Merge(_) | Do::FullMerge(_)))
    }

    /// True if a caller may rely on the state that the handle shows afterwards.
    pub(super) fn shows(&self) -> bool {
        match self {
            What::Write(..) => true,
            What::Do(what) => matches!(
                what,
                Do::Append(_)
                    | Do::Replace(_)
                    | Do::Skip(_)
                    | Do::Delete(_)
                    | Do::Setting(_)
                    | Do::Checkpoint(_)
                    | Do::Create(_)
                    | Do::Open(_)
            ),
        }
    }
}

pub(super) fn process_of(handle: usize) -> usize {
    handle % RESTORED / 2
}

pub(super) fn handle_of(what: Do) -> usize {
    match what {
        Do::Create(handle)
        | Do::Open(handle)
        | Do::Append(handle)
        | Do::Together(handle)
        | Do::Replace(handle)
        | Do::Skip(handle)
        | Do::Delete(handle)
        | Do::Setting(handle)
        | Do::Fingerprint(handle)
        | Do::Checkpoint(handle)
        | Do::Refresh(handle)
        | Do::Merge(handle)
        | Do::FullMerge(handle)
        | Do::Name(handle)
        | Do::DropName(handle)
        | Do::Backup(handle)
        | Do::Dated(handle)
        | Do::Restore(handle)
        | Do::Close(handle) => handle,
        Do::Hit(_) | Do::Repair => 0,
    }
}

/// True for the errors of a full disk.
pub(super) fn says_full(error: &Error) -> bool {
    match error {
        Error::NoSpace { .. } => true,
        Error::Io { cause: source, .. } => {
            matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        }
        _ => false,
    }
}
