//! Time that this thread spends in the file system: the rest of an append is the store's own work.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::watched::{Call, Watcher};

/// Time in calls of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Kind of the calls.
    pub what: &'static str,
    /// Number of calls.
    pub calls: u64,
    /// Time that all of them took.
    pub time: Duration,
}

thread_local! {
    static SPENT: RefCell<Vec<Spent>> = const { RefCell::new(Vec::new()) };
}

/// Time that measuring takes for each call, outside of the time attributed to the call.
pub fn own_time() -> Duration {
    const CALLS: u32 = 10_000;
    // As many kinds of calls as in a commit.
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

/// Calls of this thread, and their time, since the last call of this function.
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

/// Reads the clock before and after each call.
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
