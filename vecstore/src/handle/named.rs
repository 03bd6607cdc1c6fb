//! What a user asks of a whole store: compaction and named checkpoints.

use crate::base::{Error, Result};
use crate::lock::LOCK_MANIFEST;
use crate::state::named::PIN_PREFIX;

use crate::commit::Appended;

use crate::handle::Store;
use crate::lock::Lock;
use crate::merge::Compacted;
use crate::state::manifest::Manifest;
use crate::state::named;
use crate::types::OnDuplicate;

/// A named checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// Its name.
    pub name: String,
    /// Last commit it holds.
    pub last_commit: u64,
    /// Segments it pins.
    pub segments: usize,
    /// Bytes of these segments.
    pub bytes: u64,
}

impl Store {
    /// Merges neighbouring segments up to 4 GiB and drops superseded and deleted entries. Appends go on meanwhile;
    /// addresses do not change. Damaged segments stay as they are.
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
    /// [`Error::NoSpace`](crate::Error::NoSpace), [`Error::Busy`](crate::Error::Busy),
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), [`Error::Io`](crate::Error::Io).
    pub fn compact(&self) -> Result<Compacted> {
        self.inner.compact(Some(self.inner.max_segment))
    }

    /// Merges everything into one segment: one `.npy` file of all live rows, in commit order.
    ///
    /// # Errors
    /// As [`Store::compact`], and [`Error::Damaged`](crate::Error::Damaged) when a segment is: damage is never copied. What
    /// can be merged is merged all the same. [`Error::BadInput`](crate::Error::BadInput) for 2^32 entries or more.
    pub fn compact_full(&self) -> Result<Compacted> {
        self.inner.compact(None)
    }

    /// Deletes keys, durably and as a whole. Keys that are not stored are counted as skipped.
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

    /// Keeps the store as it is now under a name, until it is [dropped](Store::drop_checkpoint): open it with
    /// [`OpenOptions::at_checkpoint`](crate::OpenOptions::at_checkpoint). Merges leave its files alone.
    ///
    /// # Errors
    /// [`Error::BadInput`](crate::Error::BadInput) for a name that is taken or not possible; otherwise as
    /// [`Store::checkpoint`].
    pub fn create_checkpoint(&self, name: &str) -> Result<CheckpointInfo> {
        named::check_name(name)?;
        refuse_pin(name)?;
        self.pin(name)
    }

    /// Makes a named checkpoint, or the pin of a backup.
    pub(crate) fn pin(&self, name: &str) -> Result<CheckpointInfo> {
        self.inner.locked("create a checkpoint", |writer, view| writer.checkpoint(view))?;
        self.under_manifest_lock("create a checkpoint", |store| {
            let manifest = Manifest::read(&*store.inner.vfs, &store.inner.path)?;
            named::write(&*store.inner.vfs, &store.inner.path, name, &manifest)?;
            Ok(info(name, &manifest))
        })
    }

    /// The named checkpoints, by name.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) when one cannot be read; nothing is removed by merges until it is
    /// dropped.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointInfo>> {
        let all = named::list(&*self.inner.vfs, &self.inner.path)?;
        let named = all.iter().filter(|version| !version.name.starts_with(PIN_PREFIX));
        Ok(named.map(|version| info(&version.name, &version.manifest)).collect())
    }

    /// Drops a named checkpoint; files that only it needed are removed.
    ///
    /// # Errors
    /// [`Error::BadInput`](crate::Error::BadInput) when there is none of that name, or it is that of a backup under way.
    pub fn drop_checkpoint(&self, name: &str) -> Result<()> {
        refuse_pin(name)?;
        self.unpin(name)
    }

    /// Drops a named checkpoint, or the pin of a backup.
    pub(crate) fn unpin(&self, name: &str) -> Result<()> {
        self.under_manifest_lock("drop a checkpoint", |store| {
            named::drop_named(&*store.inner.vfs, &store.inner.path, name)
        })?;
        self.inner.tidy()
    }

    fn under_manifest_lock<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Store) -> Result<T>,
    ) -> Result<T> {
        let timeout = self.inner.writing_timeout(action)?;
        let mut lock = Lock::open(&*self.inner.vfs, &self.inner.path.join(LOCK_MANIFEST), "manifest")?;
        lock.acquire_named(&timeout)?;
        let result = work(self);
        lock.release();
        result
    }
}

/// Backups under way hold on to their files by such names.
fn refuse_pin(name: &str) -> Result<()> {
    match name.starts_with(PIN_PREFIX) {
        true => Err(Error::bad_input(format!(
            "\"{name}\" cannot name a checkpoint: names that begin with \"{PIN_PREFIX}\" are those of backups under way"
        ))),
        false => Ok(()),
    }
}

fn info(name: &str, manifest: &Manifest) -> CheckpointInfo {
    CheckpointInfo {
        name: name.to_owned(),
        last_commit: manifest.body.last_commit(),
        segments: manifest.body.segments.len(),
        bytes: manifest.body.segments.iter().map(|record| record.file_len).sum(),
    }
}
