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
    let before = used();
    work();
    let took = used().saturating_sub(before);
    assert!(took <= allowed, "took {took:?} of processor time, {allowed:?} are allowed");
}

/// What this process has had so far.
fn used() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "of processor time")]
    fn work_is_counted() {
        let begun = used();
        within(Duration::from_millis(5), || while used() - begun < Duration::from_millis(20) {});
    }

    #[test]
    fn waiting_is_not() {
        within(Duration::from_millis(150), || std::thread::sleep(Duration::from_millis(300)));
    }
}
