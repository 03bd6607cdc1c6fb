//! Reading the record of LOCK without taking the lock.

use std::path::{Path, PathBuf};

use super::check_place;
use super::record::Record;
use crate::base::Result;
use crate::vfs::{LockFile, Vfs};

/// Reads the record of LOCK without the lock: readers compare its counter to notice changes.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    file: Option<Box<dyn LockFile>>,
}

impl Watch {
    /// Opens LOCK. A missing or unreadable LOCK is no error: a reader then lists the store on every refresh.
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Self {
        Watch { path: path.to_owned(), file: vfs.open_lock(path, false).ok() }
    }

    /// Fails if the store that was opened is no longer at its path.
    pub fn check_place(&self) -> Result<()> {
        self.file.as_deref().map_or(Ok(()), |file| check_place(file, &self.path))
    }

    /// The counter; `None` if the record is void or cannot be read.
    pub fn counter(&self) -> Option<u64> {
        Some(self.record()?.counter)
    }

    /// The record; `None` if it is void or cannot be read.
    pub fn record(&self) -> Option<Record> {
        Record::read(self.file.as_deref()?).ok().flatten()
    }

    /// True if a process holds the lock, or died while it held the lock.
    pub fn is_held(&self) -> bool {
        self.record().is_some_and(|record| record.pid != 0)
    }
}
