//! The batches that threads of one handle want to commit. One thread at a time is the leader, and commits the
//! batches in the queue; the other threads sleep until theirs are done, or go on and ask later.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::sync::{Condvar, Mutex, nap};
use crate::base::{Error, Result};
use crate::commit::{Appended, Request};
use crate::lock::Punctual;
use crate::types::{Batch, OnDuplicate};

/// A group of batches is cut at this many bytes, so that no thread waits for a giant file.
const GROUP_BYTES: usize = 32 << 20;
/// Estimated memory that a waiting batch takes beside its rows, keys and payloads.
const COST: usize = 512;
/// Bytes in the queue from which on `submit` waits.
const WAITING_BYTES: usize = 64 << 20;
/// Interval at which a leader polls for further batches. Threads that were just answered are likely to append
/// again, and would wait for a whole further flush if they missed this group.
const LOOK: Duration = Duration::from_micros(20);
/// A leader waits for at most 1/`SHARE` of the time that the last group took.
const SHARE: u32 = 3;
/// The fewest and the most polls of one wait.
const LOOKS: (u32, u32) = (4, 50);

/// A batch in the queue, and later its outcome.
#[derive(Debug)]
pub(crate) struct Waiting {
    policy: OnDuplicate,
    /// Memory that the batch counts for in the queue.
    bytes: usize,
    place: Mutex<Place>,
}

/// Where the batch is.
#[derive(Debug)]
enum Place {
    /// In the queue, until a leader takes it.
    Queued(Batch),
    /// Taken by a leader, or by the thread that received the outcome.
    Away,
    /// Committed or failed: the outcome, and the batch to hand back.
    Done(Result<Appended>, Batch),
}

impl Waiting {
    pub fn new(batch: Batch, policy: OnDuplicate) -> Arc<Self> {
        let bytes = batch.byte_len() + COST;
        Arc::new(Waiting { policy, bytes, place: Mutex::new(Place::Queued(batch)) })
    }

    /// A batch that is done already, because it has nothing to write.
    pub fn done(batch: Batch) -> Arc<Self> {
        let place = Mutex::new(Place::Done(Ok(Appended::default()), batch));
        Arc::new(Waiting { policy: OnDuplicate::Skip, bytes: 0, place })
    }

    /// Takes the batch from its place if `is` holds for the place, and leaves [`Place::Away`].
    fn take_if(&self, is: impl FnOnce(&Place) -> bool) -> Option<Place> {
        let mut place = self.place.lock();
        is(&place).then(|| std::mem::replace(&mut *place, Place::Away))
    }

    /// Takes the queued batch, for a leader.
    fn take(&self) -> Option<Batch> {
        match self.take_if(|place| matches!(place, Place::Queued(_)))? {
            Place::Queued(batch) => Some(batch),
            _ => None,
        }
    }

    /// Hands the batch back with its outcome.
    fn answer(&self, outcome: Result<Appended>, batch: Batch) {
        *self.place.lock() = Place::Done(outcome, batch);
    }

    /// True if the batch has an outcome that was not taken yet.
    pub fn is_done(&self) -> bool {
        matches!(*self.place.lock(), Place::Done(..))
    }

    /// Takes the outcome and the batch. `None` before the batch is done, and after the outcome was taken.
    fn outcome(&self) -> Option<(Result<Appended>, Batch)> {
        match self.take_if(|place| matches!(place, Place::Done(..)))? {
            Place::Done(outcome, batch) => Some((outcome, batch)),
            _ => None,
        }
    }
}

/// The batches that a leader commits. If the leader panics, each of them gets an error as its outcome.
pub(crate) struct Group<'a> {
    batches: Vec<(Arc<Waiting>, Batch)>,
    path: &'a Path,
}

impl Group<'_> {
    /// The requests for the commit, in queue order.
    pub fn requests(&self) -> impl Iterator<Item = Request<'_>> {
        self.batches.iter().map(|(waiting, batch)| Request { batch, policy: waiting.policy })
    }

    /// Gives each batch its outcome. A batch without an outcome is answered as after a panic.
    pub fn answer(mut self, outcomes: Vec<Result<Appended>>) {
        let answered = outcomes.len().min(self.batches.len());
        for ((waiting, batch), outcome) in self.batches.drain(..answered).zip(outcomes) {
            waiting.answer(outcome, batch);
        }
    }

    /// Gives all batches the same error.
    pub fn fail(self, error: &Error) {
        let outcomes = self.batches.iter().map(|_| Err(error.clone())).collect();
        self.answer(outcomes);
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        for (waiting, batch) in self.batches.drain(..) {
            waiting.answer(Err(Error::Abandoned { path: self.path.to_owned() }), batch);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Waiting>>,
    /// Bytes of all batches in the queue.
    bytes: usize,
    /// True while a thread is the leader.
    led: bool,
    /// Number of batches in the last group.
    last: usize,
    /// Batches that a leader expects: those of the last group, and those queued while it was committed.
    expected: usize,
    /// How long the last group took.
    took: Duration,
    /// True once the handle's committer is to end.
    closing: bool,
}

impl State {
    fn push(&mut self, waiting: &Arc<Waiting>) {
        self.bytes += waiting.bytes;
        self.waiting.push_back(Arc::clone(waiting));
    }

    fn pop(&mut self) -> Option<Arc<Waiting>> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }

    fn lead<'a>(&mut self, queue: &'a Queue) -> Leading<'a> {
        self.led = true;
        Leading { queue, began: Cell::new(None) }
    }

    /// True if the queue has as many batches as expected, or as many bytes as fit into a group.
    fn is_enough(&self) -> bool {
        self.waiting.len() >= self.expected || self.bytes >= GROUP_BYTES
    }
}

