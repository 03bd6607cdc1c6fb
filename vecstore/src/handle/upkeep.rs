//! What a user asks of a whole store: compaction and versions.

use crate::base::{Error, Result};
use crate::care::{self, BackupReport, pins};
use crate::merge::{Host, Merges};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::commit::Appended;
use crate::format::system_time;
use crate::handle::Store;
use crate::merge::Compacted;
use crate::state::{DERIVED, DerivedRecord, Manifest, PIN_PREFIX, versions};
use crate::types::OnDuplicate;

/// A version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionInfo {
    /// Its name.
    pub name: String,
    /// Last commit it holds.
    pub last_commit: u64,
    /// Segments it pins.
    pub segments: usize,
    /// Bytes of these segments.
    pub bytes: u64,
    /// When it was made, by the clock of its maker; `None` where that is not known.
    pub time: Option<SystemTime>,
}

/// A file of what is derived from a segment: it saves time, and nothing is lost with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DerivedInfo {
    /// The file.
    pub path: PathBuf,
    /// What it is, in the four letters of `docs/FORMAT.md`: `LIVE` for a liveness bitmap, `KEYF` for a key filter.
    pub kind: String,
    /// Its length in bytes.
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
        Merges::of(&*self.inner).compact(Some(self.inner.merging().max_segment))
    }

    /// Merges everything into one segment: one `.npy` file of all live rows, in commit order.
    ///
    /// # Errors
    /// As [`Store::compact`], and [`Error::Damaged`](crate::Error::Damaged) when a segment is: damage is never copied. What
    /// can be merged is merged all the same. [`Error::BadInput`](crate::Error::BadInput) for 2^32 entries or more.
    pub fn compact_full(&self) -> Result<Compacted> {
        Merges::of(&*self.inner).compact(None)
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

    /// Keeps the store as it is now under a name, until it is [dropped](Store::drop_version): open it with
    /// [`OpenOptions::at_version`](crate::OpenOptions::at_version). Merges leave its files alone.
    ///
    /// # Errors
    /// [`Error::BadInput`](crate::Error::BadInput) for a name that is taken or not possible; otherwise as
    /// [`Store::checkpoint`].
    pub fn create_version(&self, name: &str) -> Result<VersionInfo> {
        versions::check_name(name)?;
        refuse_pin(name)?;
        let manifest = pins::pin(&*self.inner, name)?;
        Ok(info(name, &manifest))
    }

    /// The versions, by name.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) when one cannot be read; nothing is removed by merges until it is
    /// dropped.
    pub fn versions(&self) -> Result<Vec<VersionInfo>> {
        let all = versions::list(&*self.inner.vfs, &self.inner.path)?;
        let named = all.iter().filter(|version| !version.name.starts_with(PIN_PREFIX));
        Ok(named.map(|version| info(&version.name, &version.manifest)).collect())
    }

    /// The derived files that the last checkpoint listed, or the version that this handle shows.
    ///
    /// # Errors
    /// As [`Store::refresh`]; [`Error::BadInput`] when the version was dropped.
    pub fn derived_files(&self) -> Result<Vec<DerivedInfo>> {
        let (vfs, dir) = (&*self.inner.vfs, &*self.inner.path);
        let manifest = match &self.inner.version {
            Some(version) => versions::read(vfs, dir, version)?,
            None => Manifest::read(vfs, dir)?,
        };
        let info = |record: &DerivedRecord| DerivedInfo {
            path: dir.join(DERIVED).join(record.name().to_string()),
            kind: String::from_utf8_lossy(&record.kind).into_owned(),
            bytes: record.file_len,
        };
        Ok(manifest.body.derived.iter().map(info).collect())
    }

    /// Drops a version; files that only it needed are removed.
    ///
    /// # Errors
    /// [`Error::BadInput`](crate::Error::BadInput) when there is none of that name, or it is that of a backup under way.
    pub fn drop_version(&self, name: &str) -> Result<()> {
        refuse_pin(name)?;
        pins::unpin(&*self.inner, name)
    }

    /// Copies the store as it is now to `dest`, while writers go on. The second time only new segments are transferred.
    /// The result is a store; opened for writing it becomes a history of its own, and is refused as the destination of
    /// further backups.
    ///
    /// # Errors
    /// [`Error::BadInput`] when `dest` holds another store, or one that was written to or is ahead;
    /// [`Error::AlreadyExists`] when it is not empty and no store; [`Error::NoSpace`], [`Error::Io`],
    /// [`Error::Busy`] when another backup is under way.
    pub fn backup(&self, dest: impl AsRef<Path>) -> Result<BackupReport> {
        care::backup::backup(&*self.inner, dest.as_ref())
    }

    /// [Backs up](Store::backup) into the new directory `name` below `parent`. Files that the backup before it has are linked
    /// from there. Of the backups of this store whose names differ from `name` in nothing but digits (`2026-11-30`, say) the
    /// newest `keep` stay, by their names.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// for name in ["night-001", "night-002", "night-003"] {
    ///     store.backup_rotating(dir.path().join("backups"), name, 2)?;
    /// }
    /// assert_eq!(std::fs::read_dir(dir.path().join("backups")).unwrap().count(), 2);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::backup`], and [`Error::BadInput`] for `keep` 0, and for a name that is no name, or not after the others.
    pub fn backup_rotating(&self, parent: impl AsRef<Path>, name: &str, keep: usize) -> Result<BackupReport> {
        care::rotate::rotate(&*self.inner, parent.as_ref(), name, keep)
    }
}

/// Backups under way hold on to their files by such names.
fn refuse_pin(name: &str) -> Result<()> {
    match name.starts_with(PIN_PREFIX) {
        true => Err(Error::bad_input(format!(
            "\"{name}\" cannot name a version: names that begin with \"{PIN_PREFIX}\" are those of backups under way"
        ))),
        false => Ok(()),
    }
}

fn info(name: &str, manifest: &Manifest) -> VersionInfo {
    VersionInfo {
        name: name.to_owned(),
        last_commit: manifest.body.last_commit(),
        segments: manifest.body.segments.len(),
        bytes: manifest.body.segments.iter().map(|record| record.file_len).sum(),
        time: system_time(manifest.time),
    }
}
