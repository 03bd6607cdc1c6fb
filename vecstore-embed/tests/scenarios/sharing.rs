//! Several runs on one store at once.

use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread;
use std::time::Duration;

use vecstore_embed::{Model, Observer, Progress, Run, StopFlag, Summary};

use crate::common::{Place, Strips, assert_same, contents, write_picture};

/// Counts pictures that were embedded, and then found to be in the store.
#[derive(Default)]
struct Overtaken(Mutex<u64>);

impl Observer for Overtaken {
    fn progress(&self, progress: &Progress) {
        *self.0.lock().unwrap() = progress.overtaken;
    }
}

/// Where runs wait for each other before their first batch: so each of them has found work. One that finds none is not waited
/// for longer than a minute.
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
        drop(self.more.wait_timeout_while(come, Duration::from_secs(60), |come| *come < all).unwrap());
    }
}

/// Runs at once, each with a backend that takes a while. `meet`: nobody goes on before all of them have found work. No picture
/// is embedded twice.
fn at_once(runs: Vec<Run>, meet: bool) -> Vec<Summary> {
    let all = if meet { runs.len() } else { 0 };
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
                let slow = Strips::before(move |_| {
                    first.call_once(|| meeting.wait_for(all));
                    thread::sleep(Duration::from_millis(15));
                    Ok(())
                });
                run.run_on(&Model::builtin().unwrap(), slow).unwrap()
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
    let run = |store| {
        Run::new(&photos, store).with_recursive(true).with_batch_size(4).with_chunk_size(5).with_workers(2)
    };
    // The store is there before, so that all start at once.
    at_once(vec![run(&store).with_filter(vecstore_embed::Filter::new(&["00/**"], &[]).unwrap())], false);
    let summaries = at_once(vec![run(&store), run(&store), run(&store)], true);
    let embedded: Vec<u64> = summaries.iter().map(|summary| summary.embedded).collect();
    assert_eq!(embedded.iter().sum::<u64>(), 171, "{embedded:?}");
    assert!(embedded.iter().all(|embedded| *embedded > 0), "everybody had something to do: {embedded:?}");
    for summary in &summaries {
        // Nobody goes before everything is accounted for.
        assert!(summary.is_complete());
        assert_eq!((summary.found, summary.already + summary.embedded), (180, 180), "{summary:?}");
        assert_eq!(summary.left, 0, "what others did is not left: {summary:?}");
    }
    at_once(vec![run(&alone)], false);
    assert_same(&contents(&store), &contents(&alone));
}

#[test]
fn what_a_stopped_run_had_begun_is_taken_over() {
    let place = Place::new();
    let (photos, store) = (place.photos(60), place.join("photos.vecs"));
    let run = || Run::new(&photos, &store).with_recursive(true).with_batch_size(4).with_chunk_size(30);
    at_once(vec![run().with_filter(vecstore_embed::Filter::new(&["000.png"], &[]).unwrap())], false);
    let stop = StopFlag::default();
    let stopper = stop.clone();
    let stopping = thread::spawn(move || {
        thread::sleep(Duration::from_millis(60));
        stopper.raise();
    });
    let summaries = at_once(vec![run().with_stop(stop), run()], false);
    stopping.join().unwrap();
    assert!(summaries[1].is_complete(), "{summaries:?}");
    assert_eq!(summaries[0].embedded + summaries[1].embedded, 59);
    assert_eq!(contents(&store).len(), 60);
}
