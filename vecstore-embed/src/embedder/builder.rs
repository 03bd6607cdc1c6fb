//! How an embedder is put together.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use vecstore::Fingerprint;

use super::{Embedder, Inner};
use crate::backend::{BackendChoice, BackendOptions, Device, Encoder, Provider, open_lanes};
use crate::base::{Error, Result};
use crate::image::DecodeLimits;
use crate::model::{Model, Precision};
use crate::pipeline::Widths;
use crate::task::{Pictures, Task};

/// Options of an [`Embedder`].
///
/// ```no_run
/// use vecstore_embed::{Embedder, Model, PreprocessOverrides};
///
/// let model = Model::from_file("clip/model.onnx".as_ref(), &PreprocessOverrides::default(), None)?;
/// let embedder = Embedder::builder(&model).device("cuda:0".parse()?).lanes(2).batch(128).build();
/// println!("{} numbers", embedder.embed_file("cat.jpg".as_ref())?.len());
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
#[must_use]
pub struct EmbedderBuilder {
    name: String,
    fingerprint: Fingerprint,
    space: Option<String>,
    what: What,
    /// Of the program, one per lane; an engine is opened where there are none.
    encoders: Vec<Box<dyn Encoder>>,
    backend: BackendOptions,
    lanes: Option<usize>,
    limits: DecodeLimits,
    widths: Widths,
}

enum What {
    Model(Box<Model>),
    Own(Arc<dyn Task>),
}

/// Where lanes come from.
pub(super) enum Engine {
    Model(Box<Model>, BackendOptions, Option<usize>),
    /// Of the program: its lanes are open.
    Own,
}

