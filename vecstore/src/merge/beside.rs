//! A second thread for a large merge: it checks inputs while the output is written, as long as that is in nobody's way.

use std::io;
use std::time::Duration;

use super::throttle::{Pacer, Signals};
use crate::bug::{Bug, unless};
use crate::segment::check_open;
use crate::sync::{nap, spawn_scoped, thread};
use crate::view::LiveSegment;
use crate::{Error, Result};

/// How often whoever waits for the second thread looks whether somebody commits.
const LOOK: Duration = Duration::from_millis(1);

/// Writes an output while a thread of its own checks inputs. What is given to `write` waits for that, and fails when an input
/// is damaged: to be asked before the output gets a name.
///
/// Two threads at work would cost others more than the merge's pace allows. So the second one gives up when somebody commits,
/// and what it has not checked by then is checked at that pace. Both end early when the store is closed.
pub(super) fn with_checked<T>(
    inputs: &[LiveSegment],
    pacer: &Pacer<'_>,
    write: impl FnOnce(&mut dyn FnMut() -> io::Result<()>) -> Result<T>,
) -> Result<T> {
    let signals = pacer.signals();
    let mut wrong = None;
    let written = thread::scope(|scope| {
        // Where the system gives no thread this one does it.
        let start = || spawn_scoped(scope, || check_undisturbed(inputs, &signals)).ok();
        let mut second = if inputs.is_empty() { None } else { start() };
        let written = write(&mut || {
            while second.as_ref().is_some_and(|thread| !thread.is_finished()) {
                pacer.pause();
                nap(LOOK);
            }
            let checked = second.take().map_or(Ok(0), join).and_then(|checked| {
                let left = inputs.get(checked..).unwrap_or_default();
                left.iter().try_for_each(|live| check(live, &|bytes| pacer.worked_on(bytes)))
            });
            checked.map_err(|error| {
                wrong = Some(error);
                io::Error::other("an input is damaged, or could not be checked")
            })
        });
        // Whatever failed before that: what is wrong with an input says more.
        if let Some(Err(error)) = second.take().map(join) {
            wrong = Some(error);
        }
        written
    });
    match wrong {
        Some(error) => Err(error),
        None => written,
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn check(live: &LiveSegment, step: &dyn Fn(usize) -> Result<()>) -> Result<()> {
    unless(Bug::TrustInputs, || check_open(&live.segment, step))
}

/// Says how many inputs were checked before somebody committed.
fn check_undisturbed(inputs: &[LiveSegment], signals: &Signals) -> Result<usize> {
    for (checked, live) in inputs.iter().enumerate() {
        let gave_up = std::cell::Cell::new(false);
        let step = |_| {
            signals.go_on()?;
            gave_up.set(signals.is_gentle());
            if gave_up.get() { Err(Error::bad_input("somebody commits")) } else { Ok(()) }
        };
        match check(live, &step) {
            Err(_) if gave_up.get() => return Ok(checked),
            done => done?,
        }
    }
    Ok(inputs.len())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::super::throttle::Pace;
    use super::*;
    use crate::{Merging, OnDuplicate, OpenOptions, StoreConfig};

    const DIM: usize = 1 << 16;

    /// Two segments of 4 MiB; the second one may have a flipped bit.
    fn inputs(dir: &Path, damaged: bool) -> Vec<LiveSegment> {
        let path = dir.join("s");
        let options = OpenOptions::new().merging(Merging::OnDemand);
        let store = options.create(&path, StoreConfig::new(DIM)).unwrap();
        for part in 0..2 {
            let mut batch = store.batch();
            for row in 0..16 {
                batch.push(format!("{part} {row}"), &vec![0.5f32; DIM]).unwrap();
            }
            store.append(&mut batch, OnDuplicate::Error).unwrap();
        }
        drop(store);
        if damaged {
            let file = path.join("segments/0000000002-0000000002.0.npy");
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[1 << 20] ^= 1;
            std::fs::write(&file, bytes).unwrap();
        }
        let store = options.open(&path).unwrap();
        let view = Arc::clone(&store.inner.view.read());
        view.segments.clone()
    }

    /// What checking the inputs comes to, and how many steps the merge's own thread made meanwhile.
    fn checked(inputs: &[LiveSegment], pace: &Pace) -> (Result<()>, usize) {
        let steps = AtomicUsize::new(0);
        let mut between = || {
            steps.fetch_add(1, Ordering::Relaxed);
        };
        let pacer = Pacer::new(pace, &mut between);
        let done = with_checked(inputs, &pacer, |are_sound| {
            are_sound().map_err(|source| Error::io(Path::new("out"), "write the segment", source))
        });
        (done, steps.into_inner())
    }

    #[test]
    fn whatever_is_damaged_is_found_by_either_thread() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = inputs(dir.path(), true);
        let gentle = Pace { rest: 1e-6, ..Pace::full_speed() };
        let waited_for = Pace { hurry: Arc::new(AtomicUsize::new(1)), ..gentle.clone() };
        for pace in [Pace::full_speed(), gentle, waited_for] {
            let (done, _) = checked(&inputs, &pace);
            assert!(
                matches!(&done, Err(Error::Damaged { section, .. }) if section == "ROWS, block 15"),
                "{done:?}"
            );
        }
        let none = crate::sync::threads::given(0, || checked(&inputs, &Pace::full_speed()).0);
        assert!(matches!(none, Err(Error::Damaged { .. })), "{none:?}");
    }

    #[test]
    fn whoever_closes_the_store_does_not_wait_for_the_second_thread() {
        let dir = tempfile::tempdir().unwrap();
        // Checked to the end, it would say what is damaged.
        let inputs = inputs(dir.path(), true);
        let pace = Pace { stop: Arc::new(AtomicBool::new(true)), ..Pace::full_speed() };
        let error = checked(&inputs, &pace).0.unwrap_err();
        assert!(error.to_string().contains("the store is being closed"), "{error}");
    }

    #[test]
    fn somebody_who_commits_has_a_single_thread_beside_him() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = inputs(dir.path(), false);
        let gentle = Pace { rest: 1e-6, ..Pace::full_speed() };
        let waited_for = Pace { hurry: Arc::new(AtomicUsize::new(1)), ..gentle.clone() };
        for (pace, wanted) in [(&Pace::full_speed(), 2), (&gentle, 0), (&waited_for, 2)] {
            let mut between = || ();
            let signals = Pacer::new(pace, &mut between).signals();
            assert_eq!(check_undisturbed(&inputs, &signals).unwrap(), wanted);
        }
        checked(&inputs, &gentle).0.unwrap();
        // Nobody to wait for: what steps there are, this thread makes.
        let (done, steps) = crate::sync::threads::given(0, || checked(&inputs, &gentle));
        done.unwrap();
        assert!(steps >= 8, "8 MiB at the merge's pace, in {steps} steps");
    }
}
