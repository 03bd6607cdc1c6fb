//! How long a merge rests, from what its work costs those who commit.
//!
//! A merge that works a part f of the time, and lets others commit W times a second while it works and R times while it rests,
//! costs them f (1 - W/R) of their commits. What W is depends on the disk, the file system and the batches; so it is measured,
//! and f chosen so that the cost stays small.

use std::time::Duration;

/// What a merge may cost those who commit, as a part of their commits.
const COST: f64 = 0.08;
/// No rest is longer than so many times the work before it: the merge has to end too.
const MOST: f64 = 12.0;
/// Time over which rates are averaged, roughly, in seconds.
const MEMORY: f64 = 2.0;
/// Below this time, in seconds, a rate is not known.
const ENOUGH: f64 = 0.02;

/// Commits of others per second, over the last while.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    commits: f64,
    seconds: f64,
}

impl Rate {
    fn add(&mut self, commits: u64, time: Duration) {
        let time = time.as_secs_f64();
        let kept = (-time / MEMORY).exp();
        self.commits = self.commits * kept + commits as f64;
        self.seconds = self.seconds * kept + time;
    }

    fn get(self) -> Option<f64> {
        (self.seconds >= ENOUGH).then(|| self.commits / self.seconds)
    }
}

/// What others get done beside a merge.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    at_work: Rate,
    at_rest: Rate,
}

impl Share {
    /// The merge has worked for a while, and others have committed so often meanwhile.
    pub fn worked(&mut self, commits: u64, time: Duration) {
        self.at_work.add(commits, time);
    }

    /// The same for a rest.
    pub fn rested(&mut self, commits: u64, time: Duration) {
        self.at_rest.add(commits, time);
    }

    /// Time to rest per time worked: `least`, or more when that costs others too much.
    pub fn rest(&self, least: f64) -> f64 {
        let (Some(working), Some(resting)) = (self.at_work.get(), self.at_rest.get()) else { return least };
        if resting <= 0.0 {
            return least;
        }
        let lost = 1.0 - working / resting;
        (lost / COST - 1.0).clamp(least, MOST.max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn share(working: u64, resting: u64) -> Share {
        let mut share = Share::default();
        for _ in 0..10 {
            share.worked(working, SECOND);
            share.rested(resting, SECOND);
        }
        share
    }

    #[test]
    fn the_more_it_costs_the_longer_the_rest() {
        let least = 2.0;
        assert_eq!(share(1000, 1000).rest(least), least, "nothing is lost");
        assert_eq!(share(1100, 1000).rest(least), least);
        assert_eq!(share(0, 0).rest(least), least, "nobody commits");
        assert_eq!(share(0, 1000).rest(least), 1.0 / COST - 1.0, "all is lost");
        for working in [100, 300, 500] {
            let share = share(working, 1000);
            let at_work = 1.0 / (1.0 + share.rest(0.0));
            let kept = at_work * working as f64 / 1000.0 + (1.0 - at_work);
            assert!((kept - (1.0 - COST)).abs() < 1e-6, "{working}: {kept} is kept");
        }
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut share = share(0, 1000);
        (0..20).for_each(|_| share.worked(1000, SECOND));
        assert_eq!(share.rest(2.0), 2.0);
        let short = Duration::from_millis(1);
        let mut new = Share::default();
        new.worked(0, short);
        new.rested(5, short);
        assert_eq!(new.rest(2.0), 2.0, "too short to tell");
    }
}
