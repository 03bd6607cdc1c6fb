//! Appends that do not wait: the committer, and the ticket by which its outcome is asked for.

use std::fmt;
use std::sync::Arc;

use crate::base::Result;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::thread::{self, JoinHandle};
use crate::commit::Appended;
use crate::handle::{Shared, Waiting};
use crate::types::Batch;

/// A batch that [`Store::append_async`](crate::Store::append_async) has taken on.
///
/// It is committed whether or not its ticket is waited for. Until [`Ticket::wait`] has said so it may be lost in a crash.
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

    /// Waits until the batch is durable and visible, or could not be written.
    ///
    /// # Errors
    /// As [`Store::append`](crate::Store::append).
    pub fn wait(self) -> Result<Appended> {
        self.wait_with_batch().0
    }

    /// The same, and hands the batch back: empty, with its memory for the next entries, or after an error as it was.
    pub fn wait_with_batch(self) -> (Result<Appended>, Batch) {
        let (outcome, mut batch) = self.inner.complete(&self.waiting);
        if outcome.is_ok() {
            batch.clear();
            // It may have been this thread that committed it.
            self.inner.after_commit(true);
        }
        (outcome, batch)
    }

    /// True when [`Ticket::wait`] would not wait.
    pub fn is_done(&self) -> bool {
        self.waiting.is_done()
    }
}

/// The thread that commits batches whose tickets are not waited for.
#[derive(Debug)]
pub(crate) struct Committer {
    thread: Option<JoinHandle<()>>,
    gone: Arc<AtomicBool>,
}

/// Says that the thread has ended, also when it panicked.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Committer {
    /// Starts it. Where there is no further thread, a thread that waits for a ticket commits.
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

    /// There is no such thread: it could not be started, or has panicked.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Ends the thread once everything is committed.
    pub fn stop(self, inner: &Shared) {
        inner.queue.close();
        if let Some(thread) = self.thread
            && thread.join().is_err()
        {
            log::error!("the committer ended in a panic; what it had acknowledged is stored");
        }
        // What is left if there was none, or it panicked.
        inner.commit_queue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Store;
    use crate::merge::Host;
    use crate::types::{OnDuplicate, StoreConfig};

    #[test]
    fn what_waits_when_the_store_is_closed_or_dropped_is_committed() {
        for close in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            // A group takes 32 MiB: these two do not fit into one.
            let (dim, rows) = (1 << 16, 80);
            let store = Store::create(dir.path().join("s"), StoreConfig::new(dim)).unwrap();
            let inner = Arc::clone(&store.inner);
            let mut tickets = Vec::new();
            // While this thread has the writer, no other commits.
            let closing = inner.with_writer("test", |_, _| {
                for number in 0..2 {
                    let mut batch = store.batch();
                    (0..rows)
                        .try_for_each(|row| batch.push(format!("{number}/{row}"), &vec![1.0f32; dim]))?;
                    tickets.push(store.append_async(batch, OnDuplicate::Error)?);
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
            let reader = Store::open_read_only(dir.path().join("s")).unwrap();
            assert_eq!(reader.snapshot().last_commit(), 2);
        }
    }
}
