//! Synchronization between threads: mutexes, atomics, threads and sleeps.
//!
//! All means by which threads of this crate see, wake or wait for each other are here. A test build
//! (`--cfg vecstore_shuttle`) replaces them with a scheduler that decides at each of these points which
//! thread runs next, and tries thousands of orders: see `tests/schedules`.

#[cfg(not(vecstore_shuttle))]
mod system {
    use std::io;
    use std::time::Duration;

    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;

    pub(crate) use parking_lot::{Condvar, Mutex, RwLock};

    /// Unlocks a mutex fairly: a waiting thread gets the mutex before this thread can lock it again.
    pub(crate) fn hand_over<T>(guard: parking_lot::MutexGuard<'_, T>) {
        parking_lot::MutexGuard::unlock_fair(guard);
    }

    /// Sleeps for `time`; unit tests count the calls.
    pub(crate) fn nap(time: Duration) {
        #[cfg(test)]
        super::threads::note_nap();
        std::thread::sleep(time);
    }

    /// Starts a thread that ends with the scope; fails if the system refuses another thread.
    pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
        scope: &'scope thread::Scope<'scope, '_>,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> io::Result<thread::ScopedJoinHandle<'scope, T>> {
        #[cfg(test)]
        super::threads::may_start()?;
        thread::Builder::new().spawn_scoped(scope, work)
    }

    /// Fills a buffer with random bytes.
    pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
        getrandom::fill(bytes)
    }
}

#[cfg(not(vecstore_shuttle))]
pub(crate) use system::*;

/// Stands in for `system` in a build for schedules: the test's scheduler runs the threads.
#[cfg(vecstore_shuttle)]
#[path = "../../tests/schedules/sync.rs"]
mod scheduled;

#[cfg(vecstore_shuttle)]
pub(crate) use scheduled::*;

/// For unit tests: counts the sleeps of a thread, and limits the threads that the system gives it.
#[cfg(all(test, not(vecstore_shuttle)))]
pub(crate) mod threads {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static NAPS: Cell<u32> = const { Cell::new(0) };
        static REFUSED_AFTER: Cell<Option<u32>> = const { Cell::new(None) };
    }

    pub(super) fn note_nap() {
        NAPS.set(NAPS.get() + 1);
    }

    /// Number of sleeps of this thread.
    pub(crate) fn naps() -> u32 {
        NAPS.get()
    }

    pub(super) fn may_start() -> io::Result<()> {
        REFUSED_AFTER.with(|left| match left.get() {
            Some(0) => Err(io::ErrorKind::WouldBlock.into()),
            Some(count) => {
                left.set(Some(count - 1));
                Ok(())
            }
            None => Ok(()),
        })
    }

    /// Runs `work` with a system that gives this thread `count` scoped threads and refuses more.
    pub(crate) fn given<T>(count: u32, work: impl FnOnce() -> T) -> T {
        REFUSED_AFTER.set(Some(count));
        let done = work();
        REFUSED_AFTER.set(None);
        done
    }
}
