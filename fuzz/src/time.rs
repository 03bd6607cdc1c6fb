//! Counts processor time, so that a slow input can be told from a machine that is busy otherwise.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time that one input may take, in a build for fuzzing: a thousand times what most inputs take.
const ALLOWED: Duration = Duration::from_secs(10);

/// Runs a fuzz target's check of one input, and panics if it takes too much processor time. libFuzzer's own
/// limit counts wall-clock time, and calls an input slow if the process was stopped meanwhile.
pub fn timely(check: fn(&[u8]), data: &[u8]) {
    within(ALLOWED, || check(data));
}

fn within(allowed: Duration, work: impl FnOnce()) {
    within_by(used, allowed, work);
}

/// Runs `work`, and panics if it takes more than `allowed` by the clock `used`.
fn within_by(used: impl Fn() -> Duration, allowed: Duration, work: impl FnOnce()) {
    let before = used();
    work();
    let took = used().saturating_sub(before);
    assert!(took <= allowed, "took {took:?} of processor time, {allowed:?} are allowed");
}

/// Processor time that this process has used so far.
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
    fn work_within_the_limit_is_no_error() {
        let clock = Cell::new(Duration::from_secs(7));
        let work = || clock.set(clock.get() + ALLOWED);
        within_by(|| clock.get(), ALLOWED, work);
    }

    /// The clock is that of this thread alone, because other threads of this process work meanwhile.
    #[test]
    fn waiting_is_not_counted() {
        let used = || by(ClockId::ThreadCPUTime);
        // any duration passes: wall-clock time is not counted, however much of it goes by.
        within_by(used, Duration::from_millis(150), || std::thread::sleep(Duration::from_millis(300)));
    }
}
