//! Opening a store for writing, and the options for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Error, Event, IoContext, Observer, Result};
use crate::commit::Writer;
use crate::handle::{ReadMode, ReadOptions, Shared, Store};
use crate::lock::{LOCK, Watch, in_slices};
use crate::merge::MAX_SEGMENT;
use crate::state::{create, load};
use crate::types::{Fingerprint, StoreConfig};
use crate::vfs::{RealFs, Vfs};

/// Default time that an operation waits for a lock of another process.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// When a handle merges segments. Under every policy, an append that finds far too many files merges some of
/// them itself, so that a store stays tidy even if each program appends once and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergePolicy {
    /// In background threads of the handle. While other handles commit, a merge of large files rests four
    /// times as long as it works.
    Background,
    /// Only in a compaction, or if there are far too many files.
    OnDemand,
}

/// Options of opening a store for writing. [`ReadOptions`](crate::ReadOptions) are the options of opening it
/// for reading.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// use std::time::Duration;
/// use vecstore::{MergePolicy, OpenOptions, StoreConfig};
///
/// let options = OpenOptions::new().lock_timeout(Duration::from_secs(10)).verify_saves(true);
/// // A program that ends soon needs no merges in the background.
/// let store = options.merge_policy(MergePolicy::OnDemand).create(&path, StoreConfig::new(512))?;
/// # drop(store);
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    lock_timeout: Duration,
    verify_saves: bool,
    merge_policy: MergePolicy,
    read_mode: ReadMode,
    check: bool,
    observer: Observer,
    vfs: Arc<dyn Vfs>,
    max_segment: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            lock_timeout: LOCK_TIMEOUT,
            verify_saves: false,
            merge_policy: MergePolicy::Background,
            read_mode: ReadMode::Mapped,
            check: false,
            observer: Observer::default(),
            vfs: Arc::new(RealFs),
            max_segment: MAX_SEGMENT,
        }
    }
}

impl OpenOptions {
    /// The defaults: merges in the background, waits for locks for at most a minute, maps files, compares no
    /// checksums while reading, and reads no saved file back.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long a call waits for a lock of another process before it fails with
    /// [`Error::Busy`](crate::Error::Busy); one minute by default. Commits hold the lock for milliseconds.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// If `verify` is true, reads every new segment back after its flush, and compares all checksums before
    /// the segment gets its name. Each verified segment is logged. On Linux the file is dropped from the page
    /// cache first, so that the bytes come from the disk. Bytes that are only in the disk's own cache, and
    /// would be lost in a power cut, pass this check.
    pub fn verify_saves(mut self, verify: bool) -> Self {
        self.verify_saves = verify;
        self
    }

    /// Sets when segments are merged; [`MergePolicy::Background`] by default.
    pub fn merge_policy(mut self, policy: MergePolicy) -> Self {
        self.merge_policy = policy;
        self
    }

    /// Sets the size in bytes up to which merges join segments, except for a full compaction.
    #[doc(hidden)]
    pub fn max_segment(mut self, bytes: u64) -> Self {
        self.max_segment = bytes;
        self
    }

    /// Sets how segments are read into memory; [`ReadMode::Mapped`] by default. See
    /// [`ReadOptions::read_mode`](crate::ReadOptions::read_mode).
    pub fn read_mode(mut self, mode: ReadMode) -> Self {
        self.read_mode = mode;
        self
    }

    /// If `check` is true, compares checksums when entries and rows are read. See
    /// [`ReadOptions::check`](crate::ReadOptions::check).
    pub fn check(mut self, check: bool) -> Self {
        self.check = check;
        self
    }

