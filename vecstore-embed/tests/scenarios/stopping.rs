//! Runs that are asked to stop while something takes its time.

use std::fs::File;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vecstore_embed::{Ended, Model, Run, StopFlag, Summary};

use crate::command::{json, program, run, said};
use crate::common::{Place, Strips, contents};

/// Takes this long for each batch of the run below.
const BATCH: Duration = Duration::from_millis(200);

/// A run of ten batches that is asked to stop in the third, when the next two wait already.
fn stopped_in_the_third(patience: Duration) -> (Summary, usize) {
    let place = Place::new();
    let (photos, store) = (place.photos(40), place.join("photos.vecs"));
    let stop = StopFlag::default();
    let asking = stop.clone();
    let model = Strips::before(move |batch| {
        thread::sleep(BATCH);
        if batch == 2 {
            asking.raise();
        }
        Ok(())
    });
    let run = Run::new(&photos, &store).with_recursive(true).with_batch_size(4);
    let run = run.with_stop(stop).with_stop_patience(patience);
    let summary = run.run_on(&Model::builtin().unwrap(), model).unwrap();
    let stored = contents(&store).len();
    (summary, stored)
}

#[test]
fn what_is_in_flight_is_finished_and_committed_where_there_is_time() {
    let (summary, stored) = stopped_in_the_third(Duration::from_secs(60));
    assert_eq!((summary.ended, summary.embedded), (Ended::Stopped, stored as u64), "{summary:?}");
    assert!((20..40).contains(&stored), "the two batches that waited are in the store: {stored}");
    assert_eq!(summary.left, 40 - summary.embedded);
}

#[test]
fn no_batch_is_begun_that_there_is_no_time_for() {
    for patience in [Duration::ZERO, BATCH / 2] {
        let (summary, stored) = stopped_in_the_third(patience);
        assert_eq!((summary.ended, stored), (Ended::Stopped, 12), "{patience:?}: {summary:?}");
        assert_eq!((summary.embedded, summary.left), (12, 28), "{summary:?}");
        assert!(!summary.is_complete());
    }
}

#[test]
fn what_cannot_be_finished_is_left_to_the_next_run() {
    let place = Place::new();
    let (photos, store) = (place.photos(60), place.join("photos.vecs"));
    let of_store = |name: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
        command.args([name, "--store"]).arg(&store).args(more);
        command
    };
    let few = said(run(&photos, &store, &["--exclude=b"]));
    assert_eq!(few.code, 0, "{}", few.err);
    let before = contents(&store);
    assert_eq!(before.len(), 30);

    // Another process is in the middle of a commit, and does not come to its end.
    let held = File::open(store.join("LOCK")).unwrap();
    held.lock().unwrap();
    let started = said(program(&[&"start", &"--recursive", &"--folder", &photos, &"--store", &store]));
    assert_eq!(started.code, 0, "{}{}", started.out, started.err);
    let began = Instant::now();
    let stopped = said(of_store("stop", &[]));
    let took = began.elapsed();
    assert!(stopped.code == 0 && stopped.out.contains(": stopped after 1"), "{}{}", stopped.out, stopped.err);
    assert!(Duration::from_secs(15) < took && took < Duration::from_secs(20), "{took:?}");

    let status = json(of_store("status", &["--json"]));
    let run_state = status["runs"].as_array().unwrap().last().unwrap();
    assert_eq!((&status["live"], &run_state["ended"]), (&Value::from(0), &"stopped".into()), "{status}");
    assert_eq!(run_state["exit"], 75, "{status}");
    let logs = said(of_store("logs", &[])).out;
    assert!(logs.contains("asked to stop") && logs.contains("takes too long"), "{logs}");
    held.unlock().unwrap();
    assert_eq!(contents(&store), before, "what was stored stays, and nothing else came");
    let again = json(run(&photos, &store, &["--quiet", "--json"]));
    assert_eq!((again["already"].as_u64(), again["embedded"].as_u64()), (Some(30), Some(30)));
}
