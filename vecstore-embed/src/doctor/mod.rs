//! What a run would be like on this machine: what is there, whether it computes what it should, and how fast
//! each stage is.
//!
//! [`surroundings`] looks at libraries, driver and cards, and needs no model; [`examine`] loads one and
//! measures.

mod pictures;
mod rates;

pub use self::pictures::Pictures;
pub use self::rates::{Limit, Rates};

pub use crate::backend::{Library, LoadedLibrary};

use serde::Serialize;

use crate::backend::{
    self, BackendOptions, Batch, BatchInput, Device, Driver, Encoder, NoDriver, Placement, open_lanes,
};
use crate::base::{Error, Result};
use crate::image::DecodeLimits;
use crate::model::Model;
use crate::task::{Pictures as Task, Task as _};
use crate::tensor::{Tensor, View};

/// What there is on this machine to compute with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Surroundings {
    /// The library that was named, or those in the usual places, in the order in which they are tried.
    pub libraries: Vec<Library>,
    /// NVIDIA's driver with its cards, or why there is none.
    pub driver: Result<Driver, NoDriver>,
}

/// Looks around. Nothing is loaded for good.
pub fn surroundings(options: &BackendOptions) -> Surroundings {
    Surroundings { libraries: backend::libraries(options), driver: backend::driver() }
}

/// What is to be examined, and how long.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Pictures per inference.
    pub batch: usize,
    /// Lanes on each card, or on the processor; as in a run unless given.
    pub lanes: Option<usize>,
    /// Threads that decode.
    pub workers: usize,
    /// How long each stage is measured, in seconds.
    pub seconds: f64,
    /// Which pictures are too large.
    pub limits: DecodeLimits,
}

impl Options {
    /// Batches of `batch`, prepared by `workers` threads.
    pub fn new(batch: usize, workers: usize) -> Self {
        let (batch, workers) = (batch.max(1), workers.max(1));
        Options { batch, lanes: None, workers, seconds: 2.0, limits: DecodeLimits::default() }
    }
}

/// How far two ways to compute the same vectors are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Apart {
    /// Pictures that were compared.
    pub pictures: usize,
    /// The largest difference between two numbers.
    #[serde(rename = "largest_difference")]
    pub difference: f64,
    /// The lowest cosine between two vectors.
    #[serde(rename = "lowest_cosine")]
    pub cosine: f64,
    /// Whether they are close enough to be compared with each other.
    pub same: bool,
}

impl Apart {
    /// What counts as the same, as `vecstore-embed verify` counts it.
    pub const SAME: f64 = 0.999;

    fn of(left: &[f32], right: &[f32], dim: usize) -> Self {
        let vectors = || left.chunks(dim.max(1)).zip(right.chunks(dim.max(1)));
        let difference = |(left, right): (&f32, &f32)| (f64::from(*left) - f64::from(*right)).abs();
        // As `max` and `min`, but what is no number is not passed over.
        let larger = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
        let smaller = |a: f64, b: f64| if b.is_nan() || b < a { b } else { a };
        let cosine = vectors().map(|(left, right)| crate::embedder::cosine(left, right)).fold(1.0, smaller);
        Apart {
            pictures: vectors().count(),
            difference: left.iter().zip(right).map(difference).fold(0.0, larger),
            cosine,
            same: cosine >= Apart::SAME,
        }
    }
}

/// What an examination found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// The backend, with its version, library and device.
    pub backend: String,
    /// The library of ONNX Runtime that is used, if one is.
    pub library: Option<LoadedLibrary>,
    /// Numbers per vector.
    pub dim: usize,
    /// Models that are loaded at once.
    pub lanes: usize,
    /// Where the model's operators run, where that can be told.
    #[serde(rename = "operators")]
    pub placement: Option<Placement>,
    /// A batch against the same pictures one at a time.
    pub batch: Apart,
    /// The device against the processor, unless that is the device.
    pub processor: Option<Apart>,
    /// How fast the stages are.
    #[serde(rename = "pictures_per_second")]
    pub rates: Rates,
    /// What a run would be limited by.
    pub limit: Limit,
}

impl Report {
    /// True for cards, which are compared with the processor.
    pub fn is_on_card(&self) -> bool {
        self.processor.is_some()
    }
}

