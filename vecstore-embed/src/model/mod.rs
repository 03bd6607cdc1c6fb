//! A model: which graph, how pictures reach it, which of its outputs is the vector.

pub mod descriptor;
mod fingerprint;
mod graph;
mod precision;
mod proto;
mod spec;

use std::fs::File;
use std::path::{Path, PathBuf};

use vecstore::Fingerprint;

use crate::base::{Error, Result, names};
use crate::image::preprocess::{Preprocess, PreprocessOverrides};
use crate::tensor::{Element, TensorSpec};

pub use self::precision::Precision;
pub use self::spec::ModelSpec;

pub(crate) use self::spec::SPACE;

use self::fingerprint::Ingredients;
use self::graph::{Declared, Port, declared};

/// The file that is looked for beside a model.
const CONFIG: &str = "preprocessor_config.json";

/// A model that a [backend](crate::backend) can be opened for.
///
/// ```
/// use vecstore_embed::model::Model;
///
/// let model = Model::builtin()?;
/// assert_eq!(model.name(), "descriptor-1");
/// assert_eq!(model.preprocess().input_height(), 224);
/// println!("vectors of {}", model.fingerprint().description());
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Model {
    name: String,
    /// The graph; `None` for the built-in model. Backends read it again, because weights may lie in files
    /// beside it.
    file: Option<PathBuf>,
    preprocess: Preprocess,
    fingerprint: Fingerprint,
    graph: Graph,
    normalise: Normalise,
    precision: Precision,
    space: Option<String>,
}

/// What the graph takes and gives.
#[derive(Clone, Debug)]
struct Graph {
    input: String,
    /// What the input is made of.
    element: Element,
    batch: BatchShape,
    output: String,
}

/// What is done to the vectors that a model gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Normalise {
    /// Each is brought to length 1.
    #[default]
    L2,
    /// Nothing. The lengths then count where the store's metric is not cosine.
    None,
}

names!(Normalise "normalise" { L2 "l2" or None "none" });

/// Which of the numbers that a model gives are the vector of a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputOptions {
    /// The output to take. Without it the only one is taken, or the only one `[N, D]`, or the one of those
    /// that is called as the embedding of exported models is.
    pub name: Option<String>,
    /// What is done to it.
    pub normalise: Normalise,
    /// How exactly it is computed. Other than [`Precision::Full`] only TensorRT can.
    pub precision: Precision,
}

/// How many pictures the graph takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchShape {
    Any,
    /// Always so many: fewer are filled up with blank ones.
    Fixed(usize),
}

/// Pictures that a graph may ask for at a time.
const MAX_FIXED: usize = 4096;

/// What the embedding is called, where a model has several outputs `[N, D]`, the most telling names first.
/// CLIP's and SigLIP's exports have `image_embeds` beside the `pooler_output` that it is a projection of.
const EMBEDDINGS: [&str; 6] =
    ["image_embeds", "image_embeddings", "embeddings", "embedding", "embeds", "pooler_output"];

impl Model {
    /// The [`descriptor`] that is part of this crate. It needs no engine.
    ///
    /// # Errors
    /// None: built-in and loaded models have one signature.
    pub fn builtin() -> Result<Self> {
        let parts = Parts {
            name: descriptor::NAME.to_owned(),
            file: None,
            content: descriptor::REFERENCE.into(),
            weights: Vec::new(),
            preprocess: Preprocess::descriptor(),
        };
        let (input, output) = ("pixels".to_owned(), "embedding".to_owned());
        let graph = Graph { input, element: Element::F32, batch: BatchShape::Any, output };
        Ok(parts.model(graph, &OutputOptions::default()))
    }

    /// An ONNX file with one input of f32, f16 or bf16 `[N, 3, height, width]` and, among its outputs, one
    /// `[N, D]`.
    ///
    /// How to prepare pictures is read from `preprocessor_config.json` in the model's folder, with single
    /// values replaced by `overrides`. Without that file `overrides` must hold size, mean and std; when they
    /// do, a file of a family that is not known here does not matter either.
    ///
    /// `output` names the output to take; see [`OutputOptions::name`].
    ///
    /// # Errors
    /// If a file cannot be read, is not ONNX, has other inputs or no such output, or if it is not known how
    /// to prepare pictures. Each says what was expected, what was found and what to do.
    pub fn from_file(path: &Path, overrides: &PreprocessOverrides, output: Option<&str>) -> Result<Self> {
        let output = OutputOptions { name: output.map(str::to_owned), ..OutputOptions::default() };
        Model::from_file_with(path, overrides, &output)
    }

