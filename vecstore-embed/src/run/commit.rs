//! Last stage, on one thread: batches become durable.
//!
//! Vectors are committed while the model works on the next batch. A batch counts as done only when the store has
//! acknowledged it, so what the progress shows is what a power cut leaves.

use crossbeam_channel::Receiver;
use vecstore::Store;

use super::infer::Output;
use super::save::Saver;
use super::shared::Shared;
use crate::Result;

/// Appends every batch until there are no more.
pub(crate) fn commit(outputs: Receiver<Output>, store: &Store, shared: &Shared) -> Result<()> {
    let mut saver = Saver::new(store, shared);
    for output in outputs {
        saver.save(output)?;
    }
    saver.touch()
}
