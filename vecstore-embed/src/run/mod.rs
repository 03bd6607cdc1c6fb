//! Embedding a folder into a store.
//!
//! A [`Run`] is a row of stages joined by bounded channels:
//!
//! ```text
//!                                 ┌── rejected ──────────────┐
//!                                 │                          ▼
//! feed ──jobs──▶ worker × N ──▶ assembly ──▶ infer × L ──▶ commit
//! scan, which     read, decode,   pictures     a model each  one thread, appends
//! keys are        resize into     become                     durably
//! missing         a slot          batches
//! ```
//!
//! A slow stage holds up those before it; none runs ahead by more than its channel holds, and bytes read and
//! decoded are capped besides. What a stage could not finish is nowhere recorded: it is simply missing from the
//! store, and the next run finds it by its key.

mod assembly;
mod budget;
mod claims;
mod clock;
mod commit;
mod engine;
mod feed;
mod gone;
mod group;
mod infer;
mod lookup;
mod pipeline;
mod save;
mod shared;
mod slab;
mod stop;
mod summary;
mod target;
mod walk;
mod worker;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vecstore::{DType, OpenOptions};

pub use self::gone::Gone;
pub use self::stop::StopFlag;
pub use self::summary::{Ended, Summary};

use self::walk::Source;
use crate::backend::{Backend, BackendOptions, Precision, Provider, open_lanes};
use crate::filter::Filter;
use crate::model::Model;
use crate::picture::DecodeLimits;
use crate::progress::{Observer, Plan};
use crate::roots::RootArg;
use crate::shard::Shard;
use crate::{Error, Result};

/// Embeds a folder of pictures into a store: what the store does not account for yet, and nothing twice.
///
/// ```no_run
/// use vecstore_embed::{Model, Run};
///
/// let model = Model::builtin()?;
/// let summary = Run::new("photos", "photos.vecs").with_recursive(true).with_batch_size(64).run(&model)?;
/// println!("{} embedded, {} rejected", summary.embedded, summary.rejected);
/// for unread in summary.unread.first() {
///     println!("{}: {}", unread.path.display(), unread.reason);
/// }
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
#[derive(Clone)]
pub struct Run {
    folder: PathBuf,
    store: PathBuf,
    source: Source,
    recursive: bool,
    follow_links: bool,
    min_images: u64,
    filter: Arc<Filter>,
    shard: Option<Shard>,
    prune: bool,
    prune_many: bool,
    save_retries: u32,
    save_wait: Duration,
    chunk_size: usize,
    batch_size: usize,
    commit_rows: Option<usize>,
    lanes: Option<usize>,
    workers: usize,
    dtype: Option<DType>,
    limits: DecodeLimits,
    max_file: u64,
    max_decoded: u64,
    max_read_failures: u32,
    roots: Vec<RootArg>,
    settings: Vec<(String, String)>,
    open: OpenOptions,
    backend: BackendOptions,
    stop: StopFlag,
    stop_patience: Duration,
    observer: Option<Arc<dyn Observer>>,
}

impl Run {
    /// A run over the files of `folder`, into the store at `store`, which is created when there is none and
    /// something to put in it.
    pub fn new(folder: impl Into<PathBuf>, store: impl Into<PathBuf>) -> Self {
        Run {
            folder: folder.into(),
            store: store.into(),
            source: Source::Folder,
            recursive: false,
            follow_links: false,
            min_images: 1,
            filter: Arc::default(),
            shard: None,
            prune: false,
            prune_many: false,
            save_retries: 10,
            save_wait: Duration::from_secs(1),
            chunk_size: 100,
            batch_size: 32,
            commit_rows: None,
            lanes: None,
            workers: thread::available_parallelism().map_or(1, NonZeroUsize::get),
            dtype: None,
            limits: DecodeLimits::default(),
            max_file: 512 << 20,
            max_decoded: 1 << 30,
            max_read_failures: 20,
            roots: Vec::new(),
            settings: Vec::new(),
            open: OpenOptions::new(),
            backend: BackendOptions::default(),
            stop: StopFlag::default(),
            stop_patience: Duration::from_secs(15),
            observer: None,
        }
    }

