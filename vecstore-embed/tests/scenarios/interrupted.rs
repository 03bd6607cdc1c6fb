//! Runs that something happens to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use vecstore::DType;
use vecstore_embed::backend::{Batch, Output, Signature};
use vecstore_embed::{Encoder, Ended, Error, Normalise, Observer, Progress, Result, StopFlag};

use crate::common::{Place, RunOn, Stored, Strips, assert_same, contents, flat, on, tiny, tiny_with, tree};

fn undisturbed(photos: &Path, place: &Place) -> PathBuf {
    let store = place.join("undisturbed.vecs");
    let run = tree(photos, &store);
    run.run_on(&tiny(), Strips::boxed()).unwrap();
    store
}

/// Raises the flag once something is committed.
struct StopAfter(StopFlag, u64);

impl Observer for StopAfter {
    fn progress(&self, progress: &Progress) {
        if progress.embedded >= self.1 {
            self.0.raise();
        }
    }
}

#[test]
fn a_stopped_run_keeps_what_was_in_flight_and_goes_on_to_the_same_store() {
    let place = Place::new();
    let (photos, store) = (place.photos(120), place.join("photos.vecs"));
    let model = tiny();
    let run = tree(&photos, &store);
    let (mut runs, mut embedded) = (0, 0);
    loop {
        let stop = StopFlag::default();
        let observer = Arc::new(StopAfter(stop.clone(), 8));
        let summary =
            run.clone().with_stop(stop).with_observer(observer).run_on(&model, Strips::boxed()).unwrap();
        runs += 1;
        embedded += summary.embedded;
        assert_eq!(contents(&store).len() as u64, embedded, "what is reported is stored");
        if summary.is_complete() {
            break;
        }
        assert_eq!(summary.ended, Ended::Stopped);
        assert_eq!(summary.left, 120 - embedded);
        assert!(summary.embedded >= 8);
    }
    assert!(runs > 1, "stopped before the end at least once");
    assert_same(&contents(&store), &contents(&undisturbed(&photos, &place)));
}

#[test]
fn a_flag_that_is_up_from_the_start_leaves_everything_for_later() {
    let place = Place::new();
    let (photos, store) = (place.photos(5), place.join("photos.vecs"));
    let stop = StopFlag::default();
    stop.raise();
    let run = tree(&photos, &store).with_stop(stop);
    let summary = run.run_on(&tiny(), Strips::boxed()).unwrap();
    assert_eq!((summary.ended, summary.embedded), (Ended::Stopped, 0));
    assert!(!summary.is_complete());
}

#[test]
fn a_model_that_fails_ends_the_run_and_keeps_what_was_committed() {
    let place = Place::new();
    let (photos, store) = (place.photos(30), place.join("photos.vecs"));
    let model = tiny();
    let run = tree(&photos, &store);
    let out_of_memory = || Error::Inference {
        backend: "strips".to_owned(),
        model: "descriptor".to_owned(),
        found: "out of memory".to_owned(),
    };
    let failing = Strips::before(move |batch| if batch >= 3 { Err(out_of_memory()) } else { Ok(()) });
    let error = run.run_on(&model, failing).unwrap_err();
    assert!(error.to_string().contains("out of memory"), "{error}");
    assert_eq!(contents(&store).len(), 12);
    let summary = run.run_on(&model, Strips::boxed()).unwrap();
    assert_eq!((summary.already, summary.embedded), (12, 18));
    assert_same(&contents(&store), &contents(&undisturbed(&photos, &place)));
}

/// Embeds into vectors of which every third is spoiled.
struct Spoiled(Box<dyn Encoder>, f32, u64);

impl Encoder for Spoiled {
    fn name(&self) -> &str {
        "spoiled"
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        let dim = self.signature().dim();
        let mut outputs = self.0.run(batch)?;
        for vector in outputs[0].numbers.chunks_mut(dim) {
            if self.2.is_multiple_of(3) {
                vector[dim - 1] = self.1;
            }
            self.2 += 1;
        }
        Ok(outputs)
    }
}

#[test]
fn vectors_that_the_store_cannot_hold_are_rejected_one_by_one() {
    for (value, dtype, reason) in [
        (f32::NAN, DType::F32, "not finite"),
        (f32::INFINITY, DType::F16, "not finite"),
        (1e30, DType::F16, "beyond the range of f16"),
    ] {
        let place = Place::new();
        let (photos, store) = (place.photos(9), place.join("photos.vecs"));
        let run = tree(&photos, &store).with_dtype(dtype);
        let spoiled = Box::new(Spoiled(Strips::boxed(), value, 0));
        let summary = run.run_on(&tiny_with(Normalise::None), spoiled).unwrap();
        assert_eq!((summary.embedded, summary.rejected), (6, 3), "{value}");
        assert!(summary.is_complete());
        let rejected = contents(&store).into_values().filter(|stored| match stored {
            Stored::Rejected(why) => why.contains(reason),
            Stored::Vector(_) => false,
        });
        assert_eq!(rejected.count(), 3, "{value}");
    }
}