/// The queue of a handle: batches that wait to be committed.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// Queues a batch whose thread waits for its outcome.
    pub fn push(&self, waiting: &Arc<Waiting>) {
        self.state.lock().push(waiting);
    }

    /// Queues a batch for the committer. If the queue is full, waits for room; if no thread leads meanwhile,
    /// returns the lead instead of queueing the batch.
    pub fn push_for_later(&self, waiting: &Arc<Waiting>) -> Option<Leading<'_>> {
        let mut state = self.state.lock();
        while !state.waiting.is_empty() && state.bytes + waiting.bytes > WAITING_BYTES {
            if !state.led {
                return Some(state.lead(self));
            }
            self.changed.wait(&mut state);
        }
        state.push(waiting);
        drop(state);
        self.changed.notify_all();
        None
    }

    /// Waits until the batch has an outcome (`Break`), or until no thread leads and the caller becomes the
    /// leader (`Continue`).
    pub fn wait(&self, waiting: &Waiting) -> ControlFlow<(Result<Appended>, Batch), Leading<'_>> {
        let mut state = self.state.lock();
        loop {
            if let Some(done) = waiting.outcome() {
                return ControlFlow::Break(done);
            }
            if !state.led {
                return ControlFlow::Continue(state.lead(self));
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until the queue has a batch and no thread leads, and makes the caller the leader. `None` once
    /// the queue is closed and empty.
    pub fn wait_for_any(&self) -> Option<Leading<'_>> {
        let mut state = self.state.lock();
        loop {
            if !state.led {
                if !state.waiting.is_empty() {
                    return Some(state.lead(self));
                }
                if state.closing {
                    return None;
                }
            }
            self.changed.wait(&mut state);
        }
    }

    /// Lets [`Queue::wait_for_any`] end once the queue is empty.
    pub fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    /// Waits until [`Queue::close`] was called.
    #[cfg(test)]
    pub fn wait_for_close(&self) {
        let mut state = self.state.lock();
        while !state.closing {
            self.changed.wait(&mut state);
        }
    }
}

/// The lead: the right to commit the queue's batches. Dropping it, also in a panic, lets another thread lead.
#[derive(Debug)]
pub(crate) struct Leading<'a> {
    queue: &'a Queue,
    /// When the leader took its group.
    began: Cell<Option<Instant>>,
}

impl Leading<'_> {
    /// Takes the batches to commit together, in queue order; none if the queue is empty.
    pub fn group<'p>(&self, path: &'p Path) -> Group<'p> {
        self.began.set(Some(Instant::now()));
        let mut state = self.queue.state.lock();
        let mut bytes = 0;
        let mut group = Group { batches: Vec::with_capacity(state.waiting.len()), path };
        while let Some(waiting) = state.waiting.front() {
            bytes += waiting.bytes;
            if !group.batches.is_empty() && bytes > GROUP_BYTES {
                break;
            }
            if let Some(waiting) = state.pop()
                && let Some(batch) = waiting.take()
            {
                group.batches.push((waiting, batch));
            }
        }
        state.last = group.batches.len();
        group
    }

    /// Waits briefly for threads that were just answered to append again. Otherwise threads that fell into
    /// two groups would stay in two groups, each waiting for the other's flush.
    pub fn linger(&self) {
        let looks = {
            let state = self.queue.state.lock();
            if state.is_enough() {
                return;
            }
            looks(state.took)
        };
        let _punctual = Punctual::new();
        for _ in 0..looks {
            nap(LOOK);
            if self.queue.state.lock().is_enough() {
                return;
            }
        }
    }
}

/// How often a leader polls for the expected batches. The fewest polls in builds with the test scheduler,
/// which has no clock.
fn looks(took: Duration) -> u32 {
    let looks = if cfg!(vecstore_shuttle) { 0 } else { took.as_nanos() / (LOOK * SHARE).as_nanos() };
    u32::try_from(looks).unwrap_or(LOOKS.1).clamp(LOOKS.0, LOOKS.1)
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.led = false;
        state.took = self.began.get().map_or(Duration::ZERO, |began| began.elapsed());
        state.expected = std::mem::take(&mut state.last) + state.waiting.len();
        drop(state);
        self.queue.changed.notify_all();
    }
}