    /// Also the folders in the folder, and in those. Off unless set.
    #[must_use]
    pub fn with_recursive(mut self, recursive: bool) -> Self {
        self.recursive = recursive;
        self
    }

    /// Takes the files that this file names, one per line (paths, or JSON objects with a `path`), instead of those of
    /// the folder. Relative ones start at the folder.
    #[must_use]
    pub fn with_list(mut self, list: impl Into<PathBuf>) -> Self {
        self.source = Source::List(list.into());
        self
    }

    /// Takes the pictures in these tar files instead of those of the folder. The key of one is that of the tar file,
    /// two slashes, and its name in it.
    #[must_use]
    pub fn with_tars(mut self, tars: impl IntoIterator<Item = PathBuf>) -> Self {
        self.source = Source::Tars(tars.into_iter().collect());
        self
    }

    /// Follows symbolic links. Off unless set.
    #[must_use]
    pub fn with_follow_links(mut self, follow: bool) -> Self {
        self.follow_links = follow;
        self
    }

    /// Leaves out the pictures of folders that have fewer. 1 unless set: none is left out.
    #[must_use]
    pub fn with_min_images(mut self, pictures: u64) -> Self {
        self.min_images = pictures;
        self
    }

    /// Which files and folders are looked at. All unless set.
    #[must_use]
    pub fn with_filter(mut self, filter: Filter) -> Self {
        self.filter = Arc::new(filter);
        self
    }

    /// Only this part of the inputs. All unless set.
    #[must_use]
    pub fn with_shard(mut self, shard: Shard) -> Self {
        self.shard = Some(shard);
        self
    }

    /// Removes entries of the folder whose files are gone, after a run that saw everything; more than one in ten of them
    /// only if `many`. Off unless set: they are reported.
    #[must_use]
    pub fn with_prune(mut self, prune: bool, many: bool) -> Self {
        (self.prune, self.prune_many) = (prune, many);
        self
    }

    /// How often a save that failed is tried again before the run ends, and how long to wait before the first of these
    /// tries; it becomes twice as long each time, up to half a minute. 10 and one second unless set. A full disk is
    /// waited for without end, and is not counted.
    #[must_use]
    pub fn with_save_retries(mut self, retries: u32, wait: Duration) -> Self {
        (self.save_retries, self.save_wait) = (retries, wait);
        self
    }

    /// Inputs of one folder that a run takes on at a time, when several share the work. 100 unless set; at least 1.
    #[must_use]
    pub fn with_chunk_size(mut self, pictures: usize) -> Self {
        self.chunk_size = pictures.max(1);
        self
    }

    /// Pictures per inference. 32 unless set; at least 1.
    #[must_use]
    pub fn with_batch_size(mut self, pictures: usize) -> Self {
        self.batch_size = pictures.max(1);
        self
    }

    /// Vectors per commit. What is there after two seconds is committed anyway. Unless set, each batch is committed
    /// when it comes out of the model; at least 1.
    #[must_use]
    pub fn with_commit_rows(mut self, rows: usize) -> Self {
        self.commit_rows = Some(rows.max(1));
        self
    }

    /// How often the model is loaded on the processor, or on each card, each with a thread of its own; all take their
    /// batches from one queue. On the processor the threads of the [backend](field@BackendOptions::threads) are shared
    /// among them. Once on the processor and twice on a card unless set; at least 1.
    #[must_use]
    pub fn with_lanes(mut self, lanes: usize) -> Self {
        self.lanes = Some(lanes.max(1));
        self
    }

    /// Threads that read and decode. The number of processors unless set; at least 1.
    #[must_use]
    pub fn with_workers(mut self, threads: usize) -> Self {
        self.workers = threads.max(1);
        self
    }