/// Loads the model, compares and measures.
///
/// # Errors
/// The device or library that was asked for cannot be used, or the model cannot be run.
///
/// ```
/// use vecstore_embed::doctor::{Options, Pictures, examine};
/// use vecstore_embed::{BackendOptions, Model};
///
/// let model = Model::builtin()?;
/// let mut options = Options::new(2, 1);
/// options.seconds = 0.01;
/// let report = examine(&model, &BackendOptions::default(), &Pictures::made(2), &options)?;
/// assert!(report.batch.same && report.rates.infer > 0.0);
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
pub fn examine(
    model: &Model,
    options: &BackendOptions,
    pictures: &Pictures,
    examination: &Options,
) -> Result<Report> {
    let options = BackendOptions { profile: true, batch: examination.batch, ..options.clone() };
    let mut lanes = open_lanes(model, &options, examination.lanes)?;
    let tensor = pictures.tensor(model, &examination.limits, examination.batch)?;
    let first = lanes.first_mut().ok_or_else(|| Error::bad_value("lanes", "one or more", "none"))?;
    let prepared = Prepared::new(model, examination.limits);
    let together = prepared.encode(first.as_mut(), examination.batch, tensor.view())?;
    let alone = prepared.one_by_one(first.as_mut(), &tensor)?;
    let (dim, name) = (first.signature().dim(), first.name().to_owned());
    let placement = first.placement().cloned();
    let on_card = options.device.is_gpu();
    let processor = on_card.then(|| prepared.on_processor(model, &options, &tensor)).transpose()?;
    let library = backend::loaded().filter(|_| name.starts_with("onnxruntime"));
    let mut rates = Rates::measure(&prepared, model, &mut lanes, pictures, &tensor, examination)?;
    let limit = rates.limit(on_card);
    Ok(Report {
        model: model.name().to_owned(),
        library,
        backend: name,
        dim,
        lanes: lanes.len(),
        placement,
        batch: Apart::of(&together, &alone, dim),
        processor: processor.map(|vectors| Apart::of(&together, &vectors, dim)),
        rates,
        limit,
    })
}

/// Pictures prepared for a model, which are encoded without a pipeline.
struct Prepared {
    task: Task,
    input: String,
    /// Lengths of the dimensions of one picture.
    shape: Vec<usize>,
}

impl Prepared {
    fn new(model: &Model, limits: DecodeLimits) -> Self {
        let input = model.input();
        let shape = input.shape.iter().map(|length| length.unwrap_or(1)).collect();
        Prepared { task: Task::of(model, limits), input: input.name, shape }
    }

    fn batch<'a>(&'a self, items: usize, numbers: View<'a>) -> Batch<'a> {
        Batch { items, inputs: vec![BatchInput { name: &self.input, shape: &self.shape, numbers }] }
    }

    /// Numbers of one picture.
    fn length(&self) -> usize {
        self.shape.iter().product()
    }

    fn encode(&self, encoder: &mut dyn Encoder, items: usize, numbers: View<'_>) -> Result<Vec<f32>> {
        let batch = self.batch(items, numbers);
        self.task.vectors(&batch, encoder.run(&batch)?)
    }

    fn one_by_one(&self, encoder: &mut dyn Encoder, tensor: &Tensor) -> Result<Vec<f32>> {
        let (view, length) = (tensor.view(), self.length().max(1));
        let starts = (0..tensor.len()).step_by(length);
        let each = starts.map(|start| self.encode(encoder, 1, view.part(start..start + length)));
        Ok(each.collect::<Result<Vec<_>>>()?.concat())
    }

    /// The same on the processor, by the same library.
    fn on_processor(&self, model: &Model, options: &BackendOptions, tensor: &Tensor) -> Result<Vec<f32>> {
        let options = BackendOptions { device: Device::cpu(), profile: false, ..options.clone() };
        let mut encoder = backend::open_encoder(model, &options)?;
        self.encode(encoder.as_mut(), tensor.len() / self.length().max(1), tensor.view())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_seen() {
        let apart = Apart::of(&[1.0, 0.0, 0.6, 0.8], &[1.0, 0.0, 0.8, 0.6], 2);
        assert_eq!(apart.pictures, 2);
        assert!((apart.difference - 0.2).abs() < 1e-6 && (apart.cosine - 0.96).abs() < 1e-6, "{apart:?}");
        assert!(!apart.same);
        assert!(Apart::of(&[3.0, 4.0], &[3.0, 4.0], 2).same);
        assert!(!Apart::of(&[f32::NAN, 1.0], &[1.0, 1.0], 2).same);
    }
}
