//! Waiting for a lock: timeouts, intervals between two looks, and punctual sleeps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::{Error, Result};

/// First and longest sleep between two attempts; each sleep is twice as long as the one before it.
pub(super) const SLEEP: (Duration, Duration) = (Duration::from_micros(10), Duration::from_millis(1));

/// Longest sleep of the waiter that has the turn, and of waiters for the turn. A commit takes about 1 ms, and
/// the next waiter should have the lock soon after it ends.
pub(super) const TURN_SLEEP: (Duration, Duration) = (Duration::from_micros(50), Duration::from_micros(500));

/// Longest wait of a handle for locks of other processes, shared by all its waiters, which [`Timeout::end`]
/// can cut short.
#[derive(Clone, Debug)]
pub(crate) struct Timeout(Arc<AtomicU64>);

impl Timeout {
    /// Time left after a wait of `waited`; zero if the timeout has passed.
    pub fn left(&self, waited: Duration) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed)).saturating_sub(waited)
    }

    /// Sets the timeout to zero: from here on locks are only tried, and present waiters give up.
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

/// Longest wait for a lock at a time, so that other threads of the handle can go on between two waits.
const SLICE: Duration = Duration::from_millis(50);

/// Repeats `attempt` while a lock is busy, until `timeout` has passed; each attempt gets a short timeout of
/// its own. Nothing is held between two attempts.
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

/// State of one wait for a lock: its start, its timeout, and the next sleep.
pub(super) struct Patience {
    pub(super) start: Instant,
    pub(super) timeout: Timeout,
    pub(super) sleep: Duration,
    /// Start of the wait for the lock itself, after the wait for the turn.
    pub(super) since: Instant,
    pub(super) punctual: Option<Punctual>,
}

/// While this value lives, sleeps of its thread end on time. Linux usually adds up to 50 us (timer slack).
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
