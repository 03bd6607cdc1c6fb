//! The options that choose a model, its preprocessing and what it runs on; `run` and `search` share them.

use std::path::{Path, PathBuf};

use clap::{Args, value_parser};
use vecstore::Snapshot;
use vecstore_embed::image::preprocess::{ChannelOrder, JpegScale, Resample, Resize, Sides, parse_triple};
use vecstore_embed::{
    BackendChoice, BackendOptions, DecodeLimits, Device, Embedder, EmbedderBuilder, Error, Model, ModelSpec,
    Normalise, Precision, PreprocessOverrides, Result,
};

use super::models_dir;

#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// An ONNX model: pictures in, one vector per picture out
    ///
    /// Its preprocessing is read from a preprocessor_config.json beside it, or given by the options below.
    /// Without this option, a small descriptor that needs no weights is used: it finds near-duplicates, not
    /// meaning.
    #[arg(long, value_name = "FILE.onnx|NAME")]
    model: Option<PathBuf>,
    /// Where models are looked for by name: NAME is DIR/NAME.onnx, DIR/NAME/model.onnx, or the one in
    /// DIR/NAME
    #[arg(long, value_name = "DIR")]
    models_dir: Option<PathBuf>,
    /// Resize to this: 224 for the shortest edge, or HEIGHTxWIDTH for an exact size
    #[arg(long, requires = "model", value_name = "PIXELS")]
    size: Option<Resize>,
    /// Then cut this out of the centre: 224 for a square, or HEIGHTxWIDTH
    #[arg(long, requires = "model", value_name = "PIXELS")]
    crop: Option<Sides>,
    /// Subtract from each channel (of 0 to 1): three numbers, or one
    #[arg(long, requires = "model", value_name = "R,G,B", value_parser = parse_triple,
          allow_hyphen_values = true)]
    mean: Option<[f32; 3]>,
    /// Then divide each channel by: three numbers, or one
    #[arg(long, requires = "model", value_name = "R,G,B", value_parser = deviations,
          allow_hyphen_values = true)]
    std: Option<[f32; 3]>,
    /// Order of the channels: rgb or bgr
    #[arg(long, requires = "model", value_name = "ORDER")]
    channel_order: Option<ChannelOrder>,
    /// Resize with: nearest, lanczos3, bilinear, bicubic, box or hamming
    #[arg(long, requires = "model", value_name = "FILTER")]
    filter: Option<Resample>,
    /// Name of the output that holds the vectors, where the model has several
    #[arg(long, alias = "output", requires = "model", value_name = "NAME")]
    output_name: Option<String>,
    /// Bring vectors to length 1 (l2), or leave them as the model makes them (none); l2 unless given
    #[arg(long, requires = "model", value_name = "HOW")]
    normalise: Option<Normalise>,
    /// How exactly TensorRT computes a model of f32: full, fp16 or bf16; part of what a store remembers of
    /// its model, and full unless given. Models that were exported in fp16 or bf16 need nothing of the kind
    #[arg(long, requires = "model", value_name = "HOW")]
    precision: Option<Precision>,
    /// Decode JPEGs exactly, or scaled: large ones at a fraction of their size, several times as fast, with
    /// slightly other vectors; exact unless given
    #[arg(long, requires = "model", value_name = "HOW")]
    jpeg: Option<JpegScale>,
    /// Name of the space that the model's vectors share with those of another one (the pictures and the words
    /// of CLIP, say): stores of one space can be searched with either
    #[arg(long, requires = "model", value_name = "NAME")]
    space: Option<String>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

impl ModelArgs {
    pub(crate) fn spec(&self) -> Result<ModelSpec> {
        let find = |asked: &PathBuf| models_dir::find(asked, self.models_dir.as_deref());
        let file = self.model.as_ref().map(find).transpose()?;
        let ModelArgs { size, crop, mean, std, channel_order, filter, jpeg, normalise, precision, .. } =
            *self;
        let overrides = PreprocessOverrides { size, crop, mean, std, channel_order, filter, jpeg };
        let (output, space) = (self.output_name.clone(), self.space.clone());
        Ok(ModelSpec { file, overrides, output, normalise, precision, space })
    }

    /// An embedder that runs the named model, or else the one that filled the store at `path`, which has to
    /// be where it was.
    pub(crate) fn embedder_for(&self, path: &Path, snapshot: &Snapshot) -> Result<Embedder> {
        let spec = match self.model {
            Some(_) => self.spec()?,
            None => ModelSpec::from_settings(snapshot.settings()).map_err(|error| error.of_store(path))?,
        };
        match &spec.file {
            Some(file) if self.model.is_none() && !file.exists() => {
                Err(Error::ModelMoved { store: path.to_owned(), model: file.clone() })
            }
            _ => Ok(self.machine.embedder(&spec.load()?).build()),
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineArgs {
    /// What runs a --model: auto, onnxruntime (a library that is loaded when the program runs) or tract (part
    /// of a program that was built with --features tract). The built-in descriptor needs neither
    #[arg(long, default_value = "auto", value_name = "NAME")]
    backend: BackendChoice,
    /// The ONNX Runtime library; without it ORT_DYLIB_PATH says where it is, or it is in one of the usual
    /// places
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
    /// What computes: cpu, cuda or tensorrt, with the numbers of cards as in cuda:0,1 (0 unless given). Cards
    /// need --backend onnxruntime and a library of onnxruntime-gpu; one that cannot be used is an error, and
    /// the processor never takes its place
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: Device,
    /// Where TensorRT keeps the engines it builds, which takes a minute for each model, card and size of
    /// batch; in the user's cache unless given
    #[arg(long, value_name = "DIR")]
    engine_cache: Option<PathBuf>,
    /// Pictures with more pixels than this are rejected
    #[arg(long, default_value_t = DecodeLimits::default().max_pixels, value_name = "PIXELS",
          value_parser = value_parser!(u64).range(1..))]
    max_pixels: u64,
}

impl MachineArgs {
    pub(crate) fn backend(&self) -> BackendOptions {
        BackendOptions {
            choice: self.backend,
            ort_lib: self.ort_lib.clone(),
            device: self.device.clone(),
            engines: self.engine_cache.clone(),
            ..BackendOptions::default()
        }
    }

    /// An embedder that runs `model` on this machine.
    pub(crate) fn embedder(&self, model: &Model) -> EmbedderBuilder {
        Embedder::builder(model).backend(self.backend()).limits(self.limits())
    }

    pub(crate) fn limits(&self) -> DecodeLimits {
        DecodeLimits::new(self.max_pixels)
    }
}

/// Channels are divided by them.
fn deviations(text: &str) -> Result<[f32; 3]> {
    let (what, expected) = ("std", "numbers above zero such as 0.229,0.224,0.225");
    let numbers = parse_triple(text)?;
    match numbers.iter().all(|number| *number > 0.0) {
        true => Ok(numbers),
        false => Err(Error::BadValue { what, expected, found: text.to_owned() }),
    }
}
