//! The merger: two threads that keep the number of files low while other threads append.

use crate::lock::LOCK;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::Result;
use crate::base::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::base::sync::thread::{self, JoinHandle};
use crate::base::sync::{Condvar, Mutex};
use crate::handle::Shared;
use crate::lock::Watch;
use crate::merge::{Host, Lane, Merges, Pace};

/// Time rested per time worked: a merge of large files takes at most a fifth of a core and of the disk.
const REST: f64 = 4.0;
/// First and longest wait after a failed merge; the wait doubles with each failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Not every commit wakes the merger: after this time it looks by itself at the last commits of a burst.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The merger of a handle: one thread per lane.
#[derive(Debug)]
pub(crate) struct Merger {
    small: Arc<Signal>,
    large: Arc<Signal>,
    threads: [Option<JoinHandle<()>>; 2],
}

/// Wakes a thread of the merger, and stops it.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    wanted: Mutex<bool>,
    changed: Condvar,
    stop: Arc<AtomicBool>,
    /// True while the merger has seen every commit and sleeps until it is woken.
    asleep: AtomicBool,
}

impl Signal {
    /// Wakes the merger: there may be something to merge.
    pub fn wake(&self) {
        *self.wanted.lock() = true;
        self.changed.notify_one();
    }

    /// True if the next commit has to wake the merger.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Waits until the merger is woken, but at most [`LOOK_AGAIN`] if there are commits that it has not
    /// looked at.
    fn wait(&self, commits: &AtomicUsize, looked_at: usize) {
        let mut wanted = self.wanted.lock();
        let deadline = Instant::now() + LOOK_AGAIN;
        while !*wanted && !self.stop.load(Ordering::Relaxed) {
            self.asleep.store(true, Ordering::SeqCst);
            if commits.load(Ordering::SeqCst) == looked_at {
                self.changed.wait(&mut wanted);
                self.asleep.store(false, Ordering::SeqCst);
                continue;
            }
            self.asleep.store(false, Ordering::SeqCst);
            if Instant::now() >= deadline {
                break;
            }
            self.changed.wait_until(&mut wanted, deadline);
        }
        *wanted = false;
    }
}

impl Merger {
    /// Starts one thread per lane. If no thread can be started, appends merge files inline.
    pub fn start(inner: &Arc<Shared>) -> Self {
        let [small, large] = [(); 2].map(|()| Arc::new(Signal::default()));
        let waker = Arc::clone(&large);
        let threads = [
            start("vecstore-small", inner, &small, move |inner, signal| merge_small(inner, signal, &waker)),
            start("vecstore-large", inner, &large, merge_large),
        ];
        Merger { small, large, threads }
    }

    /// The signal that commits wake the merger with.
    pub fn waker(&self) -> Arc<Signal> {
        Arc::clone(&self.small)
    }

    /// Ends the threads; merges under way are given up and leave nothing behind.
    pub fn stop(self) {
        for signal in [&self.small, &self.large] {
            signal.stop.store(true, Ordering::Relaxed);
            signal.wake();
        }
        for thread in self.threads.into_iter().flatten() {
            if thread.join().is_err() {
                log::error!("the merger ended in a panic; appended data is not affected");
            }
        }
    }
}

fn start(
    name: &str,
    inner: &Arc<Shared>,
    signal: &Arc<Signal>,
    work: impl FnOnce(&Shared, &Signal) + Send + 'static,
) -> Option<JoinHandle<()>> {
    let (signal, inner) = (Arc::clone(signal), Arc::clone(inner));
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || work(&inner, &signal));
    if let Err(error) = &spawned {
        log::warn!("no thread for merging, files are merged when there are too many: {error}");
    }
    spawned.ok()
}

