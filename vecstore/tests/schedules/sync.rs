//! Synchronization on the scheduler: replaces `base/sync.rs` in a build for schedules. Guards are not
//! poisoned, like those of `parking_lot`; no wait ends at its deadline, because the scheduler has no clock.

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use shuttle::rand::RngCore;
use shuttle::sync;
pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::thread;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

/// Empty only while its thread waits at a [`Condvar`].
pub(crate) struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Mutex(sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[expect(clippy::expect_used, reason = "a test build; a thread that waits runs no code")]
    fn deref(&self) -> &T {
        self.0.as_ref().expect("a guard in use")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[expect(clippy::expect_used, reason = "a test build; a thread that waits runs no code")]
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("a guard in use")
    }
}

#[derive(Debug)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(value: T) -> Self {
        RwLock(sync::RwLock::new(value))
    }

    pub fn read(&self) -> sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar, atomic::AtomicUsize);

impl Condvar {
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        // A scheduling point: another thread may notify without the mutex between the check and the wait.
        self.1.load(atomic::Ordering::SeqCst);
        guard.0 = guard.0.take().map(|held| self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _deadline: Instant) {
        self.wait(guard);
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Unlocks a mutex; the scheduler decides which thread locks it next.
pub(crate) fn hand_over<G>(guard: G) {
    drop(guard);
}

/// Lets other threads go first: a thread that naps waits for one of them.
pub(crate) fn nap(_time: Duration) {
    thread::yield_now();
}

/// Starts a thread that ends with the scope.
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<thread::ScopedJoinHandle<'scope, T>> {
    Ok(scope.spawn(work))
}

/// The scheduler's random numbers, so that a schedule can be run again.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    shuttle::rand::thread_rng().fill_bytes(bytes);
    Ok(())
}
