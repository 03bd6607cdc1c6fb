//! Operations on a whole store: compaction, deletion, backups.

use std::path::Path;

use crate::base::{Progress, Result};
use crate::care::{self, BackupOptions, BackupReport};
use crate::commit::Appended;
use crate::handle::Store;
use crate::merge::{CompactReport, Host, Merges};
use crate::types::OnDuplicate;

/// Options of a compaction.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # use vecstore::{CompactOptions, Progress, Store, StoreConfig};
/// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
/// let progress = Progress::new();
/// store.compact_with(CompactOptions::new().full(true).progress(&progress))?;
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CompactOptions<'a> {
    full: bool,
    progress: Option<&'a Progress>,
}

impl<'a> CompactOptions<'a> {
    /// The defaults: segments of at most 4 GiB, and no progress.
    pub fn new() -> Self {
        Self::default()
    }

    /// If `full` is true, merges everything into one segment, whatever its size: see [`Store::compact_full`].
    pub fn full(mut self, full: bool) -> Self {
        self.full = full;
        self
    }

    /// Counts in `progress` the bytes that were read, written and read back. A compaction that is stopped
    /// there keeps its finished merges, and leaves nothing of the unfinished one behind.
    pub fn progress(mut self, progress: &'a Progress) -> Self {
        self.progress = Some(progress);
        self
    }
}

impl Store {
    /// Merges neighbouring segments into segments of at most 4 GiB, and drops superseded and deleted entries.
    /// Appends may continue meanwhile; addresses do not change. Damaged segments stay as they are.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # for key in ["a", "b"] {
    /// #     let mut batch = store.batch();
    /// #     batch.push(key, &[1.0f32])?;
    /// #     store.append(&mut batch, OnDuplicate::Skip)?;
    /// # }
    /// let done = store.compact()?;
    /// assert_eq!((done.segments_before, done.segments_after), (2, 1));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::compact_with`].
    pub fn compact(&self) -> Result<CompactReport> {
        self.compact_with(CompactOptions::new())
    }

    /// Merges all segments into one: a single `.npy` file of all live rows, in commit order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("a", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// store.compact_full()?;
    /// assert_eq!(store.snapshot().segments().len(), 1);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::compact_with`]; [`Error::Damaged`](crate::Error::Damaged) if a segment is damaged: damage
    /// is never copied, but the sound segments are merged.
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for 2^32 entries or more.
    pub fn compact_full(&self) -> Result<CompactReport> {
        self.compact_with(CompactOptions::new().full(true))
    }

    /// Compacts the store as the options say: as [`Store::compact`] or [`Store::compact_full`], with a
    /// [`Progress`] to watch and stop it.
    ///
    /// # Errors
    /// The errors of writing, and in files of earlier commits, as [`Store::append`];
    /// [`Error::Interrupted`](crate::Error::Interrupted) if the compaction was stopped.
    pub fn compact_with(&self, options: CompactOptions<'_>) -> Result<CompactReport> {
        let most = (!options.full).then_some(self.inner.merging().max_segment);
        self.delivering(Merges::of(&*self.inner).compact(most, options.progress))
    }

    /// Deletes keys, durably and as a whole: in one commit. Keys that are not stored are counted as skipped.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("a", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let done = store.delete(&["a", "never stored"])?;
    /// assert_eq!((done.deleted, done.skipped), (1, 1));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn delete<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Appended> {
        let mut batch = self.batch();
        for key in keys {
            batch.delete(key)?;
        }
        self.append(&mut batch, OnDuplicate::Skip)
    }

    /// Deletes all keys that begin with `prefix` (all keys if it is empty), durably and as a whole. Scans
    /// every key, as [`Snapshot::keys_with_prefix`](crate::Snapshot::keys_with_prefix) does. A key that
    /// another writer adds meanwhile is not deleted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let mut batch = store.batch();
    /// for key in ["2023/a.jpg", "2024/a.jpg", "2024/b.jpg"] {
    ///     batch.push(key, &[1.0f32])?;
    /// }
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// assert_eq!(store.delete_prefix("2024/")?.deleted, 2);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::append`] and [`Store::refresh`].
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Appended> {
        let snapshot = self.refresh()?;
        let keys: Vec<&[u8]> = snapshot.keys_with_prefix(prefix).collect::<Result<_>>()?;
        self.delete(&keys)
    }

    /// Copies the store's present state to the directory `dest`, while writers continue. A further backup
    /// into the same directory copies only new segments. A backup is itself a store. After it has been
    /// written to, it has a history of its own, and is refused as the destination of further backups.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let report = store.backup(dir.path().join("backup"))?;
    /// assert_eq!(report.linked, 0);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::backup_with`].
    pub fn backup(&self, dest: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_with(dest, BackupOptions::new())
    }

    /// [`Store::backup`] with options: a version to copy, links instead of copies, several backups side by
    /// side, a progress to watch and stop it.
    ///
    /// # Errors
    /// [`Error::BackupRefused`](crate::Error::BackupRefused) if `dest` holds another store, a backup that was
    /// written to, or commits that this store does not have, or if it lies in this store;
    /// [`Error::AlreadyExists`](crate::Error::AlreadyExists) if `dest` is neither empty nor a store;
    /// [`Error::NoSuchVersion`](crate::Error::NoSuchVersion); [`Error::Busy`](crate::Error::Busy) if another
    /// backup is running; [`Error::Interrupted`](crate::Error::Interrupted) if the backup was stopped;
    /// [`Error::NoSpace`](crate::Error::NoSpace), [`Error::Io`](crate::Error::Io). With
    /// [`BackupOptions::keep`], [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a name that
    /// does not come after the names of the earlier backups.
    pub fn backup_with(&self, dest: impl AsRef<Path>, options: BackupOptions<'_>) -> Result<BackupReport> {
        self.delivering(care::backup::backup(&*self.inner, dest.as_ref(), options))
    }
}
