//! The library's face: embeds what is in memory, or whatever a source has, without a store.

mod builder;
mod memory;
mod sample;
mod stream;

use std::borrow::Cow;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use ::image::RgbImage;
use parking_lot::Mutex;
use vecstore::{Fingerprint, Reader};

pub use self::builder::EmbedderBuilder;
pub use self::sample::{Sampled, verify_sample};
pub use self::stream::Stream;

pub(crate) use self::sample::cosine;

use self::builder::Engine;
use self::memory::InMemory;
use crate::backend::Encoder;
use crate::base::{Error, Rejected, Result, StopFlag};
use crate::model::{Model, SPACE};
use crate::pipeline::{Done, Embedded, Job, Outcome, Pipeline, Shared, Widths};
use crate::source::{Content, Found, Input, Source};
use crate::task::Task;

/// A model with all it takes to embed: how inputs become items, what computes, on how many threads.
///
/// Clones share the loaded model. It is loaded when it is first needed.
///
/// ```
/// use vecstore_embed::{Embedder, Model};
///
/// let embedder = Embedder::builder(&Model::builtin()?).build();
/// let picture = |shade| image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([shade, x as u8, y as u8]));
/// let pictures = [40, 200].map(picture);
/// let first: Vec<f32> = embedder.embed(&pictures[0])?;
/// assert_eq!(first.len(), 512);
/// for embedded in embedder.embed_all(&pictures)? {
///     assert_eq!(embedded?.rows().len(), 1);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Embedder {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    task: Arc<dyn Task>,
    fingerprint: Fingerprint,
    space: Option<String>,
    engine: Engine,
    widths: Widths,
    /// The lanes, once they are open.
    lanes: Mutex<Lanes>,
}

/// Each is locked for one batch at a time.
type Lanes = Arc<[Mutex<Box<dyn Encoder>>]>;

/// Something that can be embedded: bytes of a file, a text, or a decoded picture.
pub trait Embeddable {
    /// Its content.
    fn content(&self) -> Content<'_>;
}

impl Embeddable for RgbImage {
    fn content(&self) -> Content<'_> {
        Content::Picture(Cow::Borrowed(self))
    }
}

impl Embeddable for Vec<u8> {
    fn content(&self) -> Content<'_> {
        Content::Bytes(self)
    }
}

impl Embeddable for [u8] {
    fn content(&self) -> Content<'_> {
        Content::Bytes(self)
    }
}

impl Embeddable for str {
    fn content(&self) -> Content<'_> {
        Content::Bytes(self.as_bytes())
    }
}

impl<T: Embeddable + ?Sized> Embeddable for &T {
    fn content(&self) -> Content<'_> {
        (**self).content()
    }
}

impl Embedder {
    /// Pictures as `model` wants them, with the defaults of [`EmbedderBuilder`].
    pub fn builder(model: &Model) -> EmbedderBuilder {
        EmbedderBuilder::new(model)
    }

    /// A task and encoders of the program's own, one per lane. `name` and `version` say what computes, to
    /// people and in the fingerprint: raise `version` when vectors change.
    ///
    /// # Errors
    /// There is no encoder.
    pub fn custom(
        name: &str,
        version: &str,
        task: impl Task + 'static,
        encoders: Vec<Box<dyn Encoder>>,
    ) -> Result<EmbedderBuilder> {
        EmbedderBuilder::custom(name, version, Arc::new(task), encoders)
    }

