//! How long this thread has been in the file system: what is left of an append is the store's own work.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::watched::{Call, Watcher};

/// Time in calls of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Which calls.
    pub what: &'static str,
    /// How many.
    pub calls: u64,
    /// How long all of them took.
    pub time: Duration,
}

thread_local! {
    static SPENT: RefCell<Vec<Spent>> = const { RefCell::new(Vec::new()) };
}

/// How long the clock itself takes for each call, outside of the time that it gives the call.
pub fn own_time() -> Duration {
    const CALLS: u32 = 10_000;
    // As many kinds of calls as a commit has.
    for what in ["1", "2", "3", "4", "5", "6"] {
        timed(what, || ());
    }
    let start = Instant::now();
    for _ in 0..CALLS {
        timed("7", || ());
    }
    let all = start.elapsed();
    let inside = spent().iter().filter(|spent| spent.what == "7").map(|spent| spent.time).sum();
    all.saturating_sub(inside) / CALLS
}

/// What this thread has spent in calls since the last time.
pub fn spent() -> Vec<Spent> {
    SPENT.take()
}

fn timed<T>(what: &'static str, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let time = start.elapsed();
    SPENT.with_borrow_mut(|all| match all.iter_mut().find(|spent| std::ptr::eq(spent.what, what)) {
        Some(spent) => {
            spent.calls += 1;
            spent.time += time;
        }
        None => all.push(Spent { what, calls: 1, time }),
    });
    result
}

/// Looks at the clock before and after each call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Watcher for Clock {
    fn call<T>(&self, call: Call<'_>, make: impl FnOnce() -> T) -> T {
        let what = match call.what {
            "lock" | "unlock" => "lock and unlock",
            other => other,
        };
        timed(what, make)
    }
}
