//! The stages of a run, and how their threads spend their time.

use std::iter::Sum;
use std::time::Duration;

use crate::base::names;

/// A stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Walking the source and looking keys up.
    Scan,
    /// Reading inputs.
    Read,
    /// Making items of them: decoding and resizing.
    Prepare,
    /// The model.
    Infer,
    /// Making vectors durable.
    Commit,
}

names!(Stage {
    Scan "listing files", Read "reading files", Prepare "decoding", Infer "the model", Commit "storing"
});

/// How the threads of one stage spent their time, added up over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageTimes {
    /// Waiting for something to do: a stage before this one is slower.
    pub waited_for_input: Duration,
    /// Working.
    pub working: Duration,
    /// Waiting for room for what was done: a stage after this one is slower.
    pub waited_for_output: Duration,
}

impl StageTimes {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.waited_for_input + self.working + self.waited_for_output
    }

    /// The share of its time that the stage was not waiting for another, from 0 to 1.
    pub fn busy(&self) -> f64 {
        let total = self.total().as_secs_f64();
        if total > 0.0 { self.working.as_secs_f64() / total } else { 0.0 }
    }

    fn since(&self, earlier: &StageTimes) -> StageTimes {
        StageTimes {
            waited_for_input: self.waited_for_input.saturating_sub(earlier.waited_for_input),
            working: self.working.saturating_sub(earlier.working),
            waited_for_output: self.waited_for_output.saturating_sub(earlier.waited_for_output),
        }
    }
}

impl Sum for StageTimes {
    fn sum<I: Iterator<Item = StageTimes>>(times: I) -> Self {
        times.fold(StageTimes::default(), |sum, times| StageTimes {
            waited_for_input: sum.waited_for_input + times.waited_for_input,
            working: sum.working + times.working,
            waited_for_output: sum.waited_for_output + times.waited_for_output,
        })
    }
}

/// How the stages of a run spent their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stages {
    /// Walking the source and looking keys up.
    pub scan: StageTimes,
    /// Reading inputs.
    pub read: StageTimes,
    /// Making items of them.
    pub prepare: StageTimes,
    /// The model.
    pub infer: StageTimes,
    /// Making vectors durable.
    pub commit: StageTimes,
}

impl Stages {
    /// Each stage, in order.
    pub fn each(&self) -> [(Stage, StageTimes); 5] {
        [
            (Stage::Scan, self.scan),
            (Stage::Read, self.read),
            (Stage::Prepare, self.prepare),
            (Stage::Infer, self.infer),
            (Stage::Commit, self.commit),
        ]
    }

    /// The stage that holds the others up: the one that is busy for most of its time. `None` before there is
    /// anything to tell.
    pub fn limit(&self) -> Option<Stage> {
        let busiest = self.each().into_iter().max_by(|(_, a), (_, b)| a.busy().total_cmp(&b.busy()));
        busiest.filter(|(_, times)| times.total() > Duration::ZERO).map(|(stage, _)| stage)
    }

    /// The times of one of them.
    pub fn of(&self, stage: Stage) -> StageTimes {
        self.each().into_iter().filter(|(other, _)| *other == stage).map(|(_, times)| times).sum()
    }

    pub(crate) fn since(&self, earlier: &Stages) -> Stages {
        Stages {
            scan: self.scan.since(&earlier.scan),
            read: self.read.since(&earlier.read),
            prepare: self.prepare.since(&earlier.prepare),
            infer: self.infer.since(&earlier.infer),
            commit: self.commit.since(&earlier.commit),
        }
    }
}
