//! Embeds pictures, or whatever a program can make tensors of, into a [`vecstore`] store, and survives every
//! interruption.
//!
//! Pictures go in, vectors come out, and each batch of vectors is durable before it counts as done. A run
//! that was stopped, killed or unplugged goes on where it stopped: what the store lacks is found by key, so
//! nothing is lost and nothing is embedded twice. A picture whose content is bad is recorded as rejected,
//! with the reason; one that could not be read stays missing, and is tried again.
//!
//! # Pictures in memory
//!
//! ```
//! use vecstore_embed::{Embedder, Model};
//!
//! // The built-in model finds near-duplicates; `Model::from_file` takes any ONNX model.
//! let embedder = Embedder::builder(&Model::builtin()?).build();
//! let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 99]));
//! assert_eq!(embedder.embed(&picture)?.len(), 512);
//! # Ok::<(), vecstore_embed::Error>(())
//! ```
//!
//! # A run
//!
//! ```
//! use vecstore_embed::{Embedder, Files, Model, Run};
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
//! let embedder = Embedder::builder(&Model::builtin()?).build();
//! let run = Run::new(Files::new(&photos), dir.path().join("photos.vecs"));
//! assert_eq!(run.run(&embedder)?.embedded, 3);
//! // Once more: everything is there already.
//! assert_eq!(run.run(&embedder)?.already, 3);
//!
//! // The store is an ordinary one: search it, iterate it, open its segments from NumPy.
//! let store = vecstore::Reader::open(dir.path().join("photos.vecs"))?;
//! let query = embedder.embed_file(&photos.join("40.png"))?;
//! let hits = store.snapshot().search(&query, 2)?;
//! assert_eq!(hits[0].key, b"40.png");
//! assert_eq!(hits[1].key, b"41.png");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What lives where
//!
//! Rooms from the lowest to the highest; each uses those above it in this table, and none below.
//!
//! | room | what it knows |
//! |---|---|
//! | `base` | errors, verdicts, the flag that stops a run |
//! | [`tensor`] | numbers on their way to a model |
//! | [`image`] | bytes to pixels; pixels to the numbers a model wants |
//! | [`keys`] | the key of a file; what is remembered of it beside its vectors |
//! | [`model`] | what is to be computed, and its fingerprint |
//! | [`source`] | which inputs there are, and how they are opened |
//! | [`backend`] | what computes: engines and devices |
//! | [`task`] | what an input becomes |
//! | [`pipeline`] | the stages between a source and a store |
//! | [`embedder`] | embedding without a store |
//! | [`runs`] | what runs leave beside a store for other programs |
//! | [`job`] | a run: an embedder, a source and a store |
//! | [`doctor`] | what a run would be like on this machine |
//!
//! The `vecstore-embed` command is a thin layer over this library.

#![cfg_attr(
    not(feature = "onnxruntime"),
    allow(dead_code, reason = "pinned memory, placement and fixed batches are there for ONNX Runtime")
)]

pub mod backend;
mod base;
pub mod doctor;
pub mod embedder;
pub mod image;
pub mod job;
pub mod keys;
pub mod model;
pub mod pipeline;
pub mod runs;
pub mod source;
pub mod task;
pub mod tensor;

pub use self::image::DecodeLimits;
pub use self::image::preprocess::PreprocessOverrides;
pub use backend::{BackendChoice, BackendOptions, Device, Encoder, open_encoder, open_lanes};
pub use base::{Error, FirstFew, Listed, Rejected, RejectionClass, Result, StopFlag};
pub use embedder::{Embedder, EmbedderBuilder, Sampled, Stream, verify_sample};
pub use job::{Ended, Gone, Run, Summary};
pub use keys::{RootArg, Roots};
pub use model::{Model, ModelSpec, Normalise, OutputOptions, Precision};
pub use pipeline::report::{Forecast, Observer, Pace, Plan, Progress, Stage, StageTimes, Stages};
pub use pipeline::{Embedded, Outcome};
pub use source::{Files, Filter, Kinds, Shard, Source, tar_files};
pub use task::Task;
