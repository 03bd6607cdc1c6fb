//! Runs that are asked to stop while something takes its time.

use std::fs::{self, File};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use vecstore_embed::{Ended, Observer, Progress, StopFlag, Summary};

use crate::command::{json, run_tiny, said};
use crate::common::{Place, Strips, contents, on, tiny, tree};
use crate::fed::{Fed, WATCHDOG};

/// Says when something was rejected.
struct Rejected(Mutex<Option<Sender<()>>>);

impl Observer for Rejected {
    fn progress(&self, progress: &Progress) {
        if progress.rejected > 0 {
            self.0.lock().unwrap().take().map(|said| said.send(()));
        }
    }
}

/// A run of ten batches and a bad picture that is asked to stop in the third, when the next two wait already:
/// the bad one comes after what is in them.
fn stopped_in_the_third(patience: Duration) -> (Summary, usize) {
    let place = Place::new();
    let (photos, store) = (place.photos(40), place.join("photos.vecs"));
    fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();
    let (reject, rejected) = channel();
    let stop = StopFlag::default();
    let asking = stop.clone();
    let model = Strips::before(move |batch| {
        if batch == 2 {
            rejected.recv_timeout(WATCHDOG).unwrap();
            asking.raise();
        }
        Ok(())
    });
    let run = tree(&photos, &store).with_commit_rows(1);
    let run = run.with_observer(Arc::new(Rejected(Mutex::new(Some(reject)))));
    let run = run.with_stop(stop).with_stop_patience(patience);
    let summary = run.run(&on(&tiny(), model).readers(1).workers(1).build()).unwrap();
    assert_eq!((summary.ended, summary.rejected), (Ended::Stopped, 1), "{summary:?}");
    assert_eq!(summary.left, 40 - summary.embedded, "{summary:?}");
    assert!(!summary.is_complete());
    let stored = contents(&store).len();
    assert_eq!(stored as u64, summary.embedded + 1, "{summary:?}");
    (summary, stored)
}

#[test]
fn what_is_in_flight_is_finished_and_committed_where_there_is_time() {
    let (summary, _) = stopped_in_the_third(Duration::MAX);
    // The worker may have one more picture in its hands.
    assert!(
        (20..=21).contains(&summary.embedded),
        "the two batches that waited are in the store: {summary:?}"
    );
}

#[test]
fn no_batch_is_begun_that_there_is_no_time_for() {
    let (summary, stored) = stopped_in_the_third(Duration::ZERO);
    assert_eq!((summary.embedded, stored), (12, 13), "{summary:?}");
}

#[test]
fn what_cannot_be_finished_is_left_to_the_next_run() {
    let place = Place::new();
    let (photos, store) = (place.photos(12), place.join("photos.vecs"));
    let of_store = |name: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
        command.args([name, "--store"]).arg(&store).args(more);
        command
    };
    let few = said(run_tiny(&photos, &store, &["--exclude=b"]));
    assert_eq!(few.code, 0, "{}", few.err);
    fs::write(photos.join("b/bad.jpg"), "Dear diary").unwrap();
    let lines = ["b/001.png", "b/003.png", "b/005.png", "b/bad.jpg", "b/007.png", "b/009.png", "b/011.png"];
    let mut fed = Fed::start(run_tiny(&photos, &store, &["--commit-rows=1"]), place.join("list"), &lines);
    fed.list.feed(&lines[..4], "a/000.png");
    fed.err.until("b/bad.jpg: rejected");
    let before = contents(&store);
    assert_eq!(before.len(), 7, "three wait for a batch that is full");

    // Another process is in the middle of a commit, and does not come to its end.
    let held = File::open(store.join("LOCK")).unwrap();
    held.lock().unwrap();
    let began = Instant::now();
    let stop = of_store("stop", &["--timeout=600"]);
    let stopping = std::thread::spawn(move || said(stop));
    fed.list.until_closed("a/000.png");
    let ended = fed.ended();
    assert_eq!(ended.code, 75, "{}{}", ended.out, ended.err);
    // It waits for the commit as long as `stop` is ready to wait, and then ends.
    assert!(began.elapsed() > Duration::from_secs(15), "{}", ended.err);
    let stopped = stopping.join().unwrap();
    assert!(stopped.code == 0 && stopped.out.contains(": stopped after "), "{}{}", stopped.out, stopped.err);

    let status = json(of_store("status", &["--json"]));
    let ended = status["runs"].as_array().unwrap().iter().find(|run| run["exit"] == 75).unwrap();
    assert_eq!((&status["live"], &ended["ended"]), (&Value::from(0), &"stopped".into()), "{status}");
    let logs = said(of_store("logs", &[ended["id"].as_str().unwrap()])).out;
    assert!(logs.contains("asked to stop") && logs.contains("takes too long"), "{logs}");
    held.unlock().unwrap();
    assert_eq!(contents(&store), before, "what was stored stays, and nothing else came");
    let again = json(run_tiny(&photos, &store, &["--quiet", "--json"]));
    assert_eq!((again["already"].as_u64(), again["embedded"].as_u64()), (Some(7), Some(6)));
}