    /// What the model is called.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Equal exactly when vectors are comparable.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.inner.fingerprint
    }

    /// The space that its vectors share with those of other towers.
    pub fn space(&self) -> Option<&str> {
        self.inner.space.as_deref()
    }

    /// How inputs become items.
    pub fn task(&self) -> &dyn Task {
        self.inner.task.as_ref()
    }

    pub(crate) fn widths(&self) -> Widths {
        self.inner.widths
    }

    /// Refuses an embedder whose vectors must not be stored.
    pub(crate) fn check_storable(&self) -> Result<()> {
        self.inner.engine.check_storable()
    }

    /// Loads the model, if that has not been done, and gives the lanes to work with.
    pub(crate) fn lanes(&self) -> Result<Lanes> {
        let mut lanes = self.inner.lanes.lock();
        if lanes.is_empty() {
            *lanes = self.inner.engine.open()?.into_iter().map(Mutex::new).collect();
        }
        Ok(Arc::clone(&lanes))
    }

    /// What computes, and the length of its vectors. Loads the model.
    ///
    /// # Errors
    /// The library or device that was asked for cannot be used, or the model cannot be run.
    pub fn describe(&self) -> Result<(String, usize)> {
        let lanes = self.lanes()?;
        let first = lanes.first().map(|first| first.lock());
        let first = first.map(|first| (first.name().to_owned(), first.signature().dim()));
        let (name, dim) = first.unwrap_or_default();
        Ok(match lanes.len() {
            1 => (name, dim),
            several => (format!("{name} in {several} lanes"), dim),
        })
    }

    /// The vector of one input: bytes of a file, or a decoded picture.
    ///
    /// # Errors
    /// [`Error::Rejected`] for bad content, and for content that has no vector, or several; otherwise as
    /// [`embed_all`](Self::embed_all).
    pub fn embed(&self, input: impl Embeddable + Sync) -> Result<Vec<f32>> {
        let embedded = self.embed_all(&[input])?.into_iter().next();
        let embedded =
            embedded.unwrap_or(Ok(Embedded::default())).map_err(|rejected| Error::Rejected { rejected })?;
        let rows = embedded.rows().len();
        embedded.into_vector().ok_or_else(|| {
            let expected = "one vector (`embed_all` gives all of them)";
            Error::bad_value("input to embed", expected, format!("{rows} vectors"))
        })
    }

    /// The vectors of many inputs, or why there are none, in the order of the inputs: on as many threads as
    /// it was built for, in batches. An input that makes a batch fail is found, and rejected.
    ///
    /// # Errors
    /// The model cannot be loaded, or fails on everything; a task of the program's own breaks its rules.
    pub fn embed_all<T: Embeddable + Sync>(&self, inputs: &[T]) -> Result<Vec<Result<Embedded, Rejected>>> {
        let source = InMemory(inputs);
        let widths = self.widths();
        let widths = Widths {
            pinned: inputs.len() >= widths.batch,
            readers: 1,
            workers: widths.workers.min(inputs.len()).max(1),
            ..widths
        };
        let mut found: Vec<Option<Result<Embedded, Rejected>>> = inputs.iter().map(|_| None).collect();
        let shared = Shared::new(StopFlag::default(), 0, 0, None);
        self.each(&source, widths, &shared, &mut |done| {
            let outcome = match done.outcome {
                Some(Outcome::Embedded(embedded)) => Ok(embedded),
                Some(Outcome::Rejected(rejected)) => Err(rejected),
                // What is in memory can be read.
                _ => return true,
            };
            if let Some(place) = memory::number(&done.job.input).and_then(|at| found.get_mut(at)) {
                *place = Some(outcome);
            }
            true
        })?;
        let missing = || Error::bad_value("task", "an outcome of every input", "inputs without");
        found.into_iter().map(|found| found.ok_or_else(missing)).collect()
    }

    /// Embeds everything that a source has. Gives each input with what became of it, as it is done, in any
    /// order. No store is needed, and nothing is remembered. Dropping the stream ends the work. What cannot
    /// be read comes with its path as key. Other calls of this embedder get in between two batches.
    ///
    /// ```
    /// use vecstore_embed::{Embedder, Files, Model, Outcome};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let photos = dir.path();
    /// image::RgbImage::new(8, 8).save(photos.join("black.png"))?;
    /// let embedder = Embedder::builder(&Model::builtin()?).build();
    /// for found in embedder.stream(Files::new(photos)) {
    ///     let (key, outcome) = found?;
    ///     assert!(key == b"black.png" && matches!(outcome, Outcome::Embedded(_)));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stream(&self, source: impl Source + 'static) -> Stream {
        Stream::new(self.clone(), source)
    }

    /// Gives every input of a source to `sink`, once it is settled, until that says that it wants no more.
    fn each(
        &self,
        source: &dyn Source,
        widths: Widths,
        shared: &Shared,
        sink: &mut (dyn FnMut(Done) -> bool + Send),
    ) -> Result<()> {
        let (lanes, done) = (self.lanes()?, Mutex::new(sink));
        let files = source.files().map(|files| files.accepting(self.task().accepts()));
        let source = files.as_ref().map_or(source, |files| files);
        let pipeline = Pipeline { source, task: self.task(), widths, remember: false, shared };
        let feed = |sink: &mut crate::pipeline::Sink<'_>| {
            for found in source.walk()? {
                let unread = match found {
                    Found::Input(input) => match sink(Job { input, ..Job::default() }) {
                        ControlFlow::Continue(()) => continue,
                        ControlFlow::Break(()) => break,
                    },
                    Found::Unreadable(path, error) => (path, error),
                    Found::Outside(input) => (input.path, io::Error::other("outside the folder")),
                    _ => continue,
                };
                let input = Input::new(unread.0.into_os_string().into_encoded_bytes());
                let job = Job { input, ..Job::default() };
                if !done.lock()(Done { job, outcome: Some(Outcome::Unread(unread.1)) }) {
                    break;
                }
            }
            Ok(())
        };
        pipeline.run(&lanes, feed, |outputs, _| {
            let _ = outputs.iter().flatten().all(|settled| done.lock()(settled));
            Ok(())
        })
    }

    /// Refuses a store whose vectors cannot be compared with those of this embedder: neither did the same
    /// model make them, nor do they share a space.
    ///
    /// # Errors
    /// [`vecstore::Error::FingerprintMismatch`], unless the store has no model recorded.
    pub fn check_query(&self, store: &Reader) -> Result<()> {
        let same_space = self.space().is_some_and(|space| store.snapshot().setting(SPACE) == Some(space));
        match store.check_fingerprint(self.fingerprint()) {
            Err(_) if same_space => Ok(()),
            checked => Ok(checked?),
        }
    }

    /// The vector of the picture at `path`, made exactly as a run makes those of a store.
    ///
    /// # Errors
    /// The file cannot be read, or is rejected; otherwise as [`embed`](Self::embed).
    pub fn embed_file(&self, path: &Path) -> Result<Vec<f32>> {
        let remedy = "give the path of a picture that this user may read";
        let bytes = std::fs::read(path).map_err(Error::io(path, "read the picture", remedy))?;
        let bad = |reason| Error::BadPicture { path: path.to_owned(), reason };
        let vector = self.embed(&bytes).map_err(|error| match error {
            Error::Rejected { rejected } => bad(rejected.reason),
            other => other,
        })?;
        match vector.iter().all(|element| element.is_finite()) {
            true => Ok(vector),
            false => Err(bad("the model's output for it is not finite".to_owned())),
        }
    }
}
