//! A cap on bytes in flight, shared by threads.

use parking_lot::{Condvar, Mutex};

/// Hands out bytes up to a cap; a thread that wants more waits until others give theirs back.
///
/// First come, first served: without that, one large picture could wait for ever while small ones keep
/// passing it. Asking for more than the cap is asking for the whole of it, so that nothing waits for the
/// impossible: the largest pictures are worked on alone.
#[derive(Debug)]
pub(crate) struct Budget {
    cap: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    next_ticket: u64,
    serving: u64,
}

/// A request that waits for its turn.
#[derive(Debug)]
struct InLine<'a> {
    budget: &'a Budget,
    bytes: u64,
    ticket: u64,
}

/// Bytes taken from a [`Budget`], given back on drop.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(cap: u64) -> Self {
        Budget { cap: cap.max(1), state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until `bytes` are free, and takes them.
    pub(crate) fn take(&self, bytes: u64) -> Taken<'_> {
        self.line_up(bytes).wait()
    }

    /// A place in the line, behind those that were taken before.
    fn line_up(&self, bytes: u64) -> InLine<'_> {
        let mut state = self.state.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        InLine { budget: self, bytes: bytes.min(self.cap), ticket }
    }
}

impl<'a> InLine<'a> {
    fn wait(self) -> Taken<'a> {
        let InLine { budget, bytes, .. } = self;
        let mut state = budget.state.lock();
        while !self.is_served(&state) {
            budget.changed.wait(&mut state);
        }
        state.used += bytes;
        state.serving += 1;
        drop(state);
        budget.changed.notify_all();
        Taken { budget, bytes }
    }

    /// True once it is first, and its bytes are free.
    fn is_served(&self, state: &State) -> bool {
        state.serving == self.ticket && state.used + self.bytes <= self.budget.cap
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.budget.state.lock().used -= self.bytes;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn never_gives_out_more_than_the_cap() {
        let budget = Budget::new(100);
        let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for worker in 0..8u64 {
                let (budget, now, most) = (&budget, &now, &most);
                scope.spawn(move || {
                    for round in 0..200u64 {
                        let bytes = 1 + (worker * 31 + round * 17) % 60;
                        let _taken = budget.take(bytes);
                        most.fetch_max(now.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                        thread::yield_now();
                        now.fetch_sub(bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        let most = most.into_inner();
        assert!(most <= 100, "{most}");
        assert_eq!(budget.state.lock().used, 0);
        // Several fit at once.
        let taken = [budget.take(60), budget.take(30), budget.take(10)];
        assert_eq!(budget.state.lock().used, 100);
        drop(taken);
    }

    #[test]
    fn a_large_request_is_not_passed_by_small_ones() {
        let budget = Budget::new(10);
        let first = budget.take(1);
        let (large, small) = (budget.line_up(1000), budget.line_up(1));
        let served = |one: &InLine<'_>| one.is_served(&budget.state.lock());
        assert!(!served(&large) && !served(&small), "nine are free, but the large one is first");
        drop(first);
        assert!(served(&large) && !served(&small));
        let all = large.wait();
        assert!(!served(&small), "it has all there is");
        drop(all);
        assert!(served(&small));
        drop(small.wait());
    }

    #[test]
    fn those_in_line_are_woken_in_their_order() {
        let budget = Budget::new(10);
        let first = budget.take(1);
        let (order, arrived) = mpsc::channel();
        let (large, small) = (budget.line_up(1000), budget.line_up(1));
        thread::scope(|scope| {
            // Whichever of the two waits first, or is the first to run.
            for (name, one, order) in [("small", small, order.clone()), ("large", large, order)] {
                scope.spawn(move || {
                    let _taken = one.wait();
                    order.send(name).unwrap();
                });
            }
            drop(first);
        });
        assert_eq!(arrived.iter().collect::<Vec<_>>(), ["large", "small"]);
    }
}
