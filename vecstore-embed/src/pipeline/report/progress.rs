//! What a run tells about itself while it works.

use serde::{Deserialize, Serialize};

use super::{Forecast, Pace};
use crate::base::FirstFew;
use crate::pipeline::Outcome;
use crate::source::Kinds;

/// Watches a run. Every method has an empty default; they are called from the run's own threads, so they
/// should return quickly.
pub trait Observer: Send + Sync {
    /// The folder was counted, and the work is about to begin.
    fn planned(&self, plan: &Plan) {
        let _ = plan;
    }

    /// Nothing moves for the time being, and why; `None` when it goes on.
    fn paused(&self, why: Option<&str>) {
        let _ = why;
    }

    /// Something was finished: a batch became durable, or a file could not be read.
    fn progress(&self, progress: &Progress) {
        let _ = progress;
    }

    /// What became of an input. One that is stored is durable by now.
    fn settled(&self, key: &[u8], outcome: &Outcome) {
        let _ = (key, outcome);
    }

    /// Once a second, whether or not anything was finished: how fast the run is, and which stage is the
    /// limit.
    fn pace(&self, pace: &Pace) {
        let _ = pace;
    }
}

/// What a run is going to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Inputs found, by name. Those that only their content makes inputs are found while the run goes on.
    pub found: u64,
    /// Everything the store accounts for, in whatever folder: embedded, empty and rejected.
    pub stored: u64,
    /// How many of them the store accounts for already.
    pub already: u64,
    /// How many are to do.
    pub to_do: u64,
    /// How many of those are in the store, but their files changed since.
    pub changed: u64,
    /// The room they will need.
    pub forecast: Forecast,
    /// Name of the model.
    pub model: String,
    /// Name of the backend.
    pub backend: String,
    /// What people call the source: of files, their folder.
    pub source: String,
    /// Files and folders that could not be read.
    pub unread: FirstFew,
    /// Other files: no inputs by name, nor by content.
    pub ignored: Kinds,
}

/// How far a run has come. Counts are of this run, and of what is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Progress {
    /// Inputs this run will have to do, as far as is known.
    pub to_do: u64,
    /// Inputs embedded and committed, also those without a row.
    pub embedded: u64,
    /// Rows committed.
    pub rows: u64,
    /// Inputs recorded as rejected.
    pub rejected: u64,
    /// Files that could not be read, and stay missing.
    pub unread: u64,
    /// Inputs that another run stored while this one embedded them.
    pub overtaken: u64,
    /// Of those embedded or rejected: their entries took the place of older ones, because their files
    /// changed.
    pub changed: u64,
    /// Files that were touched, but hold what they held: their entries stay.
    pub same: u64,
    /// Inputs that other runs stored since this one counted, as far as it came across them.
    pub others: u64,
    /// Saves that failed and were tried again.
    pub save_failures: u64,
    /// Commits made.
    pub commits: u64,
}

impl Progress {
    /// Inputs that are settled for this run.
    pub fn done(&self) -> u64 {
        self.embedded + self.rejected + self.unread + self.overtaken + self.same + self.others
    }
}
