//! How a waiter waits for a lock: how long, how often it looks, and that it wakes on time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::{Error, Result};

/// How long to sleep between two attempts: short at first, then longer.
pub(super) const SLEEP: (Duration, Duration) = (Duration::from_micros(10), Duration::from_millis(1));

/// The longest for a waiter that is next, and for a turn: when a commit ends, in 1 ms or so, one should have it.
pub(super) const TURN_SLEEP: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(500));

/// How long a handle waits for locks of other processes. Its waiters share it, and it can be ended meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Timeout(Arc<AtomicU64>);

impl Timeout {
    /// What is left after this much time; zero when it has passed.
    pub fn left(&self, waited: Duration) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed)).saturating_sub(waited)
    }

    /// From here on locks are only tried, also by present waiters.
    pub fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl From<Duration> for Timeout {
    fn from(time: Duration) -> Self {
        Timeout(Arc::new(AtomicU64::new(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))))
    }
}

impl From<&Timeout> for Timeout {
    fn from(shared: &Timeout) -> Self {
        shared.clone()
    }
}

/// How long a lock is waited for at a time, where other threads of the handle want to go on.
const SLICE: Duration = Duration::from_millis(50);

/// Tries again for as long as `timeout` says while a lock is busy, with a little time for each `attempt`. Between
/// two of them it holds nothing.
pub(crate) fn in_slices<T>(timeout: &Timeout, mut attempt: impl FnMut(&Timeout) -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let left = timeout.left(start.elapsed());
        match attempt(&left.min(SLICE).into()) {
            Err(Error::Busy { .. }) if left > SLICE => {}
            Err(Error::Busy { path, lock, holder, .. }) => {
                return Err(Error::Busy { path, lock, holder, waited_secs: start.elapsed().as_secs() });
            }
            done => return done,
        }
    }
}

/// One wait for a lock: since when, until when, and the pause between two looks.
pub(super) struct Patience {
    pub(super) start: Instant,
    pub(super) timeout: Timeout,
    pub(super) sleep: Duration,
    /// Since when it has waited for this lock, and for no turn any more.
    pub(super) since: Instant,
    pub(super) punctual: Option<Punctual>,
}

/// While this lives the thread sleeps no longer than it asks to. Linux usually adds some 50 us.
pub(crate) struct Punctual {
    #[cfg(target_os = "linux")]
    slack: Option<std::num::NonZeroU64>,
}

impl Punctual {
    pub fn new() -> Self {
        #[cfg(target_os = "linux")]
        {
            let slack = rustix::thread::current_timer_slack().ok().and_then(std::num::NonZeroU64::new);
            if slack.is_some() {
                let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
            }
            Punctual { slack }
        }
        #[cfg(not(target_os = "linux"))]
        Punctual {}
    }
}

#[cfg(target_os = "linux")]
impl Drop for Punctual {
    fn drop(&mut self) {
        if self.slack.is_some() {
            let _ = rustix::thread::set_current_timer_slack(self.slack);
        }
    }
}
