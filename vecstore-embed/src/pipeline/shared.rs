//! What the stages of a run tell each other beside the channels: whether to go on, and how far they are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{io, thread};

use parking_lot::Mutex;

use super::entry::Outcome;
use super::report::{Observer, Pace, Progress, Stages};
use crate::base::{FirstFew, RejectionClass, StopFlag};
use crate::source::Kinds;

/// How soon a sleeper notices that it is to stop.
const NAP: Duration = Duration::from_millis(100);

/// Counters and flags of one run.
pub(crate) struct Shared {
    stop: StopFlag,
    /// When it was first seen that the flag is up, and how long the run may go on from then.
    asked: OnceLock<Instant>,
    stop_patience: Duration,
    now: Box<dyn Fn() -> Instant + Send + Sync>,
    /// Raised when too many files in a row could not be read.
    unreadable: AtomicBool,
    in_a_row: AtomicU32,
    max_in_a_row: u32,
    /// The walk has come to its end, and chunks of other runs are waited for.
    waiting: AtomicBool,
    /// Inputs that were not begun or not finished, because the run was to end.
    left_out: Arc<AtomicU64>,
    tally: Mutex<Tally>,
    observer: Option<Arc<dyn Observer>>,
}

/// What was done so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) progress: Progress,
    pub(crate) ignored: Kinds,
    pub(crate) unread: FirstFew,
    pub(crate) rejections: FirstFew,
    pub(crate) classes: BTreeMap<RejectionClass, u64>,
    /// How the time was spent, once the run has ended.
    pub(crate) stages: Stages,
}

impl Shared {
    /// `max_in_a_row` 0 means: however many.
    pub(crate) fn new(
        stop: StopFlag,
        max_in_a_row: u32,
        to_do: u64,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let progress = Progress { to_do, ..Progress::default() };
        Shared {
            stop,
            asked: OnceLock::new(),
            stop_patience: Duration::MAX,
            now: Box::new(Instant::now),
            unreadable: AtomicBool::new(false),
            in_a_row: AtomicU32::new(0),
            max_in_a_row,
            waiting: AtomicBool::new(false),
            left_out: Arc::default(),
            tally: Mutex::new(Tally { progress, ..Tally::default() }),
            observer,
        }
    }

    /// How long the run may go on once it is asked to stop; without end unless set.
    pub(crate) fn with_stop_patience(mut self, patience: Duration) -> Self {
        self.stop_patience = patience;
        self
    }

    /// On another clock than the machine's.
    #[cfg(test)]
    pub(super) fn with_clock(mut self, now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        self.now = Box::new(now);
        self
    }

    /// The time by which batches are measured, and the run's time to stop.
    pub(super) fn now(&self) -> Instant {
        (self.now)()
    }

    /// False once inputs that were not begun yet should be left for the next run.
    pub(crate) fn is_going(&self) -> bool {
        !self.is_stopping() && !self.had_read_failures()
    }

    pub(crate) fn had_read_failures(&self) -> bool {
        self.unreadable.load(Ordering::SeqCst)
    }

    /// A file turned out to be no input.
    pub(crate) fn ignored(&self, path: &Path) {
        self.tally.lock().ignored.add(path);
    }

    /// Inputs were not begun.
    pub(crate) fn left_out(&self, inputs: u64) {
        self.left_out.fetch_add(inputs, Ordering::SeqCst);
    }

    /// Counts inputs that were not begun or not finished.
    pub(crate) fn left_out_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.left_out)
    }

    /// How many were not begun or not finished.
    pub(crate) fn left_out_count(&self) -> u64 {
        self.left_out.load(Ordering::SeqCst)
    }

    /// Tells the observer what became of an input.
    pub(crate) fn settled(&self, key: &[u8], outcome: &Outcome) {
        if let Some(observer) = &self.observer {
            observer.settled(key, outcome);
        }
    }

    /// Whether nothing more will come before other runs have finished what they have claimed.
    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::SeqCst);
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    /// True once the run was asked to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        let stopping = self.stop.is_raised();
        if stopping {
            self.asked.get_or_init(|| self.now());
        }
        stopping
    }

    /// Once it was asked to stop, how long the run may still go on.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        self.is_stopping().then_some(())?;
        Some(self.stop_patience.saturating_sub(self.now().saturating_duration_since(*self.asked.get()?)))
    }

    /// Tells why nothing moves, or that it goes on.
    pub(crate) fn paused(&self, why: Option<&str>) {
        if let Some(observer) = &self.observer {
            observer.paused(why);
        }
    }

    /// Sleeps, unless the run is to stop.
    pub(crate) fn nap(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopping() && Instant::now() < until {
            thread::sleep(NAP.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// A file was read to its end.
    pub(crate) fn was_read(&self) {
        self.in_a_row.store(0, Ordering::SeqCst);
    }

    /// A file could not be read.
    pub(crate) fn unread(&self, path: &Path, error: &io::Error) {
        log::info!("{}: cannot be read: {error}", path.display());
        self.update(|tally| {
            tally.unread.push(path, error.to_string());
            tally.progress.unread += 1;
        });
        let in_a_row = self.in_a_row.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        if self.max_in_a_row > 0 && in_a_row >= self.max_in_a_row {
            self.unreadable.store(true, Ordering::SeqCst);
        }
    }

    /// Changes the tally, and tells the observer.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Tally)) {
        let progress = {
            let mut tally = self.tally.lock();
            change(&mut tally);
            tally.progress
        };
        if let Some(observer) = &self.observer {
            observer.progress(&progress);
        }
    }

    /// Tells the observer what `pace` makes of the progress.
    pub(crate) fn tell(&self, pace: impl FnOnce(Progress) -> Pace) {
        let progress = self.tally.lock().progress;
        if let Some(observer) = &self.observer {
            observer.pace(&pace(progress));
        }
    }

    /// Other runs have stored inputs since this one counted.
    pub(crate) fn others(&self, inputs: u64) {
        if inputs > 0 {
            self.update(|tally| tally.progress.others += inputs);
        }
    }

    /// Inputs that are settled.
    pub(crate) fn done(&self) -> u64 {
        self.tally.lock().progress.done()
    }

    /// All stages have ended, and this is how they spent their time.
    pub(crate) fn ended(&self, stages: Stages) {
        self.tally.lock().stages = stages;
    }

    /// The tally as it stands.
    pub(crate) fn tally_now(&self) -> Tally {
        self.tally.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(shared: &Shared, times: usize) {
        for _ in 0..times {
            shared.unread(Path::new("x.jpg"), &io::Error::from(io::ErrorKind::NotFound));
        }
    }

    #[test]
    fn read_failures_stop_a_run_only_in_a_row() {
        let shared = Shared::new(StopFlag::default(), 3, 9, None);
        fail(&shared, 2);
        shared.was_read();
        fail(&shared, 2);
        assert!(shared.is_going());
        fail(&shared, 1);
        assert!(!shared.is_going() && shared.had_read_failures());
        assert_eq!(shared.tally_now().unread.count(), 5);
        let patient = Shared::new(StopFlag::default(), 0, 9, None);
        fail(&patient, 500);
        assert!(patient.is_going());
        assert_eq!(patient.tally_now().unread.first().len(), FirstFew::KEPT);
    }
}
