//! Counts processor time, so that an input that takes long can be told from a machine that is busy with something else.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What one input may take, in a program built to be fuzzed: a thousand times what most of them do.
const ALLOWED: Duration = Duration::from_secs(10);

/// A fuzz target's check of one input. It panics when that takes too long, however long it waited for a processor: the limit
/// that libFuzzer has itself counts the time on the wall, and calls an input slow during which the process was stopped.
pub fn timely(check: fn(&[u8]), data: &[u8]) {
    within(ALLOWED, || check(data));
}

fn within(allowed: Duration, work: impl FnOnce()) {
    within_by(used, allowed, work);
}

/// The same by any clock.
fn within_by(used: impl Fn() -> Duration, allowed: Duration, work: impl FnOnce()) {
    let before = used();
    work();
    let took = used().saturating_sub(before);
    assert!(took <= allowed, "took {took:?} of processor time, {allowed:?} are allowed");
}

/// What this process has had so far.
fn used() -> Duration {
    by(ClockId::ProcessCPUTime)
}

fn by(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    #[should_panic(expected = "of processor time")]
    fn work_is_counted() {
        let begun = used();
        within(Duration::from_millis(5), || while used() - begun < Duration::from_millis(20) {});
    }

    #[test]
    fn what_is_allowed_is_no_error() {
        let clock = Cell::new(Duration::from_secs(7));
        let work = || clock.set(clock.get() + ALLOWED);
        within_by(|| clock.get(), ALLOWED, work);
    }

    /// By the clock of this thread alone: the others of this process are at work meanwhile.
    #[test]
    fn waiting_is_not() {
        let used = || by(ClockId::ThreadCPUTime);
        // any duration passes: time on the wall is not what is counted, however much of it goes by.
        within_by(used, Duration::from_millis(150), || std::thread::sleep(Duration::from_millis(300)));
    }
}
