//! How fast a run is, how long it will take, and which of its stages is the limit.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Progress, Stage, Stages};

/// What counts as recently.
const WINDOW: Duration = Duration::from_secs(60);

/// Time between two looks that are kept.
const EVERY: Duration = Duration::from_secs(1);

/// The speed of a run at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Pace {
    /// Since the work began.
    pub elapsed: Duration,
    /// How far it is.
    pub progress: Progress,
    /// Inputs settled per second over the last minute, or since the start where that is shorter.
    pub rate: f64,
    /// Inputs settled per second since the start.
    pub rate_since_start: f64,
    /// Time left at the rate of the last minute. `None` while nothing moves.
    pub left: Option<Duration>,
    /// What the threads of each stage did over the last minute.
    pub stages: Stages,
}

impl Pace {
    /// The stage that holds the others up: the one that is busy for most of its time. `None` before there is
    /// anything to tell.
    pub fn limit(&self) -> Option<Stage> {
        self.stages.limit()
    }
}

/// Watches progress go by.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    /// Looks of the last minute, and the one before it.
    looks: VecDeque<Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    done: u64,
    stages: Stages,
}

impl Meter {
    pub(crate) fn new(began: Instant) -> Self {
        let start = Look { at: began, done: 0, stages: Stages::default() };
        Meter { began, looks: VecDeque::from([start]) }
    }

    /// The pace at `now`, when this was done and that much time spent since the beginning.
    pub(crate) fn look(&mut self, now: Instant, progress: Progress, stages: Stages) -> Pace {
        let look = Look { at: now, done: progress.done(), stages };
        while self.looks.get(1).is_some_and(|next| now.saturating_duration_since(next.at) >= WINDOW) {
            self.looks.pop_front();
        }
        let before = self.looks.front().copied().unwrap_or(look);
        if self.looks.back().is_none_or(|last| now.saturating_duration_since(last.at) >= EVERY) {
            self.looks.push_back(look);
        }
        let per_second = |done: u64, time: Duration| done as f64 / time.as_secs_f64().max(1e-3);
        let elapsed = now.saturating_duration_since(self.began);
        let rate =
            per_second(look.done.saturating_sub(before.done), now.saturating_duration_since(before.at));
        let open = progress.to_do.saturating_sub(look.done);
        let left = match open {
            0 => Some(Duration::ZERO),
            open => Duration::try_from_secs_f64(open as f64 / rate).ok(),
        };
        Pace {
            elapsed,
            progress,
            rate,
            rate_since_start: per_second(look.done, elapsed),
            left,
            stages: stages.since(&before.stages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::StageTimes;
    use super::*;

    fn progress(done: u64) -> Progress {
        Progress { to_do: 10_000, embedded: done, ..Progress::default() }
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let began = Instant::now();
        let mut meter = Meter::new(began);
        let mut pace = None;
        // A hundred a second for a minute, then ten a second for six.
        for second in 1..=420u64 {
            let done = if second <= 60 { second * 100 } else { 6000 + (second - 60) * 10 };
            let now = began + Duration::from_secs(second);
            pace = Some(meter.look(now, progress(done), Stages::default()));
        }
        let pace = pace.unwrap();
        assert!((pace.rate - 10.0).abs() < 0.01, "{pace:?}");
        assert!((pace.rate_since_start - 9600.0 / 420.0).abs() < 0.01, "{pace:?}");
        assert_eq!(pace.left, Some(Duration::from_secs(40)));
        assert!(meter.looks.len() <= 62, "it keeps a minute, not a day");
    }

    #[test]
    fn a_run_that_stands_still_has_no_end() {
        let began = Instant::now();
        let mut meter = Meter::new(began);
        meter.look(began + Duration::from_secs(5), progress(500), Stages::default());
        let soon = meter.look(began + Duration::from_secs(10), progress(500), Stages::default());
        assert!((soon.rate - 50.0).abs() < 0.01 && soon.left == Some(Duration::from_secs(190)), "{soon:?}");
        let mut last = soon;
        for second in 11..80 {
            last = meter.look(began + Duration::from_secs(second), progress(500), Stages::default());
        }
        assert_eq!((last.rate, last.left), (0.0, None));
        let done = meter.look(began + Duration::from_secs(81), progress(10_000), Stages::default());
        assert_eq!(done.left, Some(Duration::ZERO));
    }

    #[test]
    fn the_limit_is_the_stage_that_is_busy() {
        let seconds = Duration::from_secs;
        let times = |waited, working| StageTimes {
            waited_for_input: seconds(waited),
            working: seconds(working),
            waited_for_output: seconds(0),
        };
        let mut stages = Stages { prepare: times(0, 20), infer: times(8, 2), ..Stages::default() };
        let pace = |stages| {
            let began = Instant::now();
            Meter::new(began).look(began + seconds(10), progress(100), stages)
        };
        assert_eq!(pace(stages).limit(), Some(Stage::Prepare));
        (stages.read, stages.prepare) = (times(0, 20), times(15, 5));
        assert_eq!(pace(stages).limit(), Some(Stage::Read));
        (stages.read, stages.infer) = (times(15, 5), times(1, 9));
        let pace = pace(stages);
        assert_eq!(pace.limit(), Some(Stage::Infer));
        assert_eq!(self::pace_of_nothing().limit(), None);
    }

    fn pace_of_nothing() -> Pace {
        let began = Instant::now();
        Meter::new(began).look(began, progress(0), Stages::default())
    }
}
