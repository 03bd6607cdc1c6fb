//! The handle that reads and writes a store.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::sync::Mutex;
use crate::base::{Error, Result};
use crate::commit::Appended;
use crate::handle::{Committer, MergePolicy, Merger, OpenOptions, Shared, Ticket, Waiting, look};
use crate::merge::Host;
use crate::read::Snapshot;
use crate::state::{FingerprintRecord, Manifest};
use crate::types::{Batch, Fingerprint, OnDuplicate, StoreConfig, check_description, check_settings};

/// A handle that reads and writes a store: a directory of immutable segments.
///
/// All methods take `&self`, and several threads may call them at the same time. Batches that threads append
/// at the same time share one file and its flushes.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// use vecstore::{OnDuplicate, Store, StoreConfig};
///
/// let store = Store::create(&path, StoreConfig::new(2))?;
/// let mut batch = store.batch();
/// batch.push("a.jpg", &[1.0f32, 0.0])?;
/// batch.push("b.jpg", &[0.6f32, 0.8])?;
/// let appended = store.append(&mut batch, OnDuplicate::Skip)?;
/// assert_eq!(appended.commit, Some(1));
///
/// let hits = store.snapshot().search(&[0.0, 1.0], 1)?;
/// assert_eq!(hits[0].key, b"b.jpg");
/// # Ok::<(), vecstore::Error>(())
/// ```
pub struct Store {
    pub(crate) inner: Arc<Shared>,
    merger: Option<Merger>,
    /// Started by the first [`Store::submit`].
    committer: Mutex<Option<Committer>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Makes a handle from its parts, and starts its merger if the policy asks for one.
    pub(crate) fn assemble(inner: Shared, policy: MergePolicy) -> Self {
        let inner = Arc::new(inner);
        let merger = (policy == MergePolicy::Background).then(|| Merger::start(&inner));
        if let Some(merger) = &merger {
            let _ = inner.merger.set(merger.waker());
        }
        Store { merger, inner, committer: Mutex::default() }
    }

    /// Creates a store with default options; see [`OpenOptions::create`].
    ///
    /// # Errors
    /// As [`OpenOptions::create`].
    pub fn create(path: impl AsRef<Path>, config: StoreConfig) -> Result<Store> {
        OpenOptions::new().create(path, config)
    }

    /// Opens a store for reading and writing; see [`OpenOptions::open`].
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Store> {
        OpenOptions::new().open(path)
    }

    /// Opens the store at this path, or creates it if there is none; see [`OpenOptions::open_or_create`].
    ///
    /// # Errors
    /// As [`OpenOptions::open_or_create`].
    pub fn open_or_create(path: impl AsRef<Path>, config: StoreConfig) -> Result<Store> {
        OpenOptions::new().open_or_create(path, config)
    }

    /// The store's directory, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// An empty batch with the store's dimension and element type.
    pub fn batch(&self) -> Batch {
        let view = self.inner.view.read();
        Batch::new(view.meta.dim, view.meta.dtype)
    }

    /// Records, durably, the fingerprint of the model and preprocessing that make the vectors. Does nothing
    /// if the same fingerprint is recorded already.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use vecstore::{Error, Fingerprint, Store, StoreConfig};
    /// let digest = [7; 32]; // of the model's file, and of how pictures are prepared
    /// let model = Fingerprint::new(digest, "clip-vit-b32, 224 pixels");
    /// let store = Store::create(dir.path().join("s"), StoreConfig::new(512))?;
    /// store.set_fingerprint(&model)?;
    /// store.check_fingerprint(&model)?;
    /// let other = store.check_fingerprint(&Fingerprint::new([8; 32], "another model"));
    /// assert!(matches!(other, Err(Error::FingerprintMismatch { .. })));
    /// assert_eq!(store.snapshot().fingerprint().map(|model| model.short_id()), Some(model.short_id()));
    /// assert_eq!((model.id()[0], model.description()), (7, "clip-vit-b32, 224 pixels"));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::FingerprintMismatch`] if another fingerprint is recorded; [`Error::InvalidArgument`] for a
    /// description of more than 4096 bytes; otherwise as [`Store::checkpoint`].
    pub fn set_fingerprint(&self, fingerprint: &Fingerprint) -> Result<()> {
        if look::is_recorded(&self.inner, self.snapshot().fingerprint(), fingerprint)? {
            return Ok(());
        }
        check_description(fingerprint)?;
        let view = Arc::clone(&self.inner.view.read());
        // The manifest may be an old copy without a fingerprint that the segments have: recording another one
        // would make the segments foreign.
        let mut of_files = view.segments.iter().map(|live| live.segment.footer().fingerprint);
        if let Some(id) = of_files.find(|id| *id != [0; 32]) {
            look::is_recorded(
                &self.inner,
                Some(&Fingerprint::new(id, "a model that the manifest does not name")),
                fingerprint,
            )?;
        }
        self.change_manifest(|manifest| {
            let recorded = manifest.body.fingerprint();
            if !look::is_recorded(&self.inner, recorded.as_ref(), fingerprint)? {
                manifest.body.fingerprint = Some(FingerprintRecord {
                    id: *fingerprint.id(),
                    description: fingerprint.description().to_owned(),
                });
            }
            Ok(())
        })
    }

