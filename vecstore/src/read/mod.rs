//! Reading: snapshots, entries, missing keys, search.

use std::num::NonZeroUsize;

use crate::base::Result;
use crate::base::sync::{spawn_scoped, thread};

mod copy;
pub(crate) mod entry;
mod export;
mod iter;
pub(crate) mod missing;
pub(crate) mod search;
mod segment;
pub(crate) mod snapshot;

pub(crate) use entry::SimpleEntries;
pub use entry::{Entry, OwnedEntry};
pub use iter::{IntoIter, Iter};
pub use search::{Hit, SearchOptions};
pub use segment::{Segment, SegmentInfo};
pub use snapshot::Snapshot;

/// Divides work among at most `useful` threads, and returns their answers in the order of the work. `run`
/// gets the index of its first piece, and its pieces.
fn in_parts<T: Sync, A: Send>(
    work: &[T],
    useful: usize,
    run: impl Fn(usize, &[T]) -> Result<A> + Sync,
) -> Result<Vec<A>> {
    let threads = match useful {
        // Counting the cores reads files of the system, which takes longer than a little work.
        0 | 1 => return Ok(vec![run(0, work)?]),
        useful => useful.min(cores()),
    };
    let (run, each) = (&run, work.len().div_ceil(threads).max(1));
    thread::scope(|scope| {
        let parts = work.chunks(each).enumerate().map(|(number, part)| move || run(number * each, part));
        // If the system starts no further thread, this thread does the part.
        let started: Vec<_> = parts.map(|part| spawn_scoped(scope, part).map_err(|_| part)).collect();
        let done = started.into_iter().map(|thread| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(part) => part(),
        });
        done.collect()
    })
}

/// Number of threads that this machine can run at the same time.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
