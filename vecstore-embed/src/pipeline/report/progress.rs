//! What a run tells about itself while it works.

use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Forecast, Pace};
use crate::base::FirstFew;
use crate::pipeline::Outcome;
use crate::source::Kinds;

/// Watches a run. Every method has an empty default; they are called from the run's own threads, so they should
/// return quickly.
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

    /// Once a second, whether or not anything was finished: how fast the run is, and which stage is the limit.
    fn pace(&self, pace: &Pace) {
        let _ = pace;
    }
}

/// What a run is going to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Pictures found, by extension. Pictures with another extension are found by content while the run goes on.
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
    /// Other files: not pictures by extension, nor by content.
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
    /// Pictures recorded as rejected.
    pub rejected: u64,
    /// Files that could not be read, and stay missing.
    pub unread: u64,
    /// Pictures that somebody else stored in the meantime.
    pub overtaken: u64,
    /// Of those embedded or rejected: their entries took the place of older ones, because their files changed.
    pub changed: u64,
    /// Files that were touched, but hold what they held: their entries stay.
    pub same: u64,
    /// Pictures that other runs stored since this one counted, as far as it came across them.
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

/// How the threads of one stage spent their time, added up over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageTimes {
    /// Waiting for something to do: a stage before this one is slower.
    pub waited_for_input: Duration,
    /// Reading files.
    pub reading: Duration,
    /// Working.
    pub working: Duration,
    /// Waiting for room for what was done: a stage after this one is slower.
    pub waited_for_output: Duration,
}

impl StageTimes {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.waited_for_input + self.reading + self.working + self.waited_for_output
    }

    /// The share of its time that the stage was not waiting for another, from 0 to 1.
    pub fn busy(&self) -> f64 {
        let total = self.total().as_secs_f64();
        if total > 0.0 { (self.reading + self.working).as_secs_f64() / total } else { 0.0 }
    }

    fn since(&self, earlier: &StageTimes) -> StageTimes {
        StageTimes {
            waited_for_input: self.waited_for_input.saturating_sub(earlier.waited_for_input),
            reading: self.reading.saturating_sub(earlier.reading),
            working: self.working.saturating_sub(earlier.working),
            waited_for_output: self.waited_for_output.saturating_sub(earlier.waited_for_output),
        }
    }
}

impl Add for StageTimes {
    type Output = StageTimes;

    fn add(self, other: StageTimes) -> StageTimes {
        StageTimes {
            waited_for_input: self.waited_for_input + other.waited_for_input,
            reading: self.reading + other.reading,
            working: self.working + other.working,
            waited_for_output: self.waited_for_output + other.waited_for_output,
        }
    }
}

/// How the stages of a run spent their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stages {
    /// Walking the folder and looking keys up.
    pub scan: StageTimes,
    /// Reading, decoding and resizing.
    pub prepare: StageTimes,
    /// The model.
    pub infer: StageTimes,
    /// Making vectors durable.
    pub commit: StageTimes,
}

impl Stages {
    pub(crate) fn since(&self, earlier: &Stages) -> Stages {
        Stages {
            scan: self.scan.since(&earlier.scan),
            prepare: self.prepare.since(&earlier.prepare),
            infer: self.infer.since(&earlier.infer),
            commit: self.commit.since(&earlier.commit),
        }
    }
}
