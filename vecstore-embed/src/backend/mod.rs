//! What runs a model.
//!
//! The built-in [`descriptor`](crate::model::descriptor) is plain Rust and needs none of this. An ONNX model
//! needs an engine, of which there are two, each a feature of this crate:
//!
//! | feature | engine |
//! |---|---|
//! | `onnxruntime` (on unless switched off) | ONNX Runtime, a shared library that is loaded when the program runs; on a processor or on NVIDIA's cards |
//! | `tract` | part of the program, and needs nothing installed; costs ten minutes of building; on the processor, where ONNX Runtime is two to four times as fast on convolutions |
//!
//! [`BackendChoice::Auto`] takes ONNX Runtime if its library is named ([`BackendOptions::ort_lib`] or the
//! variable `ORT_DYLIB_PATH`) or lies in one of the usual places, and `tract` otherwise. A library that was
//! *named* has to work: what is wrong with it is an error. One that was merely *found* and does not work is a
//! warning in the log.
//!
//! ```
//! use vecstore_embed::backend::{BackendOptions, open_encoder};
//! use vecstore_embed::model::Model;
//!
//! let model = Model::builtin()?; // or Model::from_file
//! let encoder = open_encoder(&model, &BackendOptions::default())?;
//! assert_eq!(encoder.signature().dim(), 512);
//! # Ok::<(), vecstore_embed::Error>(())
//! ```

#[cfg(not(feature = "onnxruntime"))]
mod absent;
mod builtin;
mod card;
mod device;
mod encoder;
#[cfg(feature = "onnxruntime")]
mod nvidia;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
mod placement;
#[cfg(feature = "onnxruntime")]
mod shared_library;
#[cfg(feature = "tract")]
mod tract;

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

pub use self::card::{Card, Driver, NoDriver};
pub use self::device::{Device, Provider};
pub use self::encoder::{Batch, BatchInput, Encoder, Output, Signature};
pub use self::placement::Placement;
use crate::base::{Error, Result, names};
use crate::model::{BatchShape, Model};
use crate::tensor::{Tensor, TensorSpec};

#[cfg(not(feature = "onnxruntime"))]
use self::absent as onnxruntime;

/// Which backend to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendChoice {
    /// ONNX Runtime if there is one, else `tract` if the program has it.
    #[default]
    Auto,
    /// The one that is part of the program, if it was built with the feature `tract`.
    Tract,
    /// The shared library, or an error. The built-in model is computed by the program itself all the same.
    OnnxRuntime,
}

names!(BackendChoice "backend" { Auto "auto", Tract "tract" or OnnxRuntime "onnxruntime" });

/// How a backend is opened.
#[derive(Clone, Debug, Default)]
pub struct BackendOptions {
    /// Which engine, for an ONNX model; the built-in model needs none.
    pub choice: BackendChoice,
    /// The ONNX Runtime library to load. Before `ORT_DYLIB_PATH`, before the usual places.
    pub ort_lib: Option<PathBuf>,
    /// Threads that compute; 0 means one per core, and beside a card one.
    pub threads: usize,
    /// What computes. Cards need ONNX Runtime; one that was asked for and cannot be used is an error.
    pub device: Device,
    /// Pictures per call, for devices that always have to get so many (TensorRT); 0 means 32. Others take any
    /// number.
    pub batch: usize,
    /// Where TensorRT keeps the engines it has built; in the user's cache unless given.
    pub engines: Option<PathBuf>,
    /// Finds out where the operators of the model run; see [`Encoder::placement`]. For cards it always is.
    pub profile: bool,
}

impl BackendOptions {
    /// The number of threads meant.
    pub(crate) fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// Pictures that a device gets which always has to get the same number.
    fn batch(&self) -> usize {
        if self.batch == 0 { 32 } else { self.batch }
    }

    /// The library that was asked for by name.
    fn named_library(&self) -> Option<PathBuf> {
        let variable =
            || std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        self.ort_lib.clone().or_else(variable)
    }
}

/// A library of ONNX Runtime.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Library {
    /// Where it is.
    pub path: PathBuf,
    /// Its version, or why it cannot be used.
    pub version: Result<String, String>,
    /// The devices that it was built for, going by the files beside it.
    pub built_for: Vec<Provider>,
}

/// The library of ONNX Runtime that a process uses.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LoadedLibrary {
    /// Where it is.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Its version.
    pub version: String,
    /// What it computes on.
    pub providers: Vec<Provider>,
}