impl Engine {
    /// Refuses a precision that the device does not compute in. A query may be computed more exactly than
    /// what it is compared with; what is stored has to be of one kind.
    pub(super) fn check_storable(&self) -> Result<()> {
        match self {
            Engine::Model(model, options, _)
                if model.precision() != Precision::Full
                    && options.device.provider() != Provider::TensorRt =>
            {
                let expected = "full, except with the device tensorrt; elsewhere the model itself decides, \
                                exported in fp16 or bf16";
                Err(Error::bad_value("precision", expected, model.precision().to_string()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn open(&self) -> Result<Vec<Box<dyn Encoder>>> {
        match self {
            Engine::Model(model, options, lanes) => open_lanes(model, options, *lanes),
            Engine::Own => Ok(Vec::new()),
        }
    }
}

impl EmbedderBuilder {
    pub(super) fn new(model: &Model) -> Self {
        Self::of(
            model.name().to_owned(),
            model.fingerprint().clone(),
            model.space().map(str::to_owned),
            What::Model(Box::new(model.clone())),
            Vec::new(),
        )
    }

    pub(super) fn custom(
        name: &str,
        version: &str,
        task: Arc<dyn Task>,
        encoders: Vec<Box<dyn Encoder>>,
    ) -> Result<Self> {
        if encoders.is_empty() {
            return Err(Error::bad_value("encoders", "one or more, one for each lane", "none"));
        }
        let mut hasher = blake3::Hasher::new();
        for part in ["vecstore-embed: an engine of a program", name, version, &task.canonical()] {
            // With its length before it no part can run over into the next.
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let description = format!("{name} {version}; {}", task.canonical());
        let fingerprint = Fingerprint::new(*hasher.finalize().as_bytes(), description);
        Ok(Self::of(name.to_owned(), fingerprint, None, What::Own(task), encoders))
    }

    fn of(
        name: String,
        fingerprint: Fingerprint,
        space: Option<String>,
        what: What,
        encoders: Vec<Box<dyn Encoder>>,
    ) -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        EmbedderBuilder {
            name,
            fingerprint,
            space,
            what,
            encoders,
            backend: BackendOptions::default(),
            lanes: None,
            limits: DecodeLimits::default(),
            widths: Widths {
                batch: 32,
                pinned: true,
                readers: 2 * processors,
                workers: processors,
                max_content: 512 << 20,
                max_loaded: 1 << 30,
            },
        }
    }

    /// What computes: the processor unless set.
    pub fn device(mut self, device: Device) -> Self {
        self.backend.device = device;
        self
    }

    /// Which engine runs an ONNX model.
    pub fn engine(mut self, choice: BackendChoice) -> Self {
        self.backend.choice = choice;
        self
    }

    /// The ONNX Runtime library to load.
    pub fn library(mut self, path: impl Into<PathBuf>) -> Self {
        self.backend.ort_lib = Some(path.into());
        self
    }

    /// Runs the model on encoders of the program's own, one per lane, instead of opening an engine for it.
    /// They have to make the same vectors.
    pub fn encoders(mut self, encoders: Vec<Box<dyn Encoder>>) -> Self {
        self.encoders = encoders;
        self
    }

    /// All options of the engine at once; the batch size is the embedder's.
    pub fn backend(mut self, options: BackendOptions) -> Self {
        self.backend = options;
        self
    }

    /// How often the model is loaded on the processor, or on each card, each with a thread of its own; all
    /// take their batches from one queue. Once on the processor, whose threads lanes share, and twice on a
    /// card unless set; at least 1.
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = Some(lanes.max(1));
        self
    }

    /// Items per inference. 32 unless set; at least 1.
    pub fn batch(mut self, items: usize) -> Self {
        self.widths.batch = items.max(1);
        self
    }

    /// Threads that read inputs ahead of their use. Twice the number of processors unless set; at least 1.
    /// More help where a disk or network takes long to answer.
    pub fn readers(mut self, threads: usize) -> Self {
        self.widths.readers = threads.max(1);
        self
    }

    /// Threads that make items of what was read: decode and resize. The number of processors unless set; at
    /// least 1.
    pub fn workers(mut self, threads: usize) -> Self {
        self.widths.workers = threads.max(1);
        self
    }

    /// Threads of the model on the processor, shared by its lanes. The number of processors unless set.
    pub fn threads(mut self, threads: usize) -> Self {
        self.backend.threads = threads;
        self
    }

    /// Which pictures are too large to decode; those are rejected.
    pub fn limits(mut self, limits: DecodeLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Largest content that is read, in bytes; larger ones are rejected. 512 MiB unless set.
    pub fn max_content_bytes(mut self, bytes: u64) -> Self {
        self.widths.max_content = bytes;
        self
    }

    /// Bytes of loaded inputs that may be in memory at once, over all workers, and likewise of files. One
    /// that needs more is loaded alone. 1 GiB unless set.
    pub fn max_loaded_bytes(mut self, bytes: u64) -> Self {
        self.widths.max_loaded = bytes;
        self
    }

    /// The space that vectors share with those of other towers; see [`Model::with_space`].
    pub fn space(mut self, space: impl Into<String>) -> Self {
        self.space = Some(space.into());
        self
    }

    /// The embedder. Nothing is loaded yet: what is wrong with the model or the device is an error of the
    /// first call that needs it.
    pub fn build(self) -> Embedder {
        let EmbedderBuilder { name, fingerprint, space, what, encoders, backend, lanes, limits, widths } =
            self;
        let (task, engine): (Arc<dyn Task>, _) = match what {
            What::Model(model) => {
                let task = Pictures::of(&model, limits);
                let backend = BackendOptions { batch: widths.batch, ..backend };
                (Arc::new(task), Engine::Model(model, backend, lanes))
            }
            What::Own(task) => (task, Engine::Own),
        };
        let engine = if encoders.is_empty() { engine } else { Engine::Own };
        let lanes = Mutex::new(encoders.into_iter().map(Mutex::new).collect());
        Embedder { inner: Arc::new(Inner { name, task, fingerprint, space, engine, widths, lanes }) }
    }
}