    /// Sets a callback for every checkpoint and merge, and for their failures. The callback runs in a thread
    /// that holds no lock of the store: in the thread whose operation caused the event, or in another thread
    /// that delivers events at that time. The callback may use the store, but must not close it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use vecstore::{Event, OpenOptions, StoreConfig};
    /// let options = OpenOptions::new().on_event(|event| {
    ///     if let Event::CheckpointFailed { attempts, error, .. } = event {
    ///         eprintln!("saving is in trouble ({attempts}): {error}");
    ///     }
    /// });
    /// let store = options.create(dir.path().join("s"), StoreConfig::new(4))?;
    /// # drop(store);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn on_event(mut self, callback: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.observer = Observer::new(callback);
        self
    }

    /// Uses another file system than the operating system's; for tests.
    #[doc(hidden)]
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> Self {
        self.vfs = vfs;
        self
    }

    /// The options for reading through the same file system; for tests.
    #[doc(hidden)]
    pub fn for_reading(&self) -> ReadOptions {
        ReadOptions::new().read_mode(self.read_mode).check(self.check).vfs(Arc::clone(&self.vfs))
    }

    /// Creates a store at `path`, and opens it. The path must not exist, or must be an empty directory, which
    /// may be a mount point with a `lost+found`.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if the path holds anything but an empty directory; [`Error::InvalidArgument`]
    /// for an invalid configuration, a parent directory that does not exist, and a path inside another store;
    /// [`Error::Io`] and [`Error::NoSpace`] from the disk.
    pub fn create(&self, path: impl AsRef<Path>, config: StoreConfig) -> Result<Store> {
        create::create(&*self.vfs, path.as_ref(), &config, self.lock_timeout)?;
        self.open(path)
    }

    /// Opens the store at this path, or creates it if there is none. An existing store keeps its settings. If
    /// it has no fingerprint, the fingerprint of `config` is recorded.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("photos.vecs");
    /// use vecstore::{Error, OpenOptions, StoreConfig};
    /// drop(OpenOptions::new().open_or_create(&path, StoreConfig::new(2))?);
    /// drop(OpenOptions::new().open_or_create(&path, StoreConfig::new(2))?);
    /// let other = OpenOptions::new().open_or_create(&path, StoreConfig::new(3));
    /// assert!(matches!(other, Err(Error::DimensionMismatch { expected: 2, found: 3, .. })));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`OpenOptions::create`] and [`OpenOptions::open`]. For an existing store that differs from
    /// `config`: [`Error::DimensionMismatch`], [`Error::DTypeMismatch`], [`Error::FingerprintMismatch`], and
    /// [`Error::InvalidArgument`] if the metric differs.
    pub fn open_or_create(&self, path: impl AsRef<Path>, config: StoreConfig) -> Result<Store> {
        let path = path.as_ref();
        match self.open(path) {
            Err(Error::NotFound { .. }) => {}
            opened => return opened.and_then(|store| store.fits(&config).map(|()| store)),
        }
        match self.create(path, config.clone()) {
            // Another process created the store meanwhile.
            Err(Error::AlreadyExists { .. }) => {
                self.open(path).and_then(|store| store.fits(&config).map(|()| store))
            }
            created => created,
        }
    }

    /// Opens a store for reading and writing. The cost grows with the number of files, not with the number of
    /// rows.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotAStore`], [`Error::ManifestMissing`], [`Error::Damaged`],
    /// [`Error::MissingSegment`], [`Error::ForeignSegment`], [`Error::UnsupportedVersion`], [`Error::Io`];
    /// [`Error::Busy`] if commits have to be written anew after a failed flush, and another process holds the
    /// lock.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store> {
        let path = &absolute(path.as_ref())?;
        let vfs = self.read_mode.vfs(&self.vfs, self.check);
        let watch = Watch::open(&*vfs, &path.join(LOCK));
        let seen = watch.counter();
        let mut view = load::load(&*vfs, path, None)?;
        view.check_writable()?;
        let mut writer = Writer::open(Arc::clone(&vfs), path, self.lock_timeout.into(), self.verify_saves)?;
        // Callers skip the keys that this handle reports as stored: visible names are made durable first.
        create::flush_name(&*vfs, path)?;
        writer.flush_seen(&view)?;
        in_slices(&self.lock_timeout.into(), |slice| writer.recover(slice, &mut view, &watch))?;
        let mut inner = Shared::new(path, vfs, view, Some(writer), watch, seen, self.max_segment);
        inner.observer = self.observer.clone();
        inner.note_first_events();
        inner.observer.deliver();
        Ok(Store::assemble(inner, self.merge_policy))
    }
}

/// Makes a path absolute: a relative path would lead elsewhere after a change of the working directory.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).at(path, "find the store's absolute path")
}

impl Store {
    /// Refuses a configuration that differs from the store's. Records its fingerprint if the store has none.
    fn fits(&self, config: &StoreConfig) -> Result<()> {
        let snapshot = self.snapshot();
        let (dim, dtype, metric) = (snapshot.dim(), snapshot.dtype(), snapshot.metric());
        let what = "the configuration";
        if config.dim != dim {
            return Err(Error::DimensionMismatch { what, expected: dim, found: config.dim });
        }
        if config.dtype != dtype {
            return Err(Error::DTypeMismatch { what, expected: dtype, found: config.dtype });
        }
        if config.metric != metric {
            let (path, given) = (self.path().display(), config.metric);
            return Err(Error::invalid(format!(
                "{path}: the store compares by {metric}, the configuration says {given}; use {metric}, or \
                 another store"
            )));
        }
        let given: Option<&Fingerprint> = config.fingerprint.as_ref();
        given.map_or(Ok(()), |fingerprint| self.set_fingerprint(fingerprint))
    }
}
