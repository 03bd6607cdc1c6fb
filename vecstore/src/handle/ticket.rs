//! Appends that do not wait: the committer, and the ticket that gives a batch's outcome.

use std::fmt;
use std::sync::Arc;

use crate::base::Result;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::thread::{self, JoinHandle};
use crate::commit::Appended;
use crate::handle::{Shared, Waiting};
use crate::types::Batch;

/// The ticket of a batch that was given to [`Store::submit`](crate::Store::submit).
///
/// The batch is committed whether or not its ticket is waited for. Until [`Ticket::wait`] returns `Ok`, a
/// crash may lose the batch.
#[must_use = "an append that fails says so here only"]
pub struct Ticket {
    inner: Arc<Shared>,
    waiting: Arc<Waiting>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("is_done", &self.is_done()).finish_non_exhaustive()
    }
}

impl Ticket {
    pub(crate) fn new(inner: &Arc<Shared>, waiting: Arc<Waiting>) -> Self {
        Ticket { inner: Arc::clone(inner), waiting }
    }

    /// Waits until the batch is durable and visible, or until writing it has failed.
    ///
    /// # Errors
    /// As [`Store::append`](crate::Store::append).
    pub fn wait(self) -> Result<Appended> {
        self.wait_with_batch().0
    }

    /// Like [`Ticket::wait`], and hands the batch back: empty, with its memory for the next entries; after an
    /// error, unchanged.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("a", &[1.0f32])?;
    /// let ticket = store.submit(batch, OnDuplicate::Skip)?;
    /// if !ticket.is_done() {
    ///     // There is time for something else.
    /// }
    /// let (outcome, batch) = ticket.wait_with_batch();
    /// assert!(outcome?.commit.is_some() && batch.is_empty());
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn wait_with_batch(self) -> (Result<Appended>, Batch) {
        let (outcome, mut batch) = self.inner.complete(&self.waiting);
        if outcome.is_ok() {
            batch.clear();
            // This thread may have been the leader that committed the batch.
            self.inner.after_commit(true);
        } else {
            self.inner.observer.deliver();
        }
        (outcome, batch)
    }

    /// True if [`Ticket::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        self.waiting.is_done()
    }
}

/// The committer: a thread that commits submitted batches even if no thread waits for their tickets.
#[derive(Debug)]
pub(crate) struct Committer {
    thread: Option<JoinHandle<()>>,
    gone: Arc<AtomicBool>,
}

/// Sets a flag when the committer's thread ends, also in a panic.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Committer {
    /// Starts the committer. If no thread can be started, a thread that waits for a ticket commits.
    pub fn start(inner: &Arc<Shared>) -> Self {
        let (inner, gone) = (Arc::clone(inner), Arc::new(AtomicBool::new(false)));
        let running = Running(Arc::clone(&gone));
        let run = move || {
            let _running = running;
            inner.commit_queue();
        };
        let spawned = thread::Builder::new().name("vecstore-commit".to_owned()).spawn(run);
        if let Err(error) = &spawned {
            log::warn!("no thread for committing: {error}");
        }
        Committer { thread: spawned.ok(), gone }
    }

    /// True if the committer's thread could not be started, or has ended.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Ends the committer once the queue is empty.
    pub fn stop(self, inner: &Shared) {
        inner.queue.close();
        if let Some(thread) = self.thread
            && thread.join().is_err()
        {
            log::error!("the committer ended in a panic; what it had acknowledged is stored");
        }
        // Batches are left if there was no thread, or if it panicked.
        inner.commit_queue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::{Reader, Store};
    use crate::merge::Host;
    use crate::types::{OnDuplicate, StoreConfig};

    #[test]
    fn batches_in_the_queue_are_committed_when_the_store_is_closed_or_dropped() {
        for close in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            // A group takes at most 32 MiB: these two batches do not fit into one.
            let (dim, rows) = (1 << 16, 80);
            let store = Store::create(dir.path().join("s"), StoreConfig::new(dim)).unwrap();
            let inner = Arc::clone(&store.inner);
            let mut tickets = Vec::new();
            // No other thread commits while this one has the writer.
            let closing = inner.with_writer(|_, _| {
                for number in 0..2 {
                    let mut batch = store.batch();
                    (0..rows)
                        .try_for_each(|row| batch.push(format!("{number}/{row}"), &vec![1.0f32; dim]))?;
                    tickets.push(store.submit(batch, OnDuplicate::Error)?);
                }
                let end = move || {
                    if close {
                        return store.close();
                    }
                    drop(store);
                    Ok(())
                };
                let closing = std::thread::spawn(end);
                inner.queue.wait_for_close();
                assert!(!tickets.iter().any(Ticket::is_done));
                Ok(closing)
            });
            closing.unwrap().join().unwrap().unwrap();
            assert!(tickets.iter().all(Ticket::is_done));
            for ticket in tickets {
                assert_eq!(ticket.wait().unwrap().entries, rows);
            }
            let reader = Reader::open(dir.path().join("s")).unwrap();
            assert_eq!(reader.snapshot().last_commit(), 2);
        }
    }
}
