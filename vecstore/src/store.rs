//! The handle on a store.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::commit::Request;
use crate::config::check_settings;
use crate::load;
use crate::lock::Watch;
use crate::manifest::FingerprintRecord;
use crate::open::OpenOptions;
use crate::vfs::Vfs;
use crate::view::View;
use crate::writer::Writer;
use crate::{Appended, Batch, DType, Error, Fingerprint, Metric, OnDuplicate, Result, Snapshot, StoreConfig};

/// A group of batches is cut at this many bytes, so that no one waits for a giant file.
const GROUP_BYTES: usize = 32 << 20;

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
/// let appended = store.append(batch, OnDuplicate::Skip)?;
/// assert_eq!(appended.commit, Some(1));
///
/// let hits = store.snapshot().search(&[0.0, 1.0], 1)?;
/// assert_eq!(hits[0].key, b"b.jpg");
/// # Ok::<(), vecstore::Error>(())
/// ```
pub struct Store {
    path: PathBuf,
    vfs: Arc<dyn Vfs>,
    view: RwLock<Arc<View>>,
    queue: Mutex<VecDeque<Arc<Ticket>>>,
    side: Mutex<Side>,
}

/// What one thread at a time uses: the writer, and LOCK's counter for refreshing.
#[derive(Debug)]
struct Side {
    writer: Option<Writer>,
    watch: Watch,
    /// LOCK's counter when the view was last read.
    seen: Option<u64>,
}

/// A batch that waits to be committed, and its outcome.
#[derive(Debug)]
struct Ticket {
    batch: Batch,
    policy: OnDuplicate,
    outcome: Mutex<Option<Result<Appended>>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// A handle from its parts; `seen` is LOCK's counter from before the view was read.
    pub(crate) fn assemble(
        path: &Path,
        vfs: Arc<dyn Vfs>,
        view: View,
        writer: Option<Writer>,
        watch: Watch,
        seen: Option<u64>,
    ) -> Self {
        Store {
            path: path.to_owned(),
            vfs,
            view: RwLock::new(Arc::new(view)),
            queue: Mutex::new(VecDeque::new()),
            side: Mutex::new(Side { writer, watch, seen }),
        }
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

    /// The store's directory, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Elements per vector.
    pub fn dim(&self) -> usize {
        self.view.read().meta.dim
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.view.read().meta.dtype
    }

    /// How vectors are compared.
    pub fn metric(&self) -> Metric {
        self.view.read().meta.metric
    }

    /// What makes the vectors, once it is recorded.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.view.read().meta.fingerprint.clone()
    }

    /// A named text of the store.
    pub fn setting(&self, name: &str) -> Option<String> {
        self.view.read().meta.settings.get(name).cloned()
    }

    /// All named texts of the store.
    pub fn settings(&self) -> BTreeMap<String, String> {
        self.view.read().meta.settings.clone()
    }

    /// An empty batch of the store's dimension and element type.
    pub fn batch(&self) -> Batch {
        let view = self.view.read();
        Batch::new(view.meta.dim, view.meta.dtype)
    }

    /// Records what makes the vectors. Does nothing when the same fingerprint is recorded.
    ///
    /// # Errors
    /// [`Error::FingerprintMismatch`] when another one is; otherwise as for [`Store::set_setting`].
    pub fn set_fingerprint(&self, fingerprint: &Fingerprint) -> Result<()> {
        if self.check_fingerprint(self.fingerprint().as_ref(), fingerprint)? {
            return Ok(());
        }
        self.change_manifest("record a fingerprint", |manifest| {
            let recorded = manifest.body.fingerprint();
            if !self.check_fingerprint(recorded.as_ref(), fingerprint)? {
                manifest.body.fingerprint = Some(FingerprintRecord {
                    id: *fingerprint.id(),
                    description: fingerprint.description().to_owned(),
                });
            }
            Ok(())
        })
    }

