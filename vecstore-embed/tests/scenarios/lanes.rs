//! Several models at once, which take their batches from one queue.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use vecstore_embed::backend::{Batch, Output, Signature};
use vecstore_embed::tensor::{Element, Tensor};
use vecstore_embed::{Encoder, Result};

use crate::command::{run_tiny, said};
use crate::common::{Place, RunOn, Strips, assert_same, contents, on, tiny, tree};
use crate::fed::Fed;

#[test]
fn three_lanes_make_the_store_that_one_makes_however_often_they_are_interrupted() {
    let place = Place::new();
    let (photos, store, alone) = (place.photos(36), place.join("photos.vecs"), place.join("alone.vecs"));
    let first = "a/000.png";
    assert_eq!(said(run_tiny(&photos, &store, &["--quiet", "--include", first])).code, 0);
    let name = |at: u32| format!("{}/{at:03}.png", if at.is_multiple_of(2) { "a" } else { "b" });
    for (at, signal) in [(0, Signal::KILL), (1, Signal::INT), (2, Signal::KILL)] {
        let bad = format!("bad-{at}.jpg");
        fs::write(photos.join(&bad), "Dear diary").unwrap();
        let [some, more] =
            [1..7, 7..12].map(|of| of.map(|picture| name(at * 11 + picture)).collect::<Vec<_>>());
        let lines = [some, vec![bad.clone()], more].concat();
        let command = run_tiny(&photos, &store, &["--lanes=3", "--batch-size=2", "--commit-rows=1"]);
        let mut fed = Fed::start(command, place.join(&bad), &lines);
        fed.list.feed(&lines, first);
        // What comes before the bad one is in batches, or stored already, and the list is not at its end.
        fed.err.until(&format!("{bad}: rejected"));
        fed.signal(signal);
        if signal == Signal::INT {
            fed.list.until_closed(first);
        }
        let ended = fed.ended();
        assert_eq!(ended.code, if signal == Signal::INT { 75 } else { -1 }, "{}{}", ended.out, ended.err);
        assert!(contents(&store).contains_key(&bad));
    }
    let last = said(run_tiny(&photos, &store, &["--quiet", "--lanes=3", "--batch-size=2"]));
    assert_eq!(last.code, 0, "{}{}", last.out, last.err);
    assert_eq!(said(run_tiny(&photos, &alone, &["--quiet", "--lanes=1"])).code, 0);
    assert_eq!(contents(&store).len(), 39);
    assert_same(&contents(&store), &contents(&alone));
}

/// Where tensors begin.
type Places = Arc<Mutex<Vec<usize>>>;

/// Has memory of its own for pictures, and counts the batches that are in it.
struct Pinning {
    inner: Box<dyn Encoder>,
    from: usize,
    given: Places,
    inside: Arc<AtomicUsize>,
}

impl Encoder for Pinning {
    fn name(&self) -> &str {
        "pinning"
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        let first = batch.inputs[0].numbers.as_slice::<f32>().unwrap().as_ptr().addr();
        let inside = self.given.lock().unwrap().contains(&first);
        self.inside.fetch_add(inside.into(), Ordering::SeqCst);
        self.inner.run(batch)
    }

    fn memory(&self, element: Element, length: usize) -> Option<Tensor> {
        let mut given = self.given.lock().unwrap();
        if given.len() >= self.from {
            return None;
        }
        let tensor = Tensor::plain(element, length);
        given.push(tensor.view().as_slice::<f32>().unwrap().as_ptr().addr());
        Some(tensor)
    }
}

#[test]
fn pictures_go_into_the_memory_that_lanes_offer() {
    let place = Place::new();
    let (photos, store, plain) = (place.photos(41), place.join("photos.vecs"), place.join("plain.vecs"));
    let model = tiny();
    let of = |store: &std::path::Path| tree(&photos, store);
    of(&plain).run_on(&model, Strips::boxed()).unwrap();
    // All of the memory there is to be, or only a part of it.
    for from in [100, 3] {
        let store = store.with_extension(from.to_string());
        let (given, inside) = (Places::default(), Arc::<AtomicUsize>::default());
        let lane = || -> Box<dyn Encoder> {
            let (given, inside) = (Arc::clone(&given), Arc::clone(&inside));
            Box::new(Pinning { inner: Strips::boxed(), from, given, inside })
        };
        let summary =
            of(&store).run(&on(&model, lane()).encoders(vec![lane(), lane(), lane()]).build()).unwrap();
        assert_eq!(summary.embedded, 41);
        // Two for each lane, and one between.
        assert_eq!(given.lock().unwrap().len(), from.min(7));
        let inside = inside.load(Ordering::SeqCst);
        assert!(if from > 7 { inside >= 11 } else { inside > 0 }, "{inside} of {from}");
        assert_same(&contents(&store), &contents(&plain));
    }
}
