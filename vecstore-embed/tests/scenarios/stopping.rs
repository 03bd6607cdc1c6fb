//! Runs that are asked to stop, with models that take their time.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vecstore_embed::{
    BackendChoice, BackendOptions, Ended, Model, PreprocessOverrides, Run, StopFlag, Summary, open_backend,
};

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
    assert!(stored >= 20 && stored < 40, "the two batches that waited are in the store: {stored}");
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

/// The model of `tests/models` of which a picture takes about half a second.
fn slow() -> (String, Model) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/slow.onnx");
    let overrides = PreprocessOverrides {
        size: Some("8x8".parse().unwrap()),
        mean: Some([0.0; 3]),
        std: Some([1.0; 3]),
        ..PreprocessOverrides::default()
    };
    (file.display().to_string(), Model::from_file(&file, &overrides, None).unwrap())
}

/// Pictures that take a model a minute, in one batch, on all processors.
fn a_minute(model: &Model) -> usize {
    let options = BackendOptions { choice: BackendChoice::Tract, ..BackendOptions::default() };
    let mut backend = open_backend(model, &options).unwrap();
    let pictures = thread::available_parallelism().map_or(1, usize::from);
    let pixels = vec![0.5; pictures * model.preprocess().tensor_len()];
    let began = Instant::now();
    backend.embed(pictures, &pixels).unwrap();
    let rounds = (60.0 / began.elapsed().as_secs_f64()).ceil();
    (rounds as usize * pictures).clamp(1, 4096)
}

#[test]
fn a_batch_that_takes_too_long_is_left_to_the_next_run() {
    let (file, model) = slow();
    let (place, pictures) = (Place::new(), a_minute(&model));
    let (photos, store) = (place.photos(1), place.join("photos.vecs"));
    let options = ["--size=8x8", "--mean=0", "--std=1", "--model", &file];
    let first = said(run(&photos, &store, &options));
    assert_eq!(first.code, 0, "{}", first.err);
    let before = contents(&store);

    let picture = fs::read(photos.join("a/000.png")).unwrap();
    for at in 1..=pictures {
        fs::write(photos.join(format!("a/{at:04}.png")), &picture).unwrap();
    }
    let batch = format!("--batch-size={pictures}");
    let mut start = program(&[&"start", &"--recursive", &"--folder", &photos, &"--store", &store, &batch]);
    start.args(options);
    let started = said(start);
    assert_eq!(started.code, 0, "{}{}", started.out, started.err);
    // For the batch to begin; if it does not in this time, it does not end in time all the more.
    thread::sleep(Duration::from_secs(2));

    let of_store = |name: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
        command.args([name, "--store"]).arg(&store).args(more);
        command
    };
    let began = Instant::now();
    let stopped = said(of_store("stop", &[]));
    let took = began.elapsed();
    assert!(stopped.code == 0 && stopped.out.contains(": stopped after 1"), "{}{}", stopped.out, stopped.err);
    assert!(Duration::from_secs(17) < took && took < Duration::from_secs(20), "{took:?}");

    let status = json(of_store("status", &["--json"]));
    let run = status["runs"].as_array().unwrap().last().unwrap();
    assert_eq!((&status["live"], &run["ended"]), (&Value::from(0), &"stopped".into()), "{status}");
    assert_eq!(run["exit"], 75, "{status}");
    assert_eq!(contents(&store), before, "what was stored stays, and nothing else came");
    let logs = said(of_store("logs", &[])).out;
    assert!(logs.contains("asked to stop") && logs.contains("takes too long"), "{logs}");
}
