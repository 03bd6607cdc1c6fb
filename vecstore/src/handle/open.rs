//! Opening a store, and the options for it.

use crate::lock::LOCK;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Error, Event, IoContext, Observer, Result};
use crate::commit::Writer;
use crate::handle::{Shared, Store};
use crate::lock::{Watch, in_slices};
use crate::merge::MAX_SEGMENT;
use crate::state::{create, load, versions};
use crate::types::StoreConfig;
use crate::vfs::{Copying, RealFs, Vfs};

/// How long an operation waits for the lock of another process, unless told otherwise.
const LOCK_TIMEOUT: Duration = Duration::from_secs(300);

/// When a handle merges segments. Whatever is chosen, a handle that finds far too many files merges some of them itself
/// after an append, so that programs that append once and end leave a tidy store too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Merging {
    /// In threads of its own. Merges of large files rest four times as long as they work, while others commit.
    Background,
    /// Only when told to ([`Store::compact`]), or when there are far too many files.
    OnDemand,
}

/// How the bytes of segments come into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reading {
    /// Mapped: nothing is copied, and what is not needed is not read. A file that another program truncates, or a sector
    /// that the disk cannot read, ends the process with SIGBUS.
    Mapped,
    /// Read when the store is opened, and when segments are added. A file that cannot be read is an error. Takes as much
    /// memory as the segments have bytes.
    Copied,
}

/// How a store is opened.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// use std::time::Duration;
/// use vecstore::{OpenOptions, StoreConfig};
///
/// let options = OpenOptions::new().lock_timeout(Duration::from_secs(10)).verify_saves(true);
/// let store = options.create(&path, StoreConfig::new(512))?;
/// # drop(store);
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    read_only: bool,
    lock_timeout: Duration,
    verify_saves: bool,
    merging: Merging,
    reading: Reading,
    version: Option<String>,
    observer: Observer,
    vfs: Arc<dyn Vfs>,
    max_segment: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            read_only: false,
            lock_timeout: LOCK_TIMEOUT,
            verify_saves: false,
            merging: Merging::Background,
            reading: Reading::Mapped,
            version: None,
            observer: Observer::default(),
            vfs: Arc::new(RealFs),
            max_segment: MAX_SEGMENT,
        }
    }
}

impl OpenOptions {
    /// Read and write, five minutes' patience with locks, saves not read back.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only reading: takes no lock and writes nothing, so that it works on read-only media.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// How long to wait for another process that holds a lock before giving up with [`Error::Busy`](crate::Error::Busy).
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Reads every segment back after it was flushed, on Linux from the disk itself, and compares all checksums before it gets
    /// its name; each one is logged.
    pub fn verify_saves(mut self, verify: bool) -> Self {
        self.verify_saves = verify;
        self
    }

    /// When segments are merged: in the background unless told otherwise.
    pub fn merging(mut self, merging: Merging) -> Self {
        self.merging = merging;
        self
    }

    /// Bytes up to which merges join segments, unless all are to become one.
    #[doc(hidden)]
    pub fn max_segment(mut self, bytes: u64) -> Self {
        self.max_segment = bytes;
        self
    }

    /// Whether segments are mapped, as they are unless told otherwise, or read into memory.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("photos.vecs");
    /// # vecstore::Store::create(&path, vecstore::StoreConfig::new(4))?;
    /// use vecstore::{OpenOptions, Reading};
    ///
    /// // From a disk that is failing, or a network drive that others write to.
    /// let store = OpenOptions::new().read_only(true).reading(Reading::Copied).open(&path)?;
    /// # assert_eq!(store.snapshot().totals().rows, 0);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn reading(mut self, reading: Reading) -> Self {
        self.reading = reading;
        self
    }

    /// Calls back for every checkpoint and merge, and for their failures, from whichever thread it happened in. The
    /// callback must not use the store.
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

    /// Opens the store as it was when this version was [created](Store::create_version), read-only. Nothing that
    /// came later is seen, now or on refresh.
    pub fn at_version(mut self, name: &str) -> Self {
        self.version = Some(name.to_owned());
        self.read_only = true;
        self
    }

    /// Puts another file system behind the store; for tests.
    #[doc(hidden)]
    pub fn vfs(mut self, vfs: Arc<dyn Vfs>) -> Self {
        self.vfs = vfs;
        self
    }

    /// Creates a store and opens it, at a path where there is nothing, or an empty directory: it may be a
    /// mount point, and hold a `lost+found`.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`](crate::Error::AlreadyExists) when something is there that is not an empty directory; [`Error::BadInput`](crate::Error::BadInput) for a
    /// configuration that is not possible; [`Error::Io`](crate::Error::Io) and [`Error::NoSpace`](crate::Error::NoSpace) from the disk.
    pub fn create(&self, path: impl AsRef<Path>, config: StoreConfig) -> Result<Store> {
        create::create(&*self.vfs, path.as_ref(), &config, self.lock_timeout)?;
        self.open(path)
    }

    /// Opens a store. The cost grows with the number of files, not of rows.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound), [`Error::NotAStore`](crate::Error::NotAStore), [`Error::ManifestMissing`](crate::Error::ManifestMissing), [`Error::Damaged`](crate::Error::Damaged),
    /// [`Error::MissingSegment`](crate::Error::MissingSegment), [`Error::ForeignSegment`](crate::Error::ForeignSegment), [`Error::UnsupportedVersion`](crate::Error::UnsupportedVersion), [`Error::Io`](crate::Error::Io); and
    /// [`Error::Busy`](crate::Error::Busy) when commits have to be written anew after a failed flush and another process holds the lock.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store> {
        // A relative path would lead elsewhere after a change of directory.
        let path = &std::path::absolute(path.as_ref()).at(path.as_ref(), "find the store's absolute path")?;
        let vfs: Arc<dyn Vfs> = match self.reading {
            Reading::Mapped => Arc::clone(&self.vfs),
            Reading::Copied => Arc::new(Copying(Arc::clone(&self.vfs))),
        };
        let watch = Watch::open(&*vfs, &path.join(LOCK));
        let seen = watch.counter();
        if let Some(name) = &self.version {
            let manifest = versions::read(&*vfs, path, name)?;
            // Nothing stands in for a file that a version lists.
            let view = load::listed(&*vfs, path, &manifest, None).map_err(|error| match error {
                Error::Io { path, source, .. } if source.kind() == ErrorKind::NotFound => {
                    Error::damaged(&path, "file", format!("\"{name}\" lists it, and it is missing"))
                }
                other => other,
            })?;
            return Ok(Store::assemble(Shared::fixed(path, vfs, view, watch, name), self.merging));
        }
        let mut view = load::load(&*vfs, path, None)?;
        let writer = if self.read_only {
            None
        } else {
            view.check_writable()?;
            let mut writer =
                Writer::open(Arc::clone(&vfs), path, self.lock_timeout.into(), self.verify_saves)?;
            // Callers skip the keys that this handle reports as stored: visible names are made durable first.
            create::flush_name(&*vfs, path)?;
            writer.flush_seen(&view)?;
            in_slices(&self.lock_timeout.into(), |slice| writer.recover(slice, &mut view, &watch))?;
            Some(writer)
        };
        let mut inner = Shared::new(path, vfs, view, writer, watch, seen, self.max_segment);
        inner.observer = self.observer.clone();
        inner.tell_all();
        Ok(Store::assemble(inner, self.merging))
    }
}
