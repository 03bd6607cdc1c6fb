//! The merger: two threads that keep files few while others append.

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

/// Time rested per time worked: at most a fifth of a core and of the disk.
const REST: f64 = 4.0;
/// After a failure the merger waits, longer each time, before it tries again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Commits wake the merger now and then. What the last ones of a burst brought is looked at this much later.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The merger of a handle: a thread for each lane.
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
    /// The merger has seen every commit, and waits for the next one however long that takes.
    asleep: AtomicBool,
}

impl Signal {
    /// Says that there may be something to merge.
    pub fn wake(&self) {
        *self.wanted.lock() = true;
        self.changed.notify_one();
    }

    /// True when the next commit has to wake the merger.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Waits until the merger is woken, or a while when there are commits it has not looked at.
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
    /// Starts a thread for each lane. A machine that gives no further thread still merges inline.
    pub fn start(inner: &Arc<Shared>) -> Self {
        let [small, large] = [(); 2].map(|()| Arc::new(Signal::default()));
        let waker = Arc::clone(&large);
        let threads = [
            start("vecstore-small", inner, &small, move |inner, signal| merge_small(inner, signal, &waker)),
            start("vecstore-large", inner, &large, merge_large),
        ];
        Merger { small, large, threads }
    }

    /// What others may wake it with.
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

/// Merges small files, at full speed: they are few bytes, and commits would have to wait for them. Wakes the other lane when
/// there is something for it.
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

/// Merges large files, and rests meanwhile as long as others commit.
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
        // Another process is merging, and may not know of what is to be merged.
        is_left = matches!(merged, Ok(false));
        if !retry.goes_on(inner, signal, Lane::Large, &merged.map(drop)) {
            return;
        }
    }
}

/// How long a merger waits after the next failure.
struct Retry(Duration);

impl Retry {
    /// Tells of a merge, and waits after a failed one. False when the thread is to end.
    fn goes_on(&mut self, inner: &Shared, signal: &Signal, lane: Lane, merged: &Result<()>) -> bool {
        if signal.stop.load(Ordering::Relaxed) {
            return false;
        }
        Merges::of(inner).note_merge(lane, merged);
        if inner.is_latched() {
            return false;
        }
        if merged.is_ok() {
            self.0 = RETRY.0;
            return true;
        }
        // Appends wake this thread; they must not cut the wait short. Only the end of the handle does, and it sets the flag
        // before it takes the mutex.
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

    /// How long a wait may take before that is taken for a hang.
    const HANG: Duration = Duration::from_secs(300);

    /// A thread that waits as a merger does after a look at `looked_at` commits, and tells when that ends.
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
    fn commits_that_were_not_looked_at_end_the_wait() {
        let signal = Arc::new(Signal::default());
        waits(&signal, 7, 1).recv_timeout(HANG).expect("it looks again");
        assert!(!signal.is_asleep());
    }

    /// Where every commit was looked at, the wait has no end of its own, and says that the next commit has to end it.
    #[test]
    fn a_merger_that_has_seen_everything_says_that_it_sleeps() {
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
