//! All runs of a store, added up.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Known;
use super::state::RunState;

/// What the live runs of a store do together.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Total {
    /// How many there are.
    pub live: usize,
    /// Inputs still to do. `None` when no run is live, or none has counted yet.
    pub left: Option<u64>,
    /// Inputs that could not be read, and stay missing.
    pub missing: u64,
    /// Inputs settled per second over the last minute.
    pub rate: f64,
    /// Time left at that rate.
    pub time_left: Option<Duration>,
}

/// Adds up. `stored` is what the store accounts for at this moment: done, empty and rejected.
///
/// Every run counts all that its inputs lacked when it began. Runs over the same inputs share them, so what
/// they lack now is what the first of them counted, less what the store has gained since, by whichever run.
/// Where runs over several inputs are live, less what those runs say that they have done.
pub fn add_up(runs: &[Known], stored: u64) -> Total {
    let live: Vec<&RunState> = runs.iter().filter(|known| known.live).map(|known| &known.state).collect();
    let sources: BTreeSet<&str> = live.iter().map(|state| &state.source[..]).collect();
    let rate = live.iter().fold(0.0, |sum, state| sum + state.rate);
    let mut total = Total { live: live.len(), rate, ..Total::default() };
    for source in &sources {
        let here: Vec<&RunState> = live.iter().copied().filter(|state| state.source == *source).collect();
        let unread = here.iter().map(|state| state.progress.unread).max().unwrap_or(0);
        total.missing += unread;
        let planned = here.iter().filter_map(|state| Some((state.planned?, state)));
        let Some((since, first)) = planned.min_by(|(one, _), (other, _)| one.total_cmp(other)) else {
            continue;
        };
        let gained = match sources.len() {
            1 => stored.saturating_sub(first.stored),
            _ => {
                let all = runs.iter().map(|known| &known.state).filter(|state| state.source == *source);
                all.filter(|state| state.planned.is_some_and(|at| at >= since)).map(own).sum()
            }
        };
        // Entries that were replaced, and files that could not be read, do not make the store larger.
        let replaced: u64 = here.iter().map(|state| state.progress.changed + state.progress.same).sum();
        let left = first.progress.to_do.saturating_sub(gained + replaced + unread);
        *total.left.get_or_insert(0) += left;
    }
    total.time_left = total.left.and_then(|left| match left {
        0 => Some(Duration::ZERO),
        left => Duration::try_from_secs_f64(left as f64 / rate).ok(),
    });
    total
}

/// Entries that a run has added to the store.
fn own(run: &RunState) -> u64 {
    (run.progress.embedded + run.progress.rejected).saturating_sub(run.progress.changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Progress;

    fn run(live: bool, source: &str, planned: f64, stored: u64, to_do: u64, embedded: u64) -> Known {
        let progress = Progress { to_do, embedded, ..Progress::default() };
        let state = RunState {
            source: source.to_owned(),
            planned: Some(planned),
            stored,
            progress,
            rate: 10.0,
            ..RunState::default()
        };
        Known { state, live }
    }

    #[test]
    fn runs_over_the_same_inputs_are_not_counted_twice() {
        // 1000 to do; one run began with them, another when 300 were done; a third, dead, did 100 of those.
        let runs = [
            run(true, "photos", 1.0, 50, 1000, 400),
            run(false, "photos", 2.0, 60, 990, 100),
            run(true, "photos", 3.0, 350, 700, 200),
        ];
        let total = add_up(&runs, 50 + 700);
        assert_eq!((total.live, total.left, total.rate), (2, Some(300), 20.0));
        assert_eq!(total.time_left, Some(Duration::from_secs(15)));
        // Another folder beside them.
        let more = [runs[0].clone(), runs[1].clone(), runs[2].clone(), run(true, "scans", 4.0, 400, 90, 30)];
        let total = add_up(&more, 50 + 700 + 30);
        assert_eq!(total.left, Some(300 + 60));
        assert_eq!(total.live, 3);
    }

    #[test]
    fn without_a_live_run_nothing_is_known() {
        let total = add_up(&[run(false, "photos", 1.0, 0, 10, 5)], 5);
        assert_eq!((total.live, total.left, total.time_left), (0, None, None));
        let mut counting = run(true, "photos", 1.0, 0, 10, 0);
        counting.state.planned = None;
        assert_eq!(add_up(&[counting], 5).left, None);
    }
}
