//! The batches that threads of one handle want to commit: one thread at a time leads, and commits what waits, its own
//! batch and those of the others; the others sleep until theirs are done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, nap};
use crate::{Appended, Batch, OnDuplicate, Result};

/// A group of batches is cut at this many bytes, so that no one waits for a giant file.
const GROUP_BYTES: usize = 32 << 20;
/// How often, and how long each time, whoever leads waits for a group as large as the last one: threads that were just
/// answered are about to come back, and a flush that they miss costs them ten times as long.
const LINGER: (u32, Duration) = (3, Duration::from_micros(20));

/// A batch that waits to be committed, and its outcome.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub batch: Arc<Batch>,
    pub policy: OnDuplicate,
    outcome: Mutex<Option<Result<Appended>>>,
}

impl Ticket {
    pub fn new(batch: Arc<Batch>, policy: OnDuplicate) -> Arc<Self> {
        Arc::new(Ticket { batch, policy, outcome: Mutex::new(None) })
    }

    /// Says what became of it.
    pub fn answer(&self, outcome: Result<Appended>) {
        *self.outcome.lock() = Some(outcome);
    }

    /// What became of it, told once.
    pub fn outcome(&self) -> Option<Result<Appended>> {
        self.outcome.lock().take()
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Ticket>>,
    /// Somebody leads.
    led: bool,
    /// Batches of the last group.
    last: usize,
}

/// The batches of a handle that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

/// What a thread does with its ticket.
pub(crate) enum Turn<'a> {
    /// Another thread has seen to it.
    Done(Result<Appended>),
    /// It leads until this is dropped.
    Lead(Leading<'a>),
}

impl Queue {
    /// Puts a batch into the queue.
    pub fn push(&self, ticket: &Arc<Ticket>) {
        self.state.lock().waiting.push_back(Arc::clone(ticket));
    }

    /// Waits until the ticket has an outcome, or nobody leads.
    pub fn wait(&self, ticket: &Ticket) -> Turn<'_> {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = ticket.outcome() {
                return Turn::Done(outcome);
            }
            if !state.led {
                state.led = true;
                return Turn::Lead(Leading { queue: self });
            }
            self.changed.wait(&mut state);
        }
    }
}

/// The right to commit what waits. Ends when it is dropped, also by a panic: somebody else then leads.
#[derive(Debug)]
pub(crate) struct Leading<'a> {
    queue: &'a Queue,
}

impl Leading<'_> {
    /// Takes what is to be committed together, in order; empty when nothing waits.
    pub fn group(&self) -> Vec<Arc<Ticket>> {
        for _ in 0..LINGER.0 {
            let state = self.queue.state.lock();
            let enough = state.waiting.len() >= state.last;
            drop(state);
            if enough {
                break;
            }
            nap(LINGER.1);
        }
        let mut state = self.queue.state.lock();
        let mut bytes = 0;
        let mut group: Vec<Arc<Ticket>> = Vec::new();
        while let Some(ticket) = state.waiting.front() {
            bytes += ticket.batch.byte_len();
            if !group.is_empty() && bytes > GROUP_BYTES {
                break;
            }
            group.extend(state.waiting.pop_front());
        }
        state.last = group.len();
        group
    }

    /// True when this batch waits.
    pub fn has(&self, ticket: &Arc<Ticket>) -> bool {
        self.queue.state.lock().waiting.iter().any(|waiting| Arc::ptr_eq(waiting, ticket))
    }

    /// Takes a batch out of the queue that is not to be committed any more.
    pub fn forget(&self, ticket: &Arc<Ticket>) {
        self.queue.state.lock().waiting.retain(|waiting| !Arc::ptr_eq(waiting, ticket));
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.queue.state.lock().led = false;
        self.queue.changed.notify_all();
    }
}