    /// True when this fingerprint is recorded, false when none is.
    fn check_fingerprint(&self, recorded: Option<&Fingerprint>, given: &Fingerprint) -> Result<bool> {
        match recorded {
            None => Ok(false),
            Some(recorded) if recorded == given => Ok(true),
            Some(recorded) => Err(Error::FingerprintMismatch {
                path: self.path.clone(),
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
        change: impl FnOnce(&mut crate::manifest::Manifest) -> Result<()>,
    ) -> Result<()> {
        self.with_writer(action, |writer, view| {
            writer.locked(view, |writer, view| {
                writer.update_manifest(view, change)?;
                writer.raise();
                Ok(())
            })
        })
    }

    /// Runs `work` with the writer and a copy of the view, and publishes the copy whatever the outcome: even a
    /// failed commit may have learnt what others did.
    fn with_writer<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&mut Writer, &mut View) -> Result<T>,
    ) -> Result<T> {
        let mut side = self.side.lock();
        let Some(writer) = side.writer.as_mut() else {
            return Err(Error::ReadOnly { path: self.path.clone(), action });
        };
        let mut view = View::clone(&self.view.read());
        let result = work(writer, &mut view);
        *self.view.write() = Arc::new(view);
        result
    }

    /// Appends a batch. When this returns, the batch is durable and visible as a whole; after an error nothing of
    /// it is, except after [`Error::OutcomeUnknown`].
    ///
    /// Threads that append at the same time share one file and its flushes.
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`], [`Error::DTypeMismatch`], [`Error::DuplicateKey`] and [`Error::BadInput`] for
    /// the batch itself; [`Error::ReadOnly`], [`Error::Busy`], [`Error::NoSpace`], [`Error::Io`],
    /// [`Error::OutcomeUnknown`], [`Error::Latched`], [`Error::GroupFailed`] from writing it.
    pub fn append(&self, batch: Batch, on_duplicate: OnDuplicate) -> Result<Appended> {
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
        if batch.is_empty() {
            return Ok(Appended::default());
        }
        let ticket = Arc::new(Ticket { batch, policy: on_duplicate, outcome: Mutex::new(None) });
        self.queue.lock().push_back(Arc::clone(&ticket));
        // Whoever gets the writer commits what is waiting, in order; by the time this thread gets it, its batch may
        // be done.
        loop {
            let done = self.with_writer("append", |writer, view| {
                if ticket.outcome.lock().is_some() {
                    return Ok(());
                }
                let group = self.next_group();
                if group.is_empty() {
                    let reason = "the thread that was committing it ended in a panic".to_owned();
                    return Err(Error::GroupFailed { reason });
                }
                let requests: Vec<Request<'_>> =
                    group.iter().map(|t| Request { batch: &t.batch, policy: t.policy }).collect();
                let outcomes = writer.commit_group(view, &requests);
                for (ticket, outcome) in group.iter().zip(outcomes) {
                    *ticket.outcome.lock() = Some(outcome);
                }
                Ok(())
            });
            if let Err(error) = done {
                self.queue.lock().retain(|waiting| !Arc::ptr_eq(waiting, &ticket));
                return Err(error);
            }
            if let Some(outcome) = ticket.outcome.lock().take() {
                return outcome;
            }
        }
    }

    fn next_group(&self) -> Vec<Arc<Ticket>> {
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let mut group: Vec<Arc<Ticket>> = Vec::new();
        while let Some(ticket) = queue.front() {
            bytes += ticket.batch.byte_len();
            if !group.is_empty() && bytes > GROUP_BYTES {
                break;
            }
            group.extend(queue.pop_front());
        }
        group
    }

    /// The state this handle knows: its own commits, and those of others up to its last append or refresh.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(&self.view.read()))
    }

    /// Looks for commits of other processes first. Costs one small read when there are none.
    ///
    /// # Errors
    /// As for opening, when the directory cannot be read any more.
    pub fn refresh(&self) -> Result<Snapshot> {
        let mut side = self.side.lock();
        let counter = side.watch.counter();
        if counter.is_none() || counter != side.seen {
            let known = Arc::clone(&self.view.read());
            let view = load::load(&*self.vfs, &self.path, Some(&known))?;
            if view.last_commit() > known.last_commit()
                && let Some(writer) = side.writer.as_mut()
            {
                writer.flush_seen(&view)?;
            }
            *self.view.write() = Arc::new(view);
            side.seen = counter;
        }
        drop(side);
        Ok(self.snapshot())
    }

    /// Writes the manifest now, so that the next open reads fewer files. It also happens every 64 commits and when
    /// the store is closed.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Busy`], [`Error::NoSpace`], [`Error::Io`].
    pub fn checkpoint(&self) -> Result<()> {
        self.with_writer("write a checkpoint", |writer, view| {
            writer.locked(view, |writer, view| writer.checkpoint(view))
        })
    }

    /// Writes the manifest, if commits came after it, and closes the handle. Dropping the store does the same, but
    /// can only log an error. Nothing that was appended depends on it.
    ///
    /// # Errors
    /// As [`Store::checkpoint`].
    pub fn close(self) -> Result<()> {
        self.finish()
    }

    fn finish(&self) -> Result<()> {
        let wanted = self
            .side
            .lock()
            .writer
            .as_ref()
            .is_some_and(|writer| writer.since_checkpoint() > 0 && !writer.is_latched());
        if wanted { self.checkpoint() } else { Ok(()) }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            log::warn!("{}: no checkpoint when closing (nothing is lost): {error}", self.path.display());
        }
    }
}
