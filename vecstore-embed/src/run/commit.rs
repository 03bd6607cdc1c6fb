//! Last stage, on one thread: batches become durable.
//!
//! Vectors are committed while the model works on the next batch. A batch counts as done only when
//! [`Store::append`] has returned, so what the progress shows is what a power cut leaves.

use crossbeam_channel::Receiver;
use vecstore::{Batch, OnDuplicate, Store};

use super::feed::Job;
use super::infer::Output;
use super::shared::Shared;
use crate::Result;

/// Longest reason that is recorded with a rejected input, in bytes.
const MAX_REASON: usize = 500;

/// Appends every batch until there are no more.
pub(crate) fn commit(outputs: Receiver<Output>, store: &Store, shared: &Shared) -> Result<()> {
    for output in outputs {
        let (batch, rejected) = batch(store, output)?;
        let appended = store.append(batch, OnDuplicate::Skip)?;
        shared.update(|tally| {
            tally.progress.embedded += appended.rows;
            tally.progress.rejected += appended.entries.saturating_sub(appended.rows);
            tally.progress.overtaken += appended.skipped;
            tally.progress.commits += u64::from(appended.commit.is_some());
            for (job, reason) in &rejected {
                log::info!("{}: rejected: {reason}", job.path.display());
                tally.rejections.push(&job.path, reason);
            }
        });
    }
    Ok(())
}

/// The batch for the store. Vectors that it cannot hold (not finite, or beyond the range of its elements) make rejected inputs.
fn batch(store: &Store, output: Output) -> Result<(Batch, Vec<(Job, String)>)> {
    let mut batch = store.batch();
    let mut rejected = output.rejected;
    for (job, vector) in output.embedded.into_iter().zip(output.vectors.chunks(store.dim().max(1))) {
        if !vector.iter().all(|element| element.is_finite()) {
            rejected.push((job, "the model's output for it is not finite".to_owned()));
            continue;
        }
        match batch.push_converted(&job.key, vector, b"") {
            Ok(()) => {}
            Err(vecstore::Error::BadInput { .. }) => {
                rejected.push((
                    job,
                    format!("the model's output for it is beyond the range of {}", store.dtype()),
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    for (job, reason) in &mut rejected {
        shorten(reason);
        batch.push_rejected(&job.key, reason)?;
    }
    Ok((batch, rejected))
}

fn shorten(reason: &mut String) {
    if let Some((at, _)) = reason.char_indices().take_while(|(at, _)| *at <= MAX_REASON).last()
        && reason.len() > MAX_REASON
    {
        reason.truncate(at);
        reason.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let mut reason = "ä".repeat(MAX_REASON);
        shorten(&mut reason);
        assert!(reason.len() <= MAX_REASON + '…'.len_utf8() && reason.ends_with("ä…"));
        let mut short = "x".repeat(MAX_REASON);
        shorten(&mut short);
        assert_eq!(short.len(), MAX_REASON);
    }
}