    /// Element type of a store that is created: f32 unless set. An existing store of another type is then refused.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Which pictures are too large to decode; those are rejected.
    #[must_use]
    pub fn with_limits(mut self, limits: DecodeLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Largest file that is read, in bytes; larger ones are rejected. 512 MiB unless set.
    #[must_use]
    pub fn with_max_file_bytes(mut self, bytes: u64) -> Self {
        self.max_file = bytes;
        self
    }

    /// Bytes of decoded pictures that may be in memory at once, over all workers, and likewise of files. A picture
    /// that needs more is decoded alone. 1 GiB unless set.
    #[must_use]
    pub fn with_max_decoded_bytes(mut self, bytes: u64) -> Self {
        self.max_decoded = bytes;
        self
    }

    /// Files in a row that cannot be read before the run stops (a drive has vanished); 0 for never. 20 unless set.
    #[must_use]
    pub fn with_max_read_failures(mut self, files: u32) -> Self {
        self.max_read_failures = files;
        self
    }

    /// Roots to add, or to point at another folder; see [`roots`](crate::roots).
    #[must_use]
    pub fn with_roots(mut self, roots: impl IntoIterator<Item = RootArg>) -> Self {
        self.roots = roots.into_iter().collect();
        self
    }

    /// Settings to record in the store, such as those of [`ModelSpec::to_settings`](crate::ModelSpec::to_settings).
    #[must_use]
    pub fn with_settings(mut self, settings: impl IntoIterator<Item = (String, String)>) -> Self {
        self.settings = settings.into_iter().collect();
        self
    }

    /// How the store is opened: how long to wait for its lock, whether every save is read back.
    #[must_use]
    pub fn with_open_options(mut self, options: OpenOptions) -> Self {
        self.open = options;
        self
    }

    /// What the model runs on.
    #[must_use]
    pub fn with_backend(mut self, options: BackendOptions) -> Self {
        self.backend = options;
        self
    }

    /// The flag that asks the run to stop.
    #[must_use]
    pub fn with_stop(mut self, stop: StopFlag) -> Self {
        self.stop = stop;
        self
    }

    /// How long a run that is asked to stop may go on to finish what is in flight: batches that the model would not be
    /// through with by then are not begun, and stay missing. 15 seconds unless set.
    #[must_use]
    pub fn with_stop_patience(mut self, patience: Duration) -> Self {
        self.stop_patience = patience;
        self
    }

    /// Who wants to know how far the run is.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Runs until the end of the folder, or until it is stopped.
    ///
    /// # Errors
    /// The folder, the store, the roots or the model cannot be used; the model fails on a batch; the store cannot
    /// take one. What was committed before stays, what was not stays missing, and the same run goes on from there.
    pub fn run(&self, model: &Model) -> Result<Summary> {
        let options = BackendOptions { batch: self.batch_size, ..self.backend.clone() };
        // A query may be computed more exactly than what it is compared with; what is stored has to be of one kind.
        if model.precision() != Precision::Full && options.device.provider() != Provider::TensorRt {
            return Err(Error::BadValue {
                what: "precision",
                expected: "full, except with --device tensorrt; elsewhere the model itself decides, exported in fp16 or bf16",
                found: model.precision().to_string(),
            });
        }
        self.start(model, || open_lanes(model, &options, self.lanes))
    }

    /// What the run would find to do, and the room it would need. Loads the model, looks at everything, and writes
    /// nothing.
    ///
    /// # Errors
    /// As [`Run::run`].
    pub fn survey(&self, model: &Model) -> Result<Plan> {
        self.survey_folder(model)
    }

    /// Like [`run`](Run::run), on a backend of the caller's.
    pub fn run_on(&self, model: &Model, backend: Box<dyn Backend>) -> Result<Summary> {
        self.run_on_lanes(model, vec![backend])
    }

    /// Like [`run`](Run::run), on backends of the caller's: a lane for each. They have to make the same vectors.
    ///
    /// # Errors
    /// As [`run`](Run::run), and if there is none, or their vectors differ in length.
    pub fn run_on_lanes(&self, model: &Model, backends: Vec<Box<dyn Backend>>) -> Result<Summary> {
        self.start(model, || Ok(backends))
    }
}
