//! Several runs on one store at once.

use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread;

use vecstore_embed::{Ended, Files, Filter, Observer, Progress, Run, StopFlag, Summary};

use crate::common::{Place, Strips, assert_same, contents, on, tiny, tree, write_picture};
use crate::fed::WATCHDOG;

/// Counts pictures that were embedded, and then found to be in the store.
#[derive(Default)]
struct Overtaken(Mutex<u64>);

impl Observer for Overtaken {
    fn progress(&self, progress: &Progress) {
        *self.0.lock().unwrap() = progress.overtaken;
    }
}

/// Where runs wait for each other before their first batch: so each of them has found work.
#[derive(Default)]
struct Meeting {
    come: Mutex<usize>,
    more: Condvar,
}

impl Meeting {
    fn wait_for(&self, all: usize) {
        let mut come = self.come.lock().unwrap();
        *come += 1;
        self.more.notify_all();
        let (come, waited) = self.more.wait_timeout_while(come, WATCHDOG, |come| *come < all).unwrap();
        assert!(!waited.timed_out(), "{come} of {all} runs found work");
    }
}

/// Runs at once, none of which goes on before all of them have found work. No picture is embedded twice.
fn at_once(workers: usize, runs: Vec<Run>) -> Vec<Summary> {
    let all = runs.len();
    let meeting = Arc::new(Meeting::default());
    let observers: Vec<Arc<Overtaken>> = runs.iter().map(|_| Arc::default()).collect();
    let runs: Vec<_> = runs
        .into_iter()
        .zip(&observers)
        .map(|(run, observer)| {
            let run = run.with_observer(Arc::clone(observer) as Arc<dyn Observer>);
            let meeting = Arc::clone(&meeting);
            thread::spawn(move || {
                let first = Once::new();
                let meeting = Strips::before(move |_| {
                    first.call_once(|| meeting.wait_for(all));
                    Ok(())
                });
                run.run(&on(&tiny(), meeting).workers(workers).build()).unwrap()
            })
        })
        .collect();
    let summaries = runs.into_iter().map(|run| run.join().unwrap()).collect();
    let twice: Vec<u64> = observers.iter().map(|observer| *observer.0.lock().unwrap()).collect();
    assert_eq!(twice.iter().sum::<u64>(), 0, "nothing twice: {twice:?}");
    summaries
}

#[test]
fn runs_share_the_work_and_do_nothing_twice() {
    let place = Place::new();
    let photos = place.join("photos");
    for at in 0..180 {
        write_picture(&photos.join(format!("{:02}/{at:03}.png", at / 9)), at);
    }
    let (store, alone) = (place.join("photos.vecs"), place.join("alone.vecs"));
    let run = |store| tree(&photos, store).with_chunk_size(5);
    let first = Files::new(&photos).with_recursive(true).with_filter(Filter::new(&["00/**"], &[]).unwrap());
    // The store is there before, so that all start at once.
    at_once(2, vec![Run::new(first, &store)]);
    // While the three wait for each other, what is in flight of one is a small part of it all.
    let summaries = at_once(2, vec![run(&store), run(&store), run(&store)]);
    let embedded: Vec<u64> = summaries.iter().map(|summary| summary.embedded).collect();
    assert_eq!(embedded.iter().sum::<u64>(), 171, "{embedded:?}");
    assert!(embedded.iter().all(|embedded| *embedded > 0), "each had something to do: {embedded:?}");
    for summary in &summaries {
        // No run ends before everything is accounted for.
        assert!(summary.is_complete());
        assert_eq!((summary.found, summary.already + summary.embedded), (180, 180), "{summary:?}");
        assert_eq!(summary.left, 0, "what others did is not left: {summary:?}");
    }
    at_once(2, vec![run(&alone)]);
    assert_same(&contents(&store), &contents(&alone));
}

#[test]
fn what_a_stopped_run_had_begun_is_taken_over() {
    let place = Place::new();
    let (photos, store) = (place.photos(60), place.join("photos.vecs"));
    let run = || tree(&photos, &store).with_chunk_size(30);
    let first = Files::new(&photos).with_recursive(true).with_filter(Filter::new(&["000.png"], &[]).unwrap());
    at_once(1, vec![Run::new(first, &store)]);
    let (stop, overtaken) = (StopFlag::default(), Arc::<Overtaken>::default());
    let stopper = stop.clone();
    let (begun, begins) = channel();
    let (stopped, stops) = channel();
    let run_stopped = run().with_stop(stop);
    let first = thread::spawn(move || {
        let holding = Strips::before(move |batch| {
            if batch == 0 {
                begun.send(()).unwrap();
                stops.recv_timeout(WATCHDOG).unwrap();
            }
            Ok(())
        });
        run_stopped.run(&on(&tiny(), holding).readers(1).workers(1).build()).unwrap()
    });
    // It has one of the two chunks, and only a part of that is under way, when the other run has found the
    // other.
    begins.recv_timeout(WATCHDOG).unwrap();
    let stopping = Strips::before(move |batch| {
        if batch == 0 {
            stopper.raise();
            stopped.send(()).unwrap();
        }
        Ok(())
    });
    let second = run().with_observer(Arc::clone(&overtaken) as Arc<dyn Observer>);
    let second = second.run(&on(&tiny(), stopping).readers(1).workers(1).build()).unwrap();
    let first = first.join().unwrap();
    assert!(first.embedded < 29 && first.ended == Ended::Stopped, "{first:?}");
    assert!(second.is_complete(), "{second:?}");
    assert!(second.embedded > 30, "its own, and the rest of the other's: {second:?}");
    assert_eq!((first.embedded + second.embedded, *overtaken.0.lock().unwrap()), (59, 0));
    assert_eq!(contents(&store).len(), 60);
}
