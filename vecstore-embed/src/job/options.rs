//! What a run is told before it begins.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vecstore::{DType, OpenOptions};

use crate::base::StopFlag;
use crate::keys::RootArg;
use crate::pipeline::report::Observer;
use crate::source::{Shard, Source};

/// Embeds what a source has into a store: what the store does not account for yet, and nothing twice.
///
/// ```no_run
/// use vecstore_embed::{Embedder, Files, Model, Run};
///
/// let embedder = Embedder::builder(&Model::builtin()?).batch(64).build();
/// let photos = Files::new("photos").with_recursive(true);
/// let summary = Run::new(photos, "photos.vecs").run(&embedder)?;
/// println!("{} embedded, {} rejected", summary.embedded, summary.rejected);
/// for unread in summary.unread.first() {
///     println!("{}: {}", unread.path.display(), unread.reason);
/// }
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
#[derive(Clone)]
pub struct Run {
    pub(super) source: Arc<dyn Source>,
    pub(super) store: PathBuf,
    pub(super) shard: Option<Shard>,
    pub(super) prune: bool,
    pub(super) prune_many: bool,
    pub(super) save_retries: u32,
    pub(super) save_wait: Duration,
    pub(super) chunk_size: usize,
    pub(super) commit_rows: Option<usize>,
    pub(super) dtype: Option<DType>,
    pub(super) max_read_failures: u32,
    pub(super) roots: Vec<RootArg>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) open: OpenOptions,
    pub(super) stop: StopFlag,
    pub(super) stop_patience: Duration,
    pub(super) observer: Option<Arc<dyn Observer>>,
}

impl Run {
    /// A run over the inputs of `source`, into the store at `store`, which is created when there is none and
    /// something to put in it.
    pub fn new(source: impl Source + 'static, store: impl Into<PathBuf>) -> Self {
        Run {
            source: Arc::new(source),
            store: store.into(),
            shard: None,
            prune: false,
            prune_many: false,
            save_retries: 10,
            save_wait: Duration::from_secs(1),
            chunk_size: 100,
            commit_rows: None,
            dtype: None,
            max_read_failures: 20,
            roots: Vec::new(),
            settings: Vec::new(),
            open: OpenOptions::new(),
            stop: StopFlag::default(),
            stop_patience: Duration::from_secs(15),
            observer: None,
        }
    }

    /// Only this part of the inputs. All unless set.
    #[must_use]
    pub fn with_shard(mut self, shard: Shard) -> Self {
        self.shard = Some(shard);
        self
    }

    /// Removes entries of the folder whose files are gone, after a run that saw everything; more than one in
    /// ten of them only if `many`. Off unless set: they are reported.
    #[must_use]
    pub fn with_prune(mut self, prune: bool, many: bool) -> Self {
        (self.prune, self.prune_many) = (prune, many);
        self
    }

    /// How often a save that failed is tried again before the run ends, and how long to wait before the first
    /// of these tries; it becomes twice as long each time, up to half a minute. 10 and one second unless set.
    /// A full disk is waited for without end, and is not counted.
    #[must_use]
    pub fn with_save_retries(mut self, retries: u32, wait: Duration) -> Self {
        (self.save_retries, self.save_wait) = (retries, wait);
        self
    }

    /// Inputs of one folder that a run takes on at a time, when several share the work. 100 unless set; at
    /// least 1.
    #[must_use]
    pub fn with_chunk_size(mut self, inputs: usize) -> Self {
        self.chunk_size = inputs.max(1);
        self
    }

    /// Vectors per commit. What is there after two seconds is committed anyway. Unless set, each batch is
    /// committed when it comes out of the model; at least 1.
    #[must_use]
    pub fn with_commit_rows(mut self, rows: usize) -> Self {
        self.commit_rows = Some(rows.max(1));
        self
    }

    /// Element type of a store that is created: f32 unless set. An existing store of another type is then
    /// refused.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Files in a row that cannot be read before the run stops (a drive has vanished); 0 for never. 20 unless
    /// set.
    #[must_use]
    pub fn with_max_read_failures(mut self, files: u32) -> Self {
        self.max_read_failures = files;
        self
    }

    /// Roots to add, or to point at another folder; see [`roots`](crate::keys).
    #[must_use]
    pub fn with_roots(mut self, roots: impl IntoIterator<Item = RootArg>) -> Self {
        self.roots = roots.into_iter().collect();
        self
    }

    /// Settings to record in the store, such as those of
    /// [`ModelSpec::to_settings`](crate::ModelSpec::to_settings).
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

    /// The flag that asks the run to stop.
    #[must_use]
    pub fn with_stop(mut self, stop: StopFlag) -> Self {
        self.stop = stop;
        self
    }

    /// How long a run that is asked to stop may go on to finish what is in flight: batches that the model
    /// would not be through with by then are not begun, and stay missing. 15 seconds unless set.
    #[must_use]
    pub fn with_stop_patience(mut self, patience: Duration) -> Self {
        self.stop_patience = patience;
        self
    }

    /// What is told how far the run is.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }
}
