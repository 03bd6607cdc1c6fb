//! Embedding a source without a store.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, bounded};

use super::Embedder;
use crate::base::{Result, StopFlag};
use crate::pipeline::{Outcome, Shared};
use crate::source::Source;

/// Settled inputs that may wait to be taken.
const WAITING: usize = 64;

/// What became of each input of a source; see [`Embedder::stream`].
pub struct Stream {
    found: Option<Receiver<(Vec<u8>, Outcome)>>,
    stop: StopFlag,
    /// Works until the source has no more; gone once its result was taken.
    worker: Option<JoinHandle<Result<()>>>,
}

impl Stream {
    pub(super) fn new(embedder: Embedder, source: impl Source + 'static) -> Self {
        let (sink, found) = bounded(WAITING);
        let stop = StopFlag::default();
        let flag = stop.clone();
        let worker = thread::spawn(move || {
            let shared = Shared::new(flag, 0, 0, None);
            // Batches go as they are when nothing comes for a moment.
            shared.set_waiting(true);
            embedder.each(&source, embedder.widths(), &shared, &mut |done| {
                done.outcome.is_none_or(|outcome| sink.send((done.job.input.key, outcome)).is_ok())
            })
        });
        Stream { found: Some(found), stop, worker: Some(worker) }
    }
}

impl Iterator for Stream {
    type Item = Result<(Vec<u8>, Outcome)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(found) = self.found.as_ref().and_then(|found| found.recv().ok()) {
            return Some(Ok(found));
        }
        // The work has ended: well, with an error, or by a panic that goes on here.
        let ended = self.worker.take()?.join();
        ended.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked)).err().map(Err)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.raise();
        self.found = None;
        if let Some(worker) = self.worker.take() {
            // Its result has nothing to go to.
            let _ = worker.join();
        }
    }
}
