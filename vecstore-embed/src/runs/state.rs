//! What a run says about itself, as a small file.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pipeline::report::Progress;

/// What a run is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Phase {
    /// Loading the model, and counting what there is to do.
    #[default]
    Counting,
    /// Embedding.
    Working,
    /// Nothing moves for the time being; the note says why.
    Paused,
    /// Finishing what is in flight.
    Stopping,
    /// Nothing any more.
    Ended,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The state of a run. Moments are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RunState {
    /// Its name: when it began, and its process.
    pub id: String,
    /// Number of its process.
    pub pid: u32,
    /// The command line.
    pub command: Vec<String>,
    /// Which inputs it is about: runs of which this is the same share their work.
    pub source: String,
    /// What it is doing.
    pub phase: Phase,
    /// Why it is paused, and other news.
    pub note: String,
    /// When it began.
    pub began: f64,
    /// When this was written.
    pub updated: f64,
    /// When it had counted what there is to do.
    pub planned: Option<f64>,
    /// Inputs found then.
    pub found: u64,
    /// Of those, in the store then.
    pub already: u64,
    /// What the store accounted for then, in all.
    pub stored: u64,
    /// Model and backend.
    pub model: String,
    /// How far it is.
    pub progress: Progress,
    /// Inputs settled per second, over the last minute.
    pub rate: f64,
    /// The stage that holds the others up, as text; empty while that is not known.
    pub limit: String,
    /// How it ended: `finished`, `stopped`, `read failures`, or the error.
    pub ended: Option<String>,
    /// Its exit code.
    pub exit: Option<u8>,
}