/// A path as text, also where it is none.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Loads `model` into the engine that `options` ask for (the built-in one needs none), and runs it once to
/// see that it works and how long its vectors are. Of several cards the first is used.
///
/// # Errors
/// If the library or the device asked for cannot be used, or the backend cannot run the model.
pub fn open_encoder(model: &Model, options: &BackendOptions) -> Result<Box<dyn Encoder>> {
    let device = options.device.each().into_iter().next().unwrap_or_default();
    let options = &BackendOptions { device, ..options.clone() };
    let on_card = options.device.is_gpu();
    let only_cpu = |expected| Err(Error::bad_value("device", expected, options.device.to_string()));
    let Some(file) = model.file() else {
        if options.ort_lib.is_some() || options.choice == BackendChoice::OnnxRuntime {
            log::warn!("{} is computed by the program itself: ONNX Runtime is for ONNX files", model.name());
        }
        return match on_card {
            true => only_cpu(
                "cpu: the built-in descriptor computes on the processor alone; a card needs an ONNX file",
            ),
            false => Ok(builtin::open(model, options.threads())),
        };
    };
    match options.choice {
        BackendChoice::Tract if on_card => {
            only_cpu("cpu, because tract computes on the processor alone; cards need the backend onnxruntime")
        }
        BackendChoice::Tract => open_tract(model, file, options),
        choice => match onnxruntime::open_first(model, file, options)? {
            Some(backend) => Ok(backend),
            None if choice == BackendChoice::Auto && !on_card => open_tract(model, file, options),
            None => Err(onnxruntime::none_found(&options.device)),
        },
    }
}

#[cfg(feature = "tract")]
fn open_tract(model: &Model, file: &Path, options: &BackendOptions) -> Result<Box<dyn Encoder>> {
    tract::open(model, file, options.threads())
}

#[cfg(not(feature = "tract"))]
fn open_tract(model: &Model, _file: &Path, options: &BackendOptions) -> Result<Box<dyn Encoder>> {
    let found = match options.choice {
        BackendChoice::Tract => "none: tract was asked for, and is not built in".to_owned(),
        _ => format!("ONNX Runtime: {}; tract: not built in", onnxruntime::searched()),
    };
    let remedy = "install ONNX Runtime (pip install onnxruntime), which the feature onnxruntime \
                  loads, and name its library; or build this program with the feature tract, an engine that \
                  needs nothing installed";
    Err(model.unusable("an engine, which an ONNX model needs", found, remedy))
}

/// Loads `model` as often as `options` have cards, and `lanes` times on each. Without a number of lanes that
/// is twice on a card, once on the processor, whose threads the lanes share.
///
/// # Errors
/// As [`open_encoder`].
pub fn open_lanes(
    model: &Model,
    options: &BackendOptions,
    lanes: Option<usize>,
) -> Result<Vec<Box<dyn Encoder>>> {
    let lanes = lanes.unwrap_or_else(|| options.device.lanes()).max(1);
    let mut each = options.clone();
    if !options.device.is_gpu() {
        each.threads = (options.threads() / lanes).max(1);
    }
    let mut opened = Vec::new();
    // The first on each card builds what the next ones find in the cache.
    for device in options.device.each() {
        each.device = device;
        for _ in 0..lanes {
            opened.push(open_encoder(model, &each)?);
        }
    }
    Ok(opened)
}

/// The libraries of ONNX Runtime that would be tried, in order.
pub(crate) fn libraries(options: &BackendOptions) -> Vec<Library> {
    onnxruntime::libraries(options)
}

/// The library of ONNX Runtime that this process uses, once it uses one.
pub(crate) fn loaded() -> Option<LoadedLibrary> {
    onnxruntime::loaded()
}

/// NVIDIA's driver and its cards.
pub(crate) fn driver() -> std::result::Result<Driver, NoDriver> {
    onnxruntime::driver()
}

/// Pictures that the graph takes in one call, where there are `batch`.
fn at_once(model: &Model, batch: usize) -> usize {
    match model.batch() {
        BatchShape::Any => batch.max(1),
        BatchShape::Fixed(pictures) => pictures.max(1),
    }
}

/// Checks the shape of what came out of `batch` pictures; gives the length of a vector.
fn vector_length(model: &Model, batch: usize, shape: &[usize]) -> Result<usize> {
    match *shape {
        [rows, dim] if rows == batch && dim > 0 => Ok(dim),
        _ => Err(model.unusable(
            format!("output {} of [{batch}, D] for {batch} pictures", model.output()),
            format!("{shape:?}"),
            "name another output, or export the model with its pooling",
        )),
    }
}

/// One item of zeros for each input, `items` times: what shows whether a model runs at all.
fn blank(inputs: &[TensorSpec], items: usize) -> Vec<(Vec<usize>, Tensor)> {
    let one = |spec: &TensorSpec| {
        let shape: Vec<usize> = spec.shape.iter().map(|length| length.unwrap_or(1)).collect();
        let length = shape.iter().product::<usize>().saturating_mul(items);
        (shape, Tensor::plain(spec.element, length))
    };
    inputs.iter().map(one).collect()
}

/// The text of a panic, which libraries now and then have for a model they do not understand.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
