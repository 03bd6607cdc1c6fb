//! Embeds folders of pictures into a [`vecstore`] store, and survives every interruption.
//!
//! Pictures go in, vectors come out, and each batch of vectors is durable before it counts as done. A run that was
//! stopped, killed or unplugged goes on where it stopped: what the store lacks is found by key, so nothing is lost
//! and nothing is embedded twice. A picture whose content is bad is recorded as rejected, with the reason; one that
//! could not be read stays missing, and is tried again.
//!
//! # A run
//!
//! ```
//! use vecstore_embed::{BackendOptions, DecodeLimits, Model, Run, embed_picture, open_backend};
//!
//! let dir = tempfile::tempdir()?;
//! let photos = dir.path().join("photos");
//! std::fs::create_dir(&photos)?;
//! for shade in [40, 41, 200] {
//!     let picture = image::RgbImage::from_fn(64, 64, |x, y| {
//!         let edge = if x < u32::from(shade) / 4 { shade } else { 255 - shade };
//!         image::Rgb([edge, (y * 4) as u8, shade])
//!     });
//!     picture.save(photos.join(format!("{shade}.png")))?;
//! }
//!
//! // The built-in model finds near-duplicates; `Model::from_file` takes any ONNX model.
//! let model = Model::builtin()?;
//! let run = Run::new(&photos, dir.path().join("photos.vecs"));
//! assert_eq!(run.run(&model)?.embedded, 3);
//! // Once more: everything is there already.
//! assert_eq!(run.run(&model)?.already, 3);
//!
//! // The store is an ordinary one: search it, iterate it, open its segments from NumPy.
//! let store = vecstore::Reader::open(dir.path().join("photos.vecs"))?;
//! let mut backend = open_backend(&model, &BackendOptions::default())?;
//! let query = embed_picture(&model, backend.as_mut(), &photos.join("40.png"), &DecodeLimits::default())?;
//! let hits = store.snapshot().search(&query, 2)?;
//! assert_eq!(hits[0].key, b"40.png");
//! assert_eq!(hits[1].key, b"41.png");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What lives where
//!
//! | module | what it knows |
//! |---|---|
//! | [`run`] | the pipeline: which files, in which order, on which threads, until when |
//! | [`scan`], [`roots`] | files of a folder; the key of a file |
//! | [`record`] | what is remembered of a file beside its vector |
//! | [`picture`], [`preprocess`] | bytes to pixels; pixels to the numbers a model wants |
//! | [`model`], [`backend`] | what is to be computed, and its fingerprint; what computes it |
//! | [`runs`] | what runs leave for those who watch them, and who is live |
//! | [`doctor`] | what a run would be like on this machine |
//! | [`progress`], [`pace`], [`forecast`] | what a run tells while it works, and before |
//!
//! The `vecstore-embed` command is a thin layer over this library.

#![cfg_attr(
    not(feature = "onnxruntime"),
    allow(dead_code, reason = "pinned memory, placement and fixed batches are there for ONNX Runtime")
)]

pub mod backend;
mod class;
pub mod descriptor;
pub mod doctor;
mod error;
mod filter;
mod fingerprint;
pub mod forecast;
mod kinds;
mod list;
pub mod model;
mod model_spec;
mod onnx_graph;
mod onnx_proto;
pub mod pace;
pub mod picture;
mod pixels;
pub mod preprocess;
pub mod progress;
mod query;
pub mod record;
pub mod roots;
pub mod run;
pub mod runs;
mod sample;
pub mod scan;
mod shard;
mod tars;

pub use backend::{Backend, BackendChoice, BackendOptions, Device, Precision, open_backend, open_lanes};
pub use class::Class;
pub use error::{Error, Result};
pub use filter::Filter;
pub use forecast::Forecast;
pub use kinds::Kinds;
pub use model::{Model, Normalise, OutputOptions};
pub use model_spec::ModelSpec;
pub use pace::{Pace, Stage};
pub use picture::DecodeLimits;
pub use pixels::{PixelType, Pixels};
pub use preprocess::PreprocessOverrides;
pub use progress::{Observer, Plan, Progress, StageTimes, Stages};
pub use query::{check_model, embed_picture};
pub use roots::{RootArg, Roots};
pub use run::{Ended, Gone, Run, StopFlag, Summary};
pub use sample::{Sampled, verify_sample};
pub use shard::Shard;
pub use tars::tar_files;