    /// As [`from_file`](Self::from_file), with all that there is to say about the output.
    ///
    /// # Errors
    /// As there.
    pub fn from_file_with(
        path: &Path,
        overrides: &PreprocessOverrides,
        output: &OutputOptions,
    ) -> Result<Self> {
        let remedy = "give the path of an ONNX file that this user may read";
        let bytes = std::fs::read(path).map_err(Error::io(path, "read the model", remedy))?;
        let declared = declared(&path.display().to_string(), &bytes)?;
        let parts = Parts {
            name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            file: Some(path),
            content: blake3::hash(&bytes),
            weights: hash_weights(path, &declared)?,
            preprocess: preprocess(path, overrides)?,
        };
        let graph = parts.graph(&declared, output.name.as_deref())?;
        Ok(parts.model(graph, output))
    }

    /// What the model is called: its file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same model as one tower of the space that is called `space`: vectors of another tower of that
    /// space may be compared with its own, such as those of words with those of pictures.
    #[must_use]
    pub fn with_space(mut self, space: Option<String>) -> Self {
        self.space = space;
        self
    }

    /// The space that its vectors share with those of other towers.
    pub fn space(&self) -> Option<&str> {
        self.space.as_deref()
    }

    /// How pictures are prepared for it.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Equal exactly when vectors are comparable: over the model's bytes and weight files, the preparation of
    /// pictures, the output taken, the normalisation and the precision.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Its input, for pictures as its preparation makes them.
    pub fn input(&self) -> TensorSpec {
        let (height, width) = (self.preprocess.input_height(), self.preprocess.input_width());
        TensorSpec::new(&self.graph.input, self.graph.element, &[3, height as usize, width as usize])
    }

    pub(crate) fn output(&self) -> &str {
        &self.graph.output
    }

    pub(crate) fn batch(&self) -> BatchShape {
        self.graph.batch
    }

    /// What is done to the vectors that it gives.
    pub fn normalise(&self) -> Normalise {
        self.normalise
    }

    /// How exactly it is computed.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// An error about this model.
    pub(crate) fn unusable(
        &self,
        expected: impl Into<String>,
        found: String,
        remedy: impl Into<String>,
    ) -> Error {
        Error::Model {
            model: self.file.as_ref().map_or_else(|| self.name.clone(), |file| file.display().to_string()),
            expected: expected.into(),
            found,
            remedy: remedy.into(),
        }
    }
}

/// All that a model is made from, before it is known to fit together.
struct Parts<'a> {
    name: String,
    file: Option<&'a Path>,
    /// Of the graph.
    content: blake3::Hash,
    weights: Vec<(String, blake3::Hash)>,
    preprocess: Preprocess,
}

