//! Several models at once, which take their batches from one queue.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vecstore::Store;
use vecstore_embed::backend::Tensor;
use vecstore_embed::{Backend, Model, Result, Run};

use crate::command::{run, said};
use crate::common::{Place, Strips, assert_same, contents};

#[test]
fn three_lanes_make_the_store_that_one_makes_however_often_they_are_interrupted() {
    const PICTURES: u32 = 90;
    let place = Place::new();
    let (photos, store, alone) =
        (place.photos(PICTURES), place.join("photos.vecs"), place.join("alone.vecs"));
    assert_eq!(said(run(&photos, &alone, &["--quiet", "--lanes=1"])).code, 0);
    let three = ["--quiet", "--lanes=3", "--batch-size=2", "--commit-rows=4"];
    let done = || Store::open_read_only(&store).map_or(0, |store| store.snapshot().totals().entries);
    let mut unfinished = 0;
    for signal in [Signal::KILL, Signal::INT, Signal::KILL] {
        let (before, began) = (done(), Instant::now());
        let mut child = run(&photos, &store, &three).spawn().unwrap();
        while done() < before + 8 && child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(120), "nothing is stored");
            thread::sleep(Duration::from_millis(2));
        }
        // It may have ended just now.
        let _ = kill_process(Pid::from_child(&child), signal);
        let ended = child.wait().unwrap();
        assert!(ended.code().is_none_or(|code| code == 0 || code == 75), "{ended}");
        unfinished += u32::from(done() < u64::from(PICTURES));
    }
    assert!(unfinished > 0, "the runs were too quick to be interrupted");
    let last = said(run(&photos, &store, &three));
    assert_eq!(last.code, 0, "{}{}", last.out, last.err);
    assert_eq!(contents(&store).len(), PICTURES as usize);
    assert_same(&contents(&store), &contents(&alone));
}

/// Where tensors begin.
type Places = Arc<Mutex<Vec<usize>>>;

/// Has memory of its own for pictures, and counts the batches that are in it.
struct Pinning {
    inner: Box<dyn Backend>,
    from: usize,
    given: Places,
    inside: Arc<AtomicUsize>,
}

impl Backend for Pinning {
    fn name(&self) -> &str {
        "pinning"
    }

    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn preferred_batch(&self) -> usize {
        4
    }

    fn embed(&mut self, batch: usize, pixels: &[f32]) -> Result<Vec<f32>> {
        let inside = self.given.lock().unwrap().contains(&pixels.as_ptr().addr());
        self.inside.fetch_add(inside.into(), Ordering::SeqCst);
        self.inner.embed(batch, pixels)
    }

    fn tensor(&self, length: usize) -> Option<Tensor> {
        let mut given = self.given.lock().unwrap();
        if given.len() >= self.from {
            return None;
        }
        let tensor = Tensor::from(vec![f32::NAN; length].into_boxed_slice());
        let vecstore_embed::Pixels::F32(numbers) = tensor.pixels() else { panic!("{tensor:?}") };
        given.push(numbers.as_ptr().addr());
        Some(tensor)
    }
}

#[test]
fn pictures_go_into_the_memory_that_lanes_offer() {
    let place = Place::new();
    let (photos, store, plain) = (place.photos(41), place.join("photos.vecs"), place.join("plain.vecs"));
    let model = Model::builtin().unwrap();
    let of = |store: &std::path::Path| Run::new(&photos, store).with_recursive(true).with_batch_size(4);
    of(&plain).run_on(&model, Strips::boxed()).unwrap();
    // All of the memory there is to be, or only a part of it.
    for from in [100, 3] {
        let store = store.with_extension(from.to_string());
        let (given, inside) = (Places::default(), Arc::<AtomicUsize>::default());
        let lane = || -> Box<dyn Backend> {
            let (given, inside) = (Arc::clone(&given), Arc::clone(&inside));
            Box::new(Pinning { inner: Strips::boxed(), from, given, inside })
        };
        let summary = of(&store).run_on_lanes(&model, vec![lane(), lane(), lane()]).unwrap();
        assert_eq!(summary.embedded, 41);
        // Two for each lane, and one between.
        assert_eq!(given.lock().unwrap().len(), from.min(7));
        let inside = inside.load(Ordering::SeqCst);
        assert!(if from > 7 { inside >= 11 } else { inside > 0 }, "{inside} of {from}");
        assert_same(&contents(&store), &contents(&plain));
    }
}