/// Merges small files at full speed: they have few bytes, and commits may have to wait for them. Wakes the
/// other lane if it has something to merge.
fn merge_small(inner: &Shared, signal: &Signal, large: &Signal) {
    let pace = Pace { stop: Arc::clone(&signal.stop), ..Pace::full_speed() };
    let mut retry = Retry(RETRY.0);
    let mut looked_at = 0;
    loop {
        signal.wait(&inner.commits, looked_at);
        looked_at = inner.commits.load(Ordering::SeqCst);
        let merged = Merges::of(inner).merge_in_background(Lane::Small, &pace);
        log::trace!("{}: looked for files to merge after {looked_at} commit(s)", inner.path.display());
        if matches!(merged, Ok(false)) {
            // Another process is merging, and may not know of the last commits.
            looked_at = looked_at.wrapping_sub(1);
        }
        if Merges::of(inner).has_plan(Lane::Large) {
            large.wake();
        }
        if !retry.goes_on(inner, signal, Lane::Small, &merged.map(drop)) {
            return;
        }
    }
}

/// Merges large files. Rests meanwhile as long as other threads or processes commit.
fn merge_large(inner: &Shared, signal: &Signal) {
    let pace = Pace {
        rest: REST,
        commits: Some(Rc::new(Watch::open(&*inner.vfs, &inner.path.join(LOCK)))),
        stop: Arc::clone(&signal.stop),
        hurry: Arc::clone(&inner.merging().hurry),
        ..Pace::full_speed()
    };
    let mut retry = Retry(RETRY.0);
    let mut is_left = false;
    loop {
        signal.wait(&AtomicUsize::new(usize::from(is_left)), 0);
        let merged = Merges::of(inner).merge_in_background(Lane::Large, &pace);
        // Another process is merging, and may not know of these files.
        is_left = matches!(merged, Ok(false));
        if !retry.goes_on(inner, signal, Lane::Large, &merged.map(drop)) {
            return;
        }
    }
}

/// How long a merger waits after the next failure.
struct Retry(Duration);

impl Retry {
    /// Reports the outcome of a merge, and waits after a failed one. False if the thread is to end.
    fn goes_on(&mut self, inner: &Shared, signal: &Signal, lane: Lane, merged: &Result<()>) -> bool {
        if signal.stop.load(Ordering::Relaxed) {
            return false;
        }
        Merges::of(inner).note_merge(lane, merged);
        inner.observer.deliver();
        if inner.is_latched() {
            return false;
        }
        if merged.is_ok() {
            self.0 = RETRY.0;
            return true;
        }
        // Appends wake this thread, but must not cut the wait short. Only the end of the handle does: it sets
        // `stop` before it takes the mutex.
        let deadline = Instant::now() + self.0;
        let mut wanted = signal.wanted.lock();
        while !signal.stop.load(Ordering::Relaxed) && Instant::now() < deadline {
            signal.changed.wait_until(&mut wanted, deadline);
        }
        *wanted = true;
        self.0 = (self.0 * 2).min(RETRY.1);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A wait longer than this counts as a hang.
    const HANG: Duration = Duration::from_secs(300);

    /// Starts a thread that waits like a merger that has looked at `looked_at` commits. The receiver gets a
    /// message when the wait ends.
    fn waits(signal: &Arc<Signal>, commits: usize, looked_at: usize) -> Receiver<()> {
        let (signal, (end, ends)) = (Arc::clone(signal), channel());
        thread::spawn(move || {
            signal.wait(&AtomicUsize::new(commits), looked_at);
            end.send(()).unwrap();
        });
        ends
    }

    /// The last commits of a burst wake no merger: the wait that began before them ends by itself.
    #[test]
    fn commits_not_yet_looked_at_end_the_wait() {
        let signal = Arc::new(Signal::default());
        waits(&signal, 7, 1).recv_timeout(HANG).expect("it looks again");
        assert!(!signal.is_asleep());
    }

    /// If every commit was looked at, the wait does not end by itself, and `is_asleep` tells the next commit
    /// to end it.
    #[test]
    fn a_merger_that_has_seen_every_commit_is_asleep() {
        let signal = Arc::new(Signal::default());
        let ends = waits(&signal, 7, 7);
        let waker = Arc::clone(&signal);
        while !waker.is_asleep() {
            assert!(ends.try_recv().is_err(), "it does not sleep");
            thread::yield_now();
        }
        waker.wake();
        ends.recv_timeout(HANG).expect("it was woken");
        assert!(!waker.is_asleep() && !*signal.wanted.lock());
    }
}
