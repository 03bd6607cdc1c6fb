//! The batches that threads of one handle want to commit: one thread at a time leads, and commits what waits, its own
//! batch and those of the others; the other threads sleep until theirs are done, or go on and ask later.

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
/// What a batch takes in memory beside its rows, keys and payloads: its own fields, and what its entries need while it waits.
const COST: usize = 512;
/// Bytes that may wait for the committer before `append_async` waits too.
const WAITING_BYTES: usize = 64 << 20;
/// Time between two looks of a leader that waits for the threads it has just answered: they are likely to append again, and
/// would wait much longer for a flush that they miss.
const LOOK: Duration = Duration::from_micros(20);
/// A leader waits for at most this part (a third) of the time that the last group took.
const SHARE: u32 = 3;
/// The fewest and the most looks.
const LOOKS: (u32, u32) = (4, 50);

/// A batch that waits to be committed, and then its outcome.
#[derive(Debug)]
pub(crate) struct Waiting {
    policy: OnDuplicate,
    /// Bytes of the batch.
    bytes: usize,
    place: Mutex<Place>,
}

/// Where the batch is.
#[derive(Debug)]
enum Place {
    /// Here, until a leader takes it.
    Queued(Batch),
    /// With the leader, or with the thread that was told the outcome.
    Away,
    /// Back.
    Done(Result<Appended>, Batch),
}

impl Waiting {
    pub fn new(batch: Batch, policy: OnDuplicate) -> Arc<Self> {
        let bytes = batch.byte_len() + COST;
        Arc::new(Waiting { policy, bytes, place: Mutex::new(Place::Queued(batch)) })
    }

    /// Takes the batch, to commit it.
    fn take(&self) -> Option<Batch> {
        let mut place = self.place.lock();
        match std::mem::replace(&mut *place, Place::Away) {
            Place::Queued(batch) => Some(batch),
            other => {
                *place = other;
                None
            }
        }
    }

    /// Answers it with an error, unless a leader has it or has answered it.
    fn fail(&self, error: &Error) {
        if let Some(batch) = self.take() {
            self.answer(Err(error.clone()), batch);
        }
    }

    /// Gives the batch back, with what became of it.
    fn answer(&self, outcome: Result<Appended>, batch: Batch) {
        *self.place.lock() = Place::Done(outcome, batch);
    }

    /// True when it has an outcome that was not told yet.
    pub fn is_done(&self) -> bool {
        matches!(*self.place.lock(), Place::Done(..))
    }

    /// What became of it, told once.
    fn outcome(&self) -> Option<(Result<Appended>, Batch)> {
        let mut place = self.place.lock();
        match std::mem::replace(&mut *place, Place::Away) {
            Place::Done(outcome, batch) => Some((outcome, batch)),
            other => {
                *place = other;
                None
            }
        }
    }
}

/// The batches that a leader commits. Should it panic they are answered all the same.
pub(crate) struct Group<'a> {
    batches: Vec<(Arc<Waiting>, Batch)>,
    path: &'a Path,
}

impl Group<'_> {
    /// What the commit is asked for, in order.
    pub fn requests(&self) -> impl Iterator<Item = Request<'_>> {
        self.batches.iter().map(|(waiting, batch)| Request { batch, policy: waiting.policy })
    }

    /// Tells each thread what became of its batch. One without an outcome is answered as after a panic.
    pub fn answer(mut self, outcomes: Vec<Result<Appended>>) {
        let answered = outcomes.len().min(self.batches.len());
        for ((waiting, batch), outcome) in self.batches.drain(..answered).zip(outcomes) {
            waiting.answer(outcome, batch);
        }
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
    /// Bytes of all of them.
    bytes: usize,
    /// A thread leads.
    led: bool,
    /// Batches of the last group.
    last: usize,
    /// Those, and what had come in meanwhile.
    expected: usize,
    /// How long the last group took.
    took: Duration,
    /// The handle's committer is to end.
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

    /// True when as many batches wait as are expected, or as fit into a group.
    fn is_enough(&self) -> bool {
        self.waiting.len() >= self.expected || self.bytes >= GROUP_BYTES
    }
}

/// The batches of a handle that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// Puts a batch into the queue, for a thread that waits for it.
    pub fn push(&self, waiting: &Arc<Waiting>) {
        self.state.lock().push(waiting);
    }

    /// Puts a batch into the queue, for the committer. If too many bytes wait already, waits until they do not, or
    /// returns the right to commit them.
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

    /// Waits until a batch has an outcome, and ends with it and the batch; or until no thread leads, and goes on as the leader.
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

    /// Waits until there is something to commit, and no thread leads. `None` once the queue is empty after [`Queue::close`].
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

    /// Lets [`Queue::wait_for_any`] end when nothing waits any more.
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

/// The right to commit what waits. Ends when it is dropped, also by a panic: another thread then leads.
#[derive(Debug)]
pub(crate) struct Leading<'a> {
    queue: &'a Queue,
    /// When its group was taken.
    began: Cell<Option<Instant>>,
}

impl Leading<'_> {
    /// Takes what is to be committed together, in order; empty when nothing waits.
    pub fn group<'p>(&self, path: &'p Path) -> Group<'p> {
        self.linger();
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

    /// Waits a little for the threads that were just answered. Otherwise threads that fell into two groups would stay in
    /// two groups, each of which waits for the other's flush.
    fn linger(&self) {
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

    /// Answers whatever waits with an error.
    pub fn fail_all(&self, error: &Error) {
        let mut state = self.queue.state.lock();
        while let Some(waiting) = state.pop() {
            waiting.fail(error);
        }
    }

    /// Takes this batch out of the queue, and answers it with an error.
    pub fn fail(&self, batch: &Arc<Waiting>, error: &Error) {
        let mut state = self.queue.state.lock();
        let before = state.waiting.len();
        state.waiting.retain(|waiting| !Arc::ptr_eq(waiting, batch));
        if state.waiting.len() < before {
            state.bytes -= batch.bytes;
        }
        drop(state);
        batch.fail(error);
    }
}

/// How often to look for the expected batches. The scheduler of a test build has no clock.
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
