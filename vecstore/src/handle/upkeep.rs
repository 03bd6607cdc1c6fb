//! What a user asks of a whole store: compaction, deletion, backups.

use std::path::Path;

use crate::base::{Progress, Result};
use crate::care::{self, BackupOptions, BackupReport};
use crate::commit::Appended;
use crate::handle::Store;
use crate::merge::{CompactReport, Host, Merges};
use crate::types::OnDuplicate;

/// How a store is compacted.
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
    /// Segments of up to 4 GiB.
    pub fn new() -> Self {
        Self::default()
    }

    /// One segment, whatever its size: see [`Store::compact_full`].
    pub fn full(mut self, full: bool) -> Self {
        self.full = full;
        self
    }

    /// Reports here how many bytes were read, written and read back, and stops once it is told to: merges
    /// that are done stay, the one under way leaves nothing behind.
    pub fn progress(mut self, progress: &'a Progress) -> Self {
        self.progress = Some(progress);
        self
    }
}

impl Store {
    /// Merges neighbouring segments up to 4 GiB and drops superseded and deleted entries. Appends go on
    /// meanwhile; addresses do not change. Damaged segments stay as they are.
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

    /// Merges everything into one segment: one `.npy` file of all live rows, in commit order.
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
    /// As [`Store::compact_with`], and [`Error::Damaged`](crate::Error::Damaged) when a segment is: damage is
    /// never copied. What can be merged is merged all the same.
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for 2^32 entries or more.
    pub fn compact_full(&self) -> Result<CompactReport> {
        self.compact_with(CompactOptions::new().full(true))
    }

    /// [`Store::compact`] or [`Store::compact_full`], watched and stopped by a [`Progress`].
    ///
    /// # Errors
    /// As [`Store::append`] from writing; [`Error::Interrupted`](crate::Error::Interrupted) once it was
    /// stopped.
    pub fn compact_with(&self, options: CompactOptions<'_>) -> Result<CompactReport> {
        let most = (!options.full).then_some(self.inner.merging().max_segment);
        self.delivering(Merges::of(&*self.inner).compact(most, options.progress))
    }

    /// Deletes keys, durably and as a whole. Keys that are not stored are counted as skipped.
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

    /// Deletes all keys that begin with a prefix (with an empty one: all keys), durably and as a whole. Looks
    /// at every key, as [`Snapshot::keys_with_prefix`](crate::Snapshot::keys_with_prefix) does; a key that
    /// another writer adds meanwhile stays.
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

    /// Copies the store as it is now to `dest`, while writers go on. The second time only new segments are
    /// transferred. The result is a store; opened for writing it becomes a history of its own, and is refused
    /// as the destination of further backups.
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

    /// [`Store::backup`] with options: of a version, with links, one of several side by side, watched and
    /// stopped.
    ///
    /// # Errors
    /// [`Error::BackupRefused`](crate::Error::BackupRefused) when `dest` holds another store, or one that was
    /// written to or is ahead, or lies in this store; [`Error::AlreadyExists`](crate::Error::AlreadyExists)
    /// when it is not empty and no store; [`Error::NoSuchVersion`](crate::Error::NoSuchVersion);
    /// [`Error::Busy`](crate::Error::Busy) when another backup is under way;
    /// [`Error::Interrupted`](crate::Error::Interrupted) once it was stopped;
    /// [`Error::NoSpace`](crate::Error::NoSpace), [`Error::Io`](crate::Error::Io). Among several backups
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a name that does not come after the
    /// others.
    pub fn backup_with(&self, dest: impl AsRef<Path>, options: BackupOptions<'_>) -> Result<BackupReport> {
        self.delivering(care::backup::backup(&*self.inner, dest.as_ref(), options))
    }
}