    /// Returns an error if a fingerprint other than `fingerprint` is recorded: distances between vectors of
    /// two models are meaningless. Any fingerprint passes if none is recorded.
    ///
    /// # Errors
    /// [`Error::FingerprintMismatch`].
    pub fn check_fingerprint(&self, fingerprint: &Fingerprint) -> Result<()> {
        look::is_recorded(&self.inner, self.snapshot().fingerprint(), fingerprint).map(drop)
    }

    /// Records a setting (a named text), durably: in the manifest, and in every later segment. Replaces an
    /// earlier value.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// store.set_setting("root", "/photos")?;
    /// assert_eq!(store.snapshot().settings()["root"], "/photos");
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the name begins with `vecstore.`, or if all settings together would have
    /// more than 64 KiB (names, values, and 8 bytes each); otherwise as [`Store::checkpoint`].
    pub fn set_setting(&self, name: &str, value: &str) -> Result<()> {
        check_setting_name(name)?;
        self.change_manifest(|manifest| {
            manifest.body.settings.insert(name.to_owned(), value.to_owned());
            check_settings(&manifest.body.settings)
        })
    }

    /// Removes a setting, durably. Removing a setting that does not exist is no error.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{Store, StoreConfig};
    /// let store = Store::create(dir.path().join("s"), StoreConfig::new(1).setting("root", "/photos"))?;
    /// store.remove_setting("root")?;
    /// assert_eq!(store.snapshot().setting("root"), None);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::set_setting`].
    pub fn remove_setting(&self, name: &str) -> Result<()> {
        check_setting_name(name)?;
        self.change_manifest(|manifest| {
            manifest.body.settings.remove(name);
            Ok(())
        })
    }

    fn change_manifest(&self, change: impl Fn(&mut Manifest) -> Result<()>) -> Result<()> {
        self.delivering(self.inner.locked(|writer, view| writer.update_manifest(view, &change)))
    }

    /// Delivers the events of an operation, after it has released its locks. Returns `outcome`.
    pub(super) fn delivering<T>(&self, outcome: T) -> T {
        self.inner.observer.deliver();
        outcome
    }

    /// Appends a batch. When this returns without an error, the whole batch is durable and visible. After an
    /// error nothing of the batch is stored, except after [`Error::OutcomeUnknown`], when the whole batch may
    /// be. If the new file cannot be opened at that moment (because of too many open files, say), the batch
    /// is durable, but visible only from the next append or refresh on.
    ///
    /// A batch that was committed is cleared, and keeps its memory for further entries. After an error the
    /// batch is unchanged, and can be appended again. Threads that append at the same time share one file and
    /// its flushes.
    ///
    /// A commit waits for two flushes of the disk, whatever the size of the batch: about a millisecond on a
    /// fast drive. Append hundreds of entries together, or use [`Store::submit`].
    ///
    /// # Errors
    /// Errors of the batch: [`Error::DimensionMismatch`], [`Error::DTypeMismatch`], [`Error::DuplicateKey`],
    /// [`Error::EntryChanged`], [`Error::StoreChanged`] and [`Error::InvalidArgument`]. Errors of writing:
    /// [`Error::Busy`], [`Error::NoSpace`], [`Error::Io`], [`Error::OutcomeUnknown`], [`Error::Latched`],
    /// [`Error::Moved`], [`Error::NameTaken`] and [`Error::Abandoned`]. Errors in files of earlier commits:
    /// [`Error::Damaged`], [`Error::MissingSegment`], [`Error::ForeignSegment`] and
    /// [`Error::UnsupportedVersion`]. [`Error::is_transient`] and [`Error::needs_reopen`] classify them.
    pub fn append(&self, batch: &mut Batch, on_duplicate: OnDuplicate) -> Result<Appended> {
        self.check_shape(batch)?;
        if batch.is_empty() && batch.expected_last_commit().is_none() {
            return Ok(Appended::default());
        }
        let empty = Batch::new(batch.dim(), batch.dtype());
        let (outcome, back) = self.inner.append(std::mem::replace(batch, empty), on_duplicate);
        *batch = back;
        let appended = outcome.inspect_err(|_| self.inner.observer.deliver())?;
        batch.clear();
        self.inner.after_commit(appended.replaced + appended.deleted > 0);
        Ok(appended)
    }

