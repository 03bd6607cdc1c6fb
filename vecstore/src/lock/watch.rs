//! LOCK without the lock.

use std::path::{Path, PathBuf};

use super::check_place;
use super::record::Record;
use crate::base::Result;
use crate::vfs::{LockFile, Vfs};

/// Reads LOCK's counter without taking the lock: what readers do to see whether anything changed.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    file: Option<Box<dyn LockFile>>,
}

impl Watch {
    /// A missing or unreadable LOCK is no error: such a store is listed on every refresh.
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Self {
        Watch { path: path.to_owned(), file: vfs.open_lock(path, false).ok() }
    }

    /// Refuses when the store that was opened is no longer at its path.
    pub fn check_place(&self) -> Result<()> {
        self.file.as_deref().map_or(Ok(()), |file| check_place(file, &self.path))
    }

    /// The counter; `None` when it cannot be read.
    pub fn counter(&self) -> Option<u64> {
        Some(self.record()?.counter)
    }

    /// The record; `None` when it is void or cannot be read.
    pub fn record(&self) -> Option<Record> {
        Record::read(self.file.as_deref()?).ok().flatten()
    }

    /// A process holds the lock, or died holding it.
    pub fn is_held(&self) -> bool {
        self.record().is_some_and(|record| record.pid != 0)
    }
}
