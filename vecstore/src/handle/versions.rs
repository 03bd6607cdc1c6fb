//! Versions: states of the store that are kept under a name, and going back to one.

use std::sync::Arc;

use crate::base::{Error, Result};
use crate::care::pins;
use crate::commit::Appended;
use crate::handle::{Store, VersionInfo, look};
use crate::read::Snapshot;
use crate::state::{PIN_PREFIX, load, versions};
use crate::types::OnDuplicate;

/// How often going back is begun anew while other writers commit.
const ATTEMPTS: usize = 10;

impl Store {
    /// Keeps the store as it is now under a name, until the version is [removed](Store::remove_version): open
    /// it with [`ReadOptions::at_version`](crate::ReadOptions::at_version). Merges leave its files alone.
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
    /// [`Error::VersionExists`] for a name that is taken, [`Error::InvalidArgument`] for one that is not
    /// possible; otherwise as [`Store::checkpoint`].
    pub fn create_version(&self, name: &str) -> Result<VersionInfo> {
        versions::check_name(name)?;
        refuse_pin(name)?;
        let manifest = self.delivering(pins::pin(&*self.inner, name, None))?;
        Ok(VersionInfo::of(name, &manifest))
    }

    /// The versions, by name.
    ///
    /// # Errors
    /// [`Error::Damaged`] when one cannot be read; nothing is removed by merges until it is removed.
    pub fn versions(&self) -> Result<Vec<VersionInfo>> {
        look::versions(&self.inner)
    }

    /// Removes a version, and the files that only it needed.
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
    /// [`Error::NoSuchVersion`] when there is none of that name; [`Error::InvalidArgument`] for that of a
    /// backup under way.
    pub fn remove_version(&self, name: &str) -> Result<()> {
        refuse_pin(name)?;
        self.delivering(pins::unpin(&*self.inner, name))
    }

    /// Goes back to a version, as one commit: afterwards the store has the entries that the version has, and
    /// no others. What came in between stays in earlier commits, and in other versions. Settings and
    /// fingerprint stay as they are. Takes memory for the entries that differ.
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
    /// [`Error::NoSuchVersion`]; [`Error::InvalidArgument`] when an attribute of the version has another type
    /// in the store by now; [`Error::StoreChanged`] when other writers kept committing meanwhile; otherwise
    /// as [`Store::append`].
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
        // Of one key a commit has one entry: it is the same where the commit is.
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

/// Backups under way hold on to their files by versions with such names.
fn refuse_pin(name: &str) -> Result<()> {
    match name.starts_with(PIN_PREFIX) {
        true => Err(Error::invalid(format!(
            "\"{name}\" cannot name a version: names that begin with \"{PIN_PREFIX}\" are those of backups \
             under way"
        ))),
        false => Ok(()),
    }
}