    /// Queues a batch and returns at once. The committer, a thread of this handle, commits it together with
    /// other queued batches; [`Ticket::wait`] returns once the batch is durable. A thread that computes
    /// batches thus does not wait for the disk between them, and the batches that it submits meanwhile share
    /// one flush.
    ///
    /// Batches are committed in the order in which they were submitted. If more than 64 MiB are queued, this
    /// call waits. Closing or dropping the store commits all queued batches first.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let mut tickets = Vec::new();
    /// for key in ["a", "b", "c"] {
    ///     let mut batch = store.batch();
    ///     batch.push(key, &[1.0f32])?;
    ///     tickets.push(store.submit(batch, OnDuplicate::Skip)?);
    /// }
    /// for ticket in tickets {
    ///     ticket.wait()?; // durable from here on
    /// }
    /// assert_eq!(store.snapshot().len(), 3);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`] and [`Error::DTypeMismatch`]; [`Ticket::wait`] returns all other errors.
    pub fn submit(&self, batch: Batch, on_duplicate: OnDuplicate) -> Result<Ticket> {
        self.check_shape(&batch)?;
        if batch.is_empty() && batch.expected_last_commit().is_none() {
            return Ok(Ticket::new(&self.inner, Waiting::done(batch)));
        }
        let waiting = self.inner.append_later(batch, on_duplicate)?;
        let mut committer = self.committer.lock();
        if committer.as_ref().is_none_or(Committer::is_gone) {
            *committer = Some(Committer::start(&self.inner));
        }
        drop(committer);
        Ok(Ticket::new(&self.inner, waiting))
    }

    fn check_shape(&self, batch: &Batch) -> Result<()> {
        let (what, meta) = ("the batch", Arc::clone(&self.inner.view.read().meta));
        if batch.dim() != meta.dim {
            return Err(Error::DimensionMismatch { what, expected: meta.dim, found: batch.dim() });
        }
        if batch.dtype() != meta.dtype {
            return Err(Error::DTypeMismatch { what, expected: meta.dtype, found: batch.dtype() });
        }
        Ok(())
    }

    /// The state that this handle knows: its own commits, and the commits of other handles up to its last
    /// append or refresh.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }

    /// Looks for commits of other handles and processes, and returns the newest state. Costs one small read
    /// if there are none. Waits for a commit of another thread of this handle.
    ///
    /// # Errors
    /// [`Error::Moved`] if there is another store at the path now, or none: open the store again. Otherwise
    /// as [`Store::open`], if the directory cannot be read any more.
    pub fn refresh(&self) -> Result<Snapshot> {
        self.inner.refresh()?;
        Ok(self.snapshot())
    }

    /// Waits until the store has a commit after `after`, for at most `timeout`, and returns the newest state,
    /// with or without such a commit. Polls every 1 to 20 milliseconds. See
    /// [`Reader::wait_for_commit`](crate::Reader::wait_for_commit).
    ///
    /// # Errors
    /// As [`Store::refresh`].
    pub fn wait_for_commit(&self, after: u64, timeout: Duration) -> Result<Snapshot> {
        look::wait_for_commit(&self.inner, after, timeout)
    }

    /// Writes the manifest now, so that the next open reads fewer files. The store also writes it every 64
    /// commits or 256 MiB, after a commit of more than 65,536 keys, and when it is closed.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("a", &[1.0f32])?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// store.checkpoint()?; // nothing depends on it: the batch is durable since the append
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of writing, and in files of earlier commits, as [`Store::append`].
    pub fn checkpoint(&self) -> Result<()> {
        self.delivering(self.inner.locked(|writer, view| writer.checkpoint(view)))
    }

    /// Commits all queued batches, writes the manifest if commits came after it, and closes the handle.
    /// Appended batches are durable without that. Dropping the store does the same, but does not wait for the
    /// lock to write the manifest, and can only log an error.
    ///
    /// # Errors
    /// As [`Store::checkpoint`].
    pub fn close(mut self) -> Result<()> {
        self.finish()
    }

    fn stop_committer(&mut self) {
        let committer = self.committer.lock().take();
        if let Some(committer) = committer {
            committer.stop(&self.inner);
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.inner.merging().end();
        self.stop_committer();
        // The merger ends first: it may be about to write a checkpoint itself.
        if let Some(merger) = self.merger.take() {
            merger.stop();
        }
        let written = if self.inner.wants_checkpoint() { self.checkpoint() } else { Ok(()) };
        self.delivering(written)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Queued batches are committed first, with the full lock timeout.
        self.inner.merging().end();
        self.stop_committer();
        // Nothing depends on the checkpoint, so it does not wait for the lock of another process.
        self.inner.timeout.end();
        if let Err(error) = self.finish() {
            let path = self.inner.path.display();
            log::warn!("{path}: no checkpoint when closing (nothing is lost): {error}");
        }
    }
}

fn check_setting_name(name: &str) -> Result<()> {
    match name.starts_with(crate::format::settings::RESERVED) {
        true => Err(Error::invalid(format!(
            "setting \"{name}\": names that begin with \"vecstore.\" are the store's own"
        ))),
        false => Ok(()),
    }
}