impl Parts<'_> {
    fn model(self, graph: Graph, options: &OutputOptions) -> Model {
        let Parts { name, file, content, weights, preprocess } = self;
        let OutputOptions { normalise, precision, .. } = *options;
        let fingerprint = Ingredients {
            name: &name,
            model: content,
            weights: &weights,
            preprocess: &preprocess.canonical(),
            output: &graph.output,
            normalise,
            precision,
        }
        .fingerprint();
        let file = file.map(Path::to_owned);
        Model { name, file, preprocess, fingerprint, graph, normalise, precision, space: None }
    }

    fn graph(&self, declared: &Declared, wanted: Option<&str>) -> Result<Graph> {
        let (input, batch) = self.input(&declared.inputs)?;
        let (input, element) = (input.name.clone(), input.element.unwrap_or_default());
        Ok(Graph { input, element, batch, output: self.output(&declared.outputs, wanted)? })
    }

    fn refuse<T>(&self, expected: String, found: String, remedy: &str) -> Result<T> {
        let model = self.file.map(|file| file.display().to_string()).unwrap_or_default();
        Err(Error::Model { model, expected, found, remedy: remedy.to_owned() })
    }

    /// The one input, if it takes what the preprocessing makes.
    fn input<'a>(&self, inputs: &'a [Port]) -> Result<(&'a Port, BatchShape)> {
        let (height, width) =
            (u64::from(self.preprocess.input_height()), u64::from(self.preprocess.input_width()));
        let expected = format!("one input [N, 3, {height}, {width}] of f32, f16 or bf16");
        let [input] = inputs else {
            let found = format!("{} inputs ({})", inputs.len(), list(inputs));
            return self.refuse(expected, found, "export the part of the model that embeds pictures alone");
        };
        let refuse = |remedy| self.refuse(expected.clone(), input.to_string(), remedy);
        if input.element.is_none() {
            return refuse("export the model with f32 inputs");
        }
        let Some(dims) = &input.dims else { return Ok((input, BatchShape::Any)) };
        let [batch, channels, rows, columns] = dims[..] else {
            return refuse("export a model that takes pictures as [N, 3, H, W]");
        };
        if channels.is_some_and(|channels| channels != 3) {
            return refuse("export a model that takes three colour planes before height and width");
        }
        if rows.is_some_and(|rows| rows != height) || columns.is_some_and(|columns| columns != width) {
            return refuse("give the size and the crop that the model was trained with");
        }
        match batch.map(usize::try_from) {
            None => Ok((input, BatchShape::Any)),
            Some(Ok(fixed @ 1..=MAX_FIXED)) => Ok((input, BatchShape::Fixed(fixed))),
            Some(_) => refuse("export the model with a free batch dimension"),
        }
    }

    /// The output wanted, or the one that suggests itself.
    fn output(&self, outputs: &[Port], wanted: Option<&str>) -> Result<String> {
        const REMEDY: &str = "name an output [N, D], or export the model with its pooling";
        let expected = "an output [N, D] of f32, f16 or bf16: one vector per picture".to_owned();
        let flat: Vec<&Port> = outputs.iter().filter(|output| output.rank() == Some(2)).collect();
        let called = |name: &str| outputs.iter().find(|output| output.name == name);
        let found = match (wanted, outputs, &flat[..]) {
            (Some(name), _, _) => match called(name) {
                Some(output) => output,
                None => return self.refuse(format!("an output {name}"), list(outputs), REMEDY),
            },
            (None, [only], _) => only,
            (None, _, [only]) => only,
            (None, _, several) => {
                let telling = |name: &&str| several.iter().find(|output| output.name == *name);
                match EMBEDDINGS.iter().find_map(telling) {
                    Some(embedding) => embedding,
                    None => return self.refuse(expected, list(outputs), REMEDY),
                }
            }
        };
        match found.element.is_some() && found.rank().is_none_or(|rank| rank == 2) {
            true => Ok(found.name.clone()),
            false => self.refuse(expected, list(outputs), REMEDY),
        }
    }
}

fn list(ports: &[Port]) -> String {
    let words: Vec<String> = ports.iter().map(Port::to_string).collect();
    words.join(", ")
}

fn preprocess(model: &Path, overrides: &PreprocessOverrides) -> Result<Preprocess> {
    let config = model.with_file_name(CONFIG);
    const READABLE: &str =
        "the model's folder has to be one that this user may read: check its permissions and its drive";
    let exists = config.try_exists().map_err(Error::io(&config, "look for", READABLE))?;
    if exists {
        return match (Preprocess::from_config_file_with(&config, overrides), overrides.is_complete()) {
            (Err(unclear), true) => {
                log::warn!("{unclear}; the options given say all that is needed, so the file is not used");
                Preprocess::from_overrides(overrides)?.ok_or(unclear)
            }
            (result, _) => result,
        };
    }
    Preprocess::from_overrides(overrides)?.ok_or_else(|| {
        let missing = overrides.missing();
        let verb = if missing.len() == 1 { "is" } else { "are" };
        Error::unfit(
            format!("model {}", model.display()),
            "a description of how pictures are prepared for it",
            format!("no {}, and {} {verb} not given", config.display(), missing.join(", ")),
            "put the preprocessor_config.json that was published with the model beside it, or give the size, \
             the mean and the deviation (and the crop, the filter and the order of the channels where they \
             differ from the defaults)",
        )
    })
}

fn hash_weights(model: &Path, declared: &Declared) -> Result<Vec<(String, blake3::Hash)>> {
    let folder = model.parent().unwrap_or(Path::new(""));
    let hash = |file: &PathBuf| {
        let path = folder.join(file);
        let mut hasher = blake3::Hasher::new();
        let read = File::open(&path).and_then(|file| hasher.update_reader(file).map(drop));
        let remedy = "the model names this file: put it beside the model, as it was exported";
        read.map_err(Error::io(path, "read the weights", remedy))?;
        Ok((file.to_string_lossy().into_owned(), hasher.finalize()))
    };
    declared.weight_files.iter().map(hash).collect()
}
