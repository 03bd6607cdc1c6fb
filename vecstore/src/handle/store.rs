//! The handle on a store.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::base::sync::Mutex;
use crate::base::{DType, Error, Result};
use crate::commit::Appended;
use crate::handle::{Committer, Merger, Merging, OpenOptions, Shared, Ticket, Waiting};
use crate::merge::Host;
use crate::read::Snapshot;
use crate::state::FingerprintRecord;
use crate::types::{Batch, Fingerprint, Metric, OnDuplicate, StoreConfig, check_description, check_settings};

/// A store: a directory of immutable segments.
///
/// All methods take `&self` and may be called from several threads; batches that threads append at the same time
/// share one commit.
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
    /// Started by the first append that does not wait.
    committer: Mutex<Option<Committer>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Store {
    /// A handle from its parts.
    pub(crate) fn assemble(inner: Shared, merging: Merging) -> Self {
        let inner = Arc::new(inner);
        let background = merging == Merging::Background && inner.is_writable;
        let merger = background.then(|| Merger::start(&inner));
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

    /// Opens a store for reading; see [`OpenOptions::open`].
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Store> {
        OpenOptions::new().read_only(true).open(path)
    }

    /// The store's directory, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Elements per vector.
    pub fn dim(&self) -> usize {
        self.inner.view.read().meta.dim
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.inner.view.read().meta.dtype
    }

    /// How vectors are compared.
    pub fn metric(&self) -> Metric {
        self.inner.view.read().meta.metric
    }

    /// What makes the vectors, once it is recorded.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.inner.view.read().meta.fingerprint.clone()
    }

    /// A named text of the store.
    pub fn setting(&self, name: &str) -> Option<String> {
        self.inner.view.read().meta.settings.get(name).cloned()
    }

    /// All named texts of the store.
    pub fn settings(&self) -> BTreeMap<String, String> {
        self.inner.view.read().meta.settings.clone()
    }

    /// An empty batch of the store's dimension and element type.
    pub fn batch(&self) -> Batch {
        let view = self.inner.view.read();
        Batch::new(view.meta.dim, view.meta.dtype)
    }

    /// Records what makes the vectors. Does nothing when the same fingerprint is recorded.
    ///
    /// # Errors
    /// [`Error::FingerprintMismatch`] when another one is; otherwise as for [`Store::set_setting`].
    pub fn set_fingerprint(&self, fingerprint: &Fingerprint) -> Result<()> {
        if self.is_recorded(self.fingerprint().as_ref(), fingerprint)? {
            return Ok(());
        }
        check_description(fingerprint)?;
        let view = Arc::clone(&self.inner.view.read());
        // An older manifest may have been put back: files of another model would be foreign to the store.
        let mut of_files = view.segments.iter().map(|live| live.segment.footer().fingerprint);
        if let Some(id) = of_files.find(|id| *id != [0; 32]) {
            self.is_recorded(
                Some(&Fingerprint::new(id, "a model that the manifest does not name")),
                fingerprint,
            )?;
        }
        self.change_manifest("record a fingerprint", |manifest| {
            let recorded = manifest.body.fingerprint();
            if !self.is_recorded(recorded.as_ref(), fingerprint)? {
                manifest.body.fingerprint = Some(FingerprintRecord {
                    id: *fingerprint.id(),
                    description: fingerprint.description().to_owned(),
                });
            }
            Ok(())
        })
    }

    /// Refuses a fingerprint other than the recorded one: distances between vectors of two models mean nothing. Any is
    /// fine while none is recorded.
    ///
    /// # Errors
    /// [`Error::FingerprintMismatch`].
    pub fn check_fingerprint(&self, fingerprint: &Fingerprint) -> Result<()> {
        self.is_recorded(self.fingerprint().as_ref(), fingerprint).map(drop)
    }

    /// True when this fingerprint is recorded, false when none is.
    fn is_recorded(&self, recorded: Option<&Fingerprint>, given: &Fingerprint) -> Result<bool> {
        match recorded {
            None => Ok(false),
            Some(recorded) if recorded == given => Ok(true),
            Some(recorded) => Err(Error::FingerprintMismatch {
                path: self.inner.path.clone(),
                expected: recorded.description().to_owned(),
                expected_id: recorded.short_id(),
                found: given.description().to_owned(),
                found_id: given.short_id(),
            }),
        }
    }

    /// Records a named text, durably, in the manifest and in every later segment.
    ///
    /// # Errors
    /// [`Error::BadInput`] when the name begins with `vecstore.` or settings grow beyond 64 KiB;
    /// [`Error::ReadOnly`], [`Error::Busy`], [`Error::NoSpace`], [`Error::Io`].
    pub fn set_setting(&self, name: &str, value: &str) -> Result<()> {
        if name.starts_with(crate::format::settings::RESERVED) {
            return Err(Error::bad_input(format!(
                "setting \"{name}\": names that begin with \"vecstore.\" are the store's own"
            )));
        }
        self.change_manifest("record a setting", |manifest| {
            manifest.body.settings.insert(name.to_owned(), value.to_owned());
            check_settings(&manifest.body.settings)
        })
    }

    fn change_manifest(
        &self,
        action: &'static str,
        change: impl Fn(&mut crate::state::manifest::Manifest) -> Result<()>,
    ) -> Result<()> {
        self.inner.locked(action, |writer, view| writer.update_manifest(view, &change))
    }

    /// Appends a batch. When this returns, the batch is durable and visible as a whole; after an error nothing of
    /// it is, except after [`Error::OutcomeUnknown`]. (Durable in any case; should the new file not be readable at that
    /// moment, because too many are open, say, it is visible from the next append or refresh on.)
    ///
    /// The batch is empty afterwards, and has its memory for the next entries; after an error it is as it was, and can be
    /// appended again.
    ///
    /// Threads that append at the same time share one file and its flushes.
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`], [`Error::DTypeMismatch`], [`Error::DuplicateKey`] and [`Error::BadInput`] for
    /// the batch itself; [`Error::ReadOnly`], [`Error::Busy`], [`Error::NoSpace`], [`Error::Io`],
    /// [`Error::OutcomeUnknown`], [`Error::Latched`], [`Error::Moved`], [`Error::NameTaken`], [`Error::Abandoned`] from
    /// writing it.
    pub fn append(&self, batch: &mut Batch, on_duplicate: OnDuplicate) -> Result<Appended> {
        self.check_shape(batch)?;
        if batch.is_empty() {
            return Ok(Appended::default());
        }
        let empty = Batch::new(batch.dim(), batch.dtype());
        let (outcome, back) = self.inner.append(std::mem::replace(batch, empty), on_duplicate);
        *batch = back;
        let appended = outcome?;
        batch.clear();
        self.inner.after_commit(appended.replaced + appended.deleted > 0);
        Ok(appended)
    }

    /// Takes a batch on and returns at once: it is committed by a thread of its own, together with whatever else has come
    /// in by then. The ticket says when it is durable. So one thread that computes batches need not wait for the disk
    /// between them, and what it computes meanwhile shares one flush.
    ///
    /// Batches are committed in the order in which they were taken on. More than 64 MiB do not wait: then this does.
    /// Closing or dropping the store commits all that wait first.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let mut tickets = Vec::new();
    /// for key in ["a", "b", "c"] {
    ///     let mut batch = store.batch();
    ///     batch.push(key, &[1.0f32])?;
    ///     tickets.push(store.append_async(batch, OnDuplicate::Skip)?);
    /// }
    /// for ticket in tickets {
    ///     ticket.wait()?; // durable from here on
    /// }
    /// assert_eq!(store.snapshot().totals().entries, 3);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`], [`Error::DTypeMismatch`], [`Error::ReadOnly`]; all others come from [`Ticket::wait`].
    pub fn append_async(&self, batch: Batch, on_duplicate: OnDuplicate) -> Result<Ticket> {
        self.check_shape(&batch)?;
        if !self.inner.is_writable {
            return Err(Error::ReadOnly { path: self.inner.path.clone(), action: "append" });
        }
        if batch.is_empty() {
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
        if batch.dim() != self.dim() {
            return Err(Error::DimensionMismatch {
                what: "the batch",
                expected: self.dim(),
                found: batch.dim(),
            });
        }
        if batch.dtype() != self.dtype() {
            return Err(Error::DTypeMismatch {
                what: "the batch",
                expected: self.dtype(),
                found: batch.dtype(),
            });
        }
        Ok(())
    }

    /// The state this handle knows: its own commits, and those of others up to its last append or refresh.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(&self.inner.view.read()))
    }

    /// Looks for commits of other processes first. Costs one small read when there are none (and waits for a commit of
    /// another thread of this handle that is under way).
    ///
    /// # Errors
    /// [`Error::Moved`] when another store is at the path now, or none: open it again. Otherwise as for opening, when the
    /// directory cannot be read any more.
    pub fn refresh(&self) -> Result<Snapshot> {
        self.inner.refresh()?;
        Ok(self.snapshot())
    }

    /// Writes the manifest now, so that the next open reads fewer files. It also happens every 64 commits or 256 MiB, after a
    /// commit of more than 65,536 keys, and when the store is closed.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Busy`], [`Error::NoSpace`], [`Error::Io`].
    pub fn checkpoint(&self) -> Result<()> {
        self.inner.locked("write a checkpoint", |writer, view| writer.checkpoint(view))
    }

    /// Writes the manifest, if commits came after it, and closes the handle. Dropping the store does the same, but
    /// can only log an error. Nothing that was appended depends on it.
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
        if self.inner.wants_checkpoint() { self.checkpoint() } else { Ok(()) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // What was taken on is written, however long that takes.
        self.inner.merging().end();
        self.stop_committer();
        // Nothing depends on this checkpoint, so it is not worth waiting for the lock of another process.
        self.inner.timeout.end();
        if let Err(error) = self.finish() {
            let path = self.inner.path.display();
            log::warn!("{path}: no checkpoint when closing (nothing is lost): {error}");
        }
    }
}
