//! The handle that only reads.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::Result;
use crate::handle::{DerivedInfo, ReadOptions, Shared, VersionInfo, look};
use crate::read::Snapshot;
use crate::types::Fingerprint;

/// A handle that only reads a store. It takes no lock and writes nothing, so that it also works on read-only
/// media. Readers never wait for writers, and writers never wait for readers.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// use vecstore::{OnDuplicate, Reader, Store, StoreConfig};
///
/// let store = Store::create(&path, StoreConfig::new(1))?; // in another process, say
/// let reader = Reader::open(&path)?;
/// let mut batch = store.batch();
/// batch.push("a.jpg", &[1.0f32])?;
/// store.append(&mut batch, OnDuplicate::Skip)?;
/// assert!(reader.snapshot().is_empty()); // as of the opening
/// assert_eq!(reader.refresh()?.len(), 1);
/// # Ok::<(), vecstore::Error>(())
/// ```
pub struct Reader {
    pub(crate) inner: Arc<Shared>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens a store for reading, with default options. The cost grows with the number of files, not with the
    /// number of rows.
    ///
    /// Files are mapped: a file that another program truncates, or a sector that the disk cannot read, ends
    /// the process with SIGBUS, and a byte that changed on the disk is returned without an error.
    /// [`ReadOptions::read_mode`] and [`ReadOptions::check`] turn these into errors.
    ///
    /// # Errors
    /// As [`ReadOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Reader> {
        ReadOptions::new().open(path)
    }

    /// The store's directory, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The state that this handle knows: as of its opening, or as of its last refresh.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    /// Looks for new commits, and returns the newest state. Costs one small read if there are none. A reader
    /// at a version keeps the version's state.
    ///
    /// # Errors
    /// [`Error::Moved`](crate::Error::Moved) if there is another store at the path now, or none: open the
    /// store again. Otherwise as [`Reader::open`], if the directory cannot be read any more.
    pub fn refresh(&self) -> Result<Snapshot> {
        self.inner.refresh()?;
        Ok(self.snapshot())
    }

    /// Waits until the store has a commit after `after`, for at most `timeout`, and returns the newest state,
    /// with or without such a commit. Polls every 1 to 20 milliseconds.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("photos.vecs");
    /// # use vecstore::{Reader, Store, StoreConfig};
    /// # let store = Store::create(&path, StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("a.jpg", &[1.0f32])?;
    /// # store.append(&mut batch, vecstore::OnDuplicate::Skip)?;
    /// let reader = Reader::open(&path)?;
    /// let mut seen = 0;
    /// let snapshot = reader.wait_for_commit(seen, std::time::Duration::from_secs(60))?;
    /// for entry in snapshot.iter_since(seen) {
    ///     println!("{:?}", entry?);
    /// }
    /// seen = snapshot.last_commit();
    /// # assert_eq!(seen, 1);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::refresh`].
    pub fn wait_for_commit(&self, after: u64, timeout: Duration) -> Result<Snapshot> {
        look::wait_for_commit(&self.inner, after, timeout)
    }

    /// Returns an error if a fingerprint other than `fingerprint` (of the model that makes the queries, say)
    /// is recorded. Any fingerprint passes if none is recorded.
    ///
    /// # Errors
    /// [`Error::FingerprintMismatch`](crate::Error::FingerprintMismatch).
    pub fn check_fingerprint(&self, fingerprint: &Fingerprint) -> Result<()> {
        look::is_recorded(&self.inner, self.snapshot().fingerprint(), fingerprint).map(drop)
    }

    /// All versions, sorted by name.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) if a version cannot be read.
    pub fn versions(&self) -> Result<Vec<VersionInfo>> {
        look::versions(&self.inner)
    }

    /// The derived files that the manifest lists as of the last checkpoint; for a reader at a version, the
    /// derived files that the version lists.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("s");
    /// # use vecstore::{Reader, Store, StoreConfig};
    /// # Store::create(&path, StoreConfig::new(1))?;
    /// let bytes: u64 = Reader::open(&path)?.derived_files()?.iter().map(|file| file.bytes).sum();
    /// # assert_eq!(bytes, 0);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::refresh`]; [`Error::NoSuchVersion`](crate::Error::NoSuchVersion) if the version of this
    /// reader was removed.
    pub fn derived_files(&self) -> Result<Vec<DerivedInfo>> {
        look::derived_files(&self.inner)
    }
}