/// Takes the last pictures away, or every other one of them, when the first batch is embedded: all are listed
/// by then, and few are read.
fn vanishing(photos: &Path, from: u32, every_other: bool) -> Box<dyn Encoder> {
    let (photos, away) = (photos.join("a"), photos.with_extension("away"));
    fs::create_dir_all(&away).unwrap();
    Strips::before(move |batch| {
        for entry in fs::read_dir(&photos).unwrap().filter(|_| batch == 0) {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let number: u32 = name.trim_end_matches(".png").parse().unwrap();
            if number >= from && (number.is_multiple_of(4) || !every_other) {
                fs::rename(photos.join(&name), away.join(&name)).unwrap();
            }
        }
        Ok(())
    })
}

fn bring_back(photos: &Path) {
    for entry in fs::read_dir(photos.with_extension("away")).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), photos.join("a").join(entry.file_name())).unwrap();
    }
}

#[test]
fn files_that_cannot_be_read_stay_missing_and_are_tried_again() {
    let place = Place::new();
    let (photos, store) = (place.photos(80), place.join("photos.vecs"));
    let model = tiny();
    // Never two in a row, so that is no reason to stop.
    let run = flat(photos.join("a"), &store).with_max_read_failures(2);
    let vanishing = on(&model, vanishing(&photos, 50, true)).readers(1).workers(1).build();
    let summary = run.run(&vanishing).unwrap();
    assert_eq!((summary.ended, summary.embedded, summary.unread.count()), (Ended::Finished, 33, 7));
    assert!(!summary.is_complete());
    assert_eq!(summary.unread.first()[0].path, photos.join("a/052.png"));
    assert_eq!(contents(&store).len(), 33, "nothing is recorded for them");
    bring_back(&photos);
    let again = run.run_on(&model, Strips::boxed()).unwrap();
    assert_eq!((again.already, again.embedded), (33, 7));
    assert!(again.is_complete());
}

#[test]
fn many_read_failures_in_a_row_stop_the_run() {
    let place = Place::new();
    let (photos, store) = (place.photos(120), place.join("photos.vecs"));
    let model = tiny();
    let run = flat(photos.join("a"), &store).with_max_read_failures(5);
    let vanishing = on(&model, vanishing(&photos, 60, false)).readers(1).workers(1).build();
    let summary = run.run(&vanishing).unwrap();
    assert_eq!((summary.ended, summary.embedded, summary.unread.count()), (Ended::ReadFailures, 30, 5));
    assert_eq!((summary.left, summary.is_complete()), (25, false));
    bring_back(&photos);
    assert_eq!(run.run_on(&model, Strips::boxed()).unwrap().embedded, 30);
}

/// An encoder that waits for the other when it is first asked for its signature: just before a store is
/// created.
struct Meets {
    barrier: Arc<Barrier>,
    met: AtomicBool,
    inner: Box<dyn Encoder>,
}

impl Encoder for Meets {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        if !self.met.swap(true, Ordering::SeqCst) {
            self.barrier.wait();
        }
        self.inner.signature()
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        self.inner.run(batch)
    }
}

#[test]
fn of_two_first_runs_at_once_both_fill_the_one_store() {
    let place = Place::new();
    let (photos, store) = (place.photos(24), place.join("photos.vecs"));
    let barrier = Arc::new(Barrier::new(2));
    let first_run = |folder: PathBuf| {
        let backend = Meets { barrier: barrier.clone(), met: AtomicBool::new(false), inner: Strips::boxed() };
        let run = tree(folder, &store);
        move || run.run_on(&tiny(), Box::new(backend))
    };
    let both = |left: PathBuf, right: PathBuf| {
        let (left, right) = (thread::spawn(first_run(left)), thread::spawn(first_run(right)));
        [left.join().unwrap(), right.join().unwrap()]
    };
    for summary in both(photos.clone(), photos.clone()) {
        let summary = summary.unwrap();
        assert!(summary.is_complete());
        assert_eq!(summary.already + summary.embedded, 24);
    }
    assert_same(&contents(&store), &contents(&undisturbed(&photos, &place)));

    // One folder became the root; the run over the other one learns that.
    fs::remove_dir_all(&store).unwrap();
    let results = both(photos.join("a"), photos.join("b"));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let refused = results.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(refused, Error::OutsideRoots { .. }), "{refused}");
    assert_eq!(contents(&store).len(), 12);
}
