//! Versions: states of the store that are kept under a name, and their restoration.

use std::sync::Arc;

use crate::base::{Error, Result};
use crate::care::pins;
use crate::commit::Appended;
use crate::handle::{Store, VersionInfo, look};
use crate::read::Snapshot;
use crate::state::{PIN_PREFIX, load, versions};
use crate::types::OnDuplicate;

/// How often a restoration is tried while other writers commit.
const ATTEMPTS: usize = 10;

impl Store {
    /// Keeps the store's present state under a name, until the version is [removed](Store::remove_version).
    /// [`ReadOptions::at_version`](crate::ReadOptions::at_version) opens it. Merges do not delete the files
    /// of a version. A name has at most 100 ASCII letters, digits, `.`, `-` and `_`, and begins neither with
    /// a dot nor with `tmp-` or `backup-`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("s");
    /// use vecstore::{OnDuplicate, ReadOptions, Store, StoreConfig};
    /// let store = Store::create(&path, StoreConfig::new(1))?;
    /// store.create_version("empty")?;
    /// let mut batch = store.batch();
    /// batch.push("a", &[1.0f32])?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// assert!(ReadOptions::new().at_version("empty").open(&path)?.snapshot().is_empty());
    /// assert_eq!(store.versions()?[0].name, "empty");
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::VersionExists`] for a name that is taken, [`Error::InvalidArgument`] for an invalid name;
    /// otherwise as [`Store::checkpoint`].
    pub fn create_version(&self, name: &str) -> Result<VersionInfo> {
        versions::check_name(name)?;
        refuse_pin(name)?;
        let manifest = self.delivering(pins::pin(&*self.inner, name, None))?;
        Ok(VersionInfo::of(name, &manifest))
    }

    /// All versions, sorted by name.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a version cannot be read. Merges delete no file until that version is removed.
    pub fn versions(&self) -> Result<Vec<VersionInfo>> {
        look::versions(&self.inner)
    }

    /// Removes a version, and the files that only this version needs.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// store.create_version("before")?;
    /// store.remove_version("before")?;
    /// assert!(store.versions()?.is_empty());
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoSuchVersion`] if there is no version of this name; [`Error::InvalidArgument`] for the name
    /// of a running backup's pin.
    pub fn remove_version(&self, name: &str) -> Result<()> {
        refuse_pin(name)?;
        self.delivering(pins::unpin(&*self.inner, name))
    }

    /// Restores a version, in one commit: afterwards the store has exactly the entries of the version.
    /// Entries that were appended since are superseded or deleted; other versions still have them. Settings
    /// and fingerprint stay as they are. Takes memory for the entries that differ.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use vecstore::{OnDuplicate, Store, StoreConfig};
    /// let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let mut batch = store.batch();
    /// batch.push("a", &[1.0f32])?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// store.create_version("good")?;
    /// batch.push("a", &[2.0f32])?;
    /// batch.push("b", &[3.0f32])?;
    /// store.append(&mut batch, OnDuplicate::Replace)?;
    /// let done = store.restore_version("good")?;
    /// assert_eq!((done.replaced, done.deleted), (1, 1));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoSuchVersion`]; [`Error::InvalidArgument`] if an attribute of the version has another type
    /// in the store now; [`Error::StoreChanged`] if other writers committed during each of ten attempts;
    /// otherwise as [`Store::append`].
    pub fn restore_version(&self, name: &str) -> Result<Appended> {
        let mut attempts = 1;
        loop {
            match self.try_restore(name) {
                Err(Error::StoreChanged { .. }) if attempts < ATTEMPTS => attempts += 1,
                restored => return restored,
            }
        }
    }

    fn try_restore(&self, name: &str) -> Result<Appended> {
        let now = self.refresh()?;
        let (vfs, dir) = (&*self.inner.vfs, &*self.inner.path);
        let known = Arc::clone(&self.inner.view.read());
        let manifest = versions::read(vfs, dir, name)?;
        let then = Snapshot::new(Arc::new(load::listed(vfs, dir, &manifest, Some(&known))?));
        // A commit has at most one entry of a key: entries of the same key and commit are the same.
        let commit_of = |snapshot: &Snapshot, key: &[u8]| -> Result<Option<u64>> {
            Ok(snapshot.get(key)?.map(|entry| entry.address().commit))
        };
        let mut batch = self.batch().allow_non_finite(true);
        for entry in &then {
            let entry = entry?;
            if commit_of(&now, entry.key())? != Some(entry.address().commit) {
                batch.push_entry(&entry)?;
            }
        }
        for entry in &now {
            let entry = entry?;
            if !then.contains(entry.key())? {
                batch.delete(entry.key())?;
            }
        }
        batch.expect_last_commit(now.last_commit());
        self.append(&mut batch, OnDuplicate::Replace)
    }
}

/// Refuses the names of pins: a running backup keeps its files with a version of such a name.
fn refuse_pin(name: &str) -> Result<()> {
    match name.starts_with(PIN_PREFIX) {
        true => Err(Error::invalid(format!(
            "\"{name}\" cannot name a version: names that begin with \"{PIN_PREFIX}\" are those of backups \
             under way"
        ))),
        false => Ok(()),
    }
}
