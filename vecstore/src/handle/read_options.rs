//! Opening a store for reading, and the options for it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::base::{Error, Result};
use crate::handle::open::absolute;
use crate::handle::{Reader, Shared};
use crate::lock::{LOCK, Watch};
use crate::merge::MAX_SEGMENT;
use crate::state::{load, versions};
use crate::vfs::{Careful, RealFs, Vfs};

/// How segments are read into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadMode {
    /// Segments are mapped: nothing is copied, and only the parts that are used are read. A file that another
    /// program truncates, or a sector that the disk cannot read, ends the process with SIGBUS.
    Mapped,
    /// Segments are read as a whole when the store is opened, and when segments are added. An unreadable file
    /// is an error, and checksums are compared as with [`ReadOptions::check`]. Takes as much memory as the
    /// segments have bytes.
    Copied,
}

impl ReadMode {
    /// The file system that reads segments in this mode.
    pub(super) fn vfs(self, vfs: &Arc<dyn Vfs>, check: bool) -> Arc<dyn Vfs> {
        match (self, check) {
            (ReadMode::Mapped, false) => Arc::clone(vfs),
            (mode, _) => Arc::new(Careful::checking(Arc::clone(vfs), mode == ReadMode::Copied)),
        }
    }
}

/// Options of opening a store for reading.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// # vecstore::Store::create(&path, vecstore::StoreConfig::new(4))?;
/// use vecstore::{ReadMode, ReadOptions};
///
/// // For a drive on which other programs may truncate files. (`salvage` reads from a failing disk.)
/// let reader = ReadOptions::new().read_mode(ReadMode::Copied).open(&path)?;
/// # assert!(reader.snapshot().is_empty());
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReadOptions {
    read_mode: ReadMode,
    check: bool,
    version: Option<String>,
    vfs: Arc<dyn Vfs>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions { read_mode: ReadMode::Mapped, check: false, version: None, vfs: Arc::new(RealFs) }
    }
}

impl ReadOptions {
    /// The defaults: the newest state, mapped files, and no checksums compared.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how segments are read into memory; [`ReadMode::Mapped`] by default.
    pub fn read_mode(mut self, mode: ReadMode) -> Self {
        self.read_mode = mode;
        self
    }

    /// If `check` is true, compares the checksum of each block when the block is read for the first time,
    /// before any of its bytes are returned. A byte that changed on the disk is
    /// [`Error::Damaged`](crate::Error::Damaged), and other blocks can still be read. Tables of keys are
    /// checked as a whole, before the first lookup in a segment.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("photos.vecs");
    /// # use vecstore::{Error, OnDuplicate, ReadOptions, Store, StoreConfig};
    /// # let store = Store::create(&path, StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("a", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// # let file = store.snapshot().segments().next().unwrap().info().path;
    /// # store.close()?;
    /// let mut bytes = std::fs::read(&file).unwrap();
    /// bytes[4096] ^= 1; // the vector's first byte
    /// std::fs::write(&file, bytes).unwrap();
    /// let snapshot = ReadOptions::new().check(true).open(&path)?.snapshot();
    /// let entry = snapshot.get("a")?.expect("its key is intact");
    /// assert!(matches!(entry.rows::<f32>(), Err(Error::Damaged { .. })));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn check(mut self, check: bool) -> Self {
        self.check = check;
        self
    }

    /// Opens the store as it was when this version was [created](crate::Store::create_version). Later commits
    /// are not visible, not even after a refresh.
    pub fn at_version(mut self, name: &str) -> Self {
        self.version = Some(name.to_owned());
        self
    }

    /// Uses another file system than the operating system's; for tests.
    #[doc(hidden)]
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> Self {
        self.vfs = vfs;
        self
    }

    /// Opens a store for reading. The cost grows with the number of files, not with the number of rows.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotAStore`], [`Error::ManifestMissing`], [`Error::Damaged`],
    /// [`Error::MissingSegment`], [`Error::ForeignSegment`], [`Error::UnsupportedVersion`],
    /// [`Error::NoSuchVersion`], [`Error::Io`]. [`salvage`](crate::salvage) reads the intact entries of a
    /// damaged store.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Reader> {
        let path = &absolute(path.as_ref())?;
        let vfs = self.read_mode.vfs(&self.vfs, self.check);
        let watch = Watch::open(&*vfs, &path.join(LOCK));
        let seen = watch.counter();
        let Some(name) = &self.version else {
            let view = load::load(&*vfs, path, None)?;
            let inner = Arc::new(Shared::new(path, vfs, view, None, watch, seen, MAX_SEGMENT));
            return Ok(Reader { inner });
        };
        let manifest = versions::read(&*vfs, path, name)?;
        // No other file replaces a file that a version lists: a missing one is damage.
        let view = load::listed(&*vfs, path, &manifest, None).map_err(|error| match error {
            Error::Io { path, cause, .. } if cause.kind() == ErrorKind::NotFound => {
                Error::damaged(&path, "file", format!("\"{name}\" lists it, and it is missing"))
            }
            other => other,
        })?;
        Ok(Reader { inner: Arc::new(Shared::fixed(path, vfs, view, watch, name)) })
    }
}
