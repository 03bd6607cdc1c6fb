//! The commit: how a group of batches becomes one durable, visible segment.
//!
//! 1. Take the commit lock (between processes).
//! 2. Look whether others committed, or died trying; if so list the directory and flush it, because a name that is
//!    merely visible is not yet durable.
//! 3. Decide numbers, duplicates, kills and the link to the predecessor.
//! 4. Write a temporary file and flush its data.
//! 5. Rename it to its final name, without replacing; flush the directory.
//! 6. Raise LOCK's counter, release the lock, acknowledge.
//!
//! `docs/DURABILITY.md` argues each step crash point by crash point.

use std::sync::Arc;

use crate::bug::{Bug, unless};
use crate::format::footer::Footer;
use crate::format::{random_id, settings};
use crate::resolve::{Overlay, Resolved, resolve};
use crate::segment::{Segment, SegmentBuilder, SegmentName};
use crate::view::View;
use crate::writer::Writer;
use crate::{Batch, Error, OnDuplicate, Result};

/// Commits between two checkpoints of the manifest.
const CHECKPOINT_EVERY: u64 = 64;

/// What an append did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The batch's commit number; `None` when nothing was left to write.
    pub commit: Option<u64>,
    /// Entries written.
    pub entries: u64,
    /// Rows written.
    pub rows: u64,
    /// Entries left out because their key is stored (or, for deletions, is not).
    pub skipped: u64,
    /// Entries that superseded a stored one.
    pub replaced: u64,
    /// Keys deleted.
    pub deleted: u64,
}

/// A batch on its way, as the group sees it.
pub(crate) struct Request<'a> {
    pub batch: &'a Batch,
    pub policy: OnDuplicate,
}

impl Writer {
    /// Commits a group of batches as one segment. Each batch gets its own outcome; a failure of the file fails all
    /// that were part of it.
    pub fn commit_group(&mut self, view: &mut View, group: &[Request<'_>]) -> Vec<Result<Appended>> {
        let mut outcomes: Vec<Result<Appended>> = Vec::with_capacity(group.len());
        let committed = self.locked(view, |writer, view| {
            let mut overlay = Overlay::default();
            let mut resolved: Vec<Resolved<'_>> = Vec::new();
            let mut next = view.last_commit() + 1;
            for request in group {
                outcomes.push(resolve(view, &mut overlay, request.batch, request.policy, next).map(
                    |mut batch| {
                        let outcome = batch.outcome;
                        if batch.written.is_empty() {
                            return outcome;
                        }
                        batch.outcome.commit = Some(next);
                        next += 1;
                        let outcome = batch.outcome;
                        resolved.push(batch);
                        outcome
                    },
                ));
            }
            if resolved.is_empty() {
                return Ok(());
            }
            // What is written to a backup is a history of its own, and says so before its first commit.
            if view.meta.is_backup {
                writer.checkpoint(view)?;
            }
            writer.publish(view, &resolved)?;
            writer.since_checkpoint += resolved.len() as u64;
            if writer.since_checkpoint >= CHECKPOINT_EVERY {
                writer.routine_checkpoint(view);
            }
            Ok(())
        });
        match committed {
            Ok(()) => outcomes,
            Err(_) if Bug::AcknowledgeFailed.is_on() => outcomes,
            Err(error) => fail_all(error, group.len(), outcomes),
        }
    }

    /// Writes, names and flushes the segment of a group, and adds it to the view.
    fn publish(&mut self, view: &mut View, batches: &[Resolved<'_>]) -> Result<()> {
        let meta = Arc::clone(&view.meta);
        let first = view.last_commit() + 1;
        let last = view.last_commit() + batches.len() as u64;
        let row_bytes = meta.dim * meta.dtype.size();
        let mut builder = SegmentBuilder::new();
        for (commit, batch) in (first..).zip(batches) {
            builder.begin_run(commit, 0, 0);
            for entry in &batch.written {
                builder.push(entry.key, entry.kind, (entry.rows.len() / row_bytes) as u64, entry.payload);
                builder.add_rows(entry.rows, entry.scales);
            }
            batch.kills.iter().for_each(|kill| builder.kill(*kill));
        }
        let mut identity = Footer::empty();
        identity.store_id = meta.store_id;
        identity.epoch = meta.epoch();
        identity.nonce = random_id()?;
        identity.link_in = view.link();
        identity.link_out = random_id()?;
        identity.fingerprint = meta.fingerprint.as_ref().map_or([0; 32], |fingerprint| *fingerprint.id());
        identity.first = first;
        identity.last = last;
        identity.dim = u32::try_from(meta.dim).unwrap_or(u32::MAX);
        identity.dtype = meta.dtype.code();
        identity.metric = meta.metric.code();
        let encoded = builder.finish(identity, meta.dtype, segment_settings(&meta)?);
        let name = SegmentName { first, last, generation: 0 };
        let segments = self.segments();
        if Bug::FlushBeforeName.is_on() {
            self.flush_names(&segments, first)?;
        }
        let written = self.target(&segments, name, encoded.file_len()).publish(|file| encoded.write(file));
        let path = written.map_err(|error| self.in_doubt(first, error))?;
        if Bug::UnlockBeforeFlush.is_on() {
            self.lock.raise();
            self.lock.release();
        }
        if !Bug::FlushBeforeName.is_on() {
            unless(Bug::SegmentName, || self.flush_names(&segments, first))?;
        }
        self.lock.raise();

        // Durable from here on: whatever happens now, the batches are acknowledged. A segment that cannot be
        // mapped at this moment (too many open files, say) is picked up by the next look at the directory.
        let added =
            Segment::open(&*self.vfs, &path, name).and_then(|segment| view.add(Arc::new(segment), None));
        if let Err(error) = added {
            log::warn!("the commit is durable, but reading it back failed and will be repeated: {error}");
            self.counter = None;
        }
        Ok(())
    }
}

/// The settings section of a segment: the user's settings, and the fingerprint's description.
fn segment_settings(meta: &crate::view::Meta) -> Result<Vec<u8>> {
    let mut all = meta.settings.clone();
    if let Some(fingerprint) = &meta.fingerprint {
        all.insert(settings::FINGERPRINT.to_owned(), fingerprint.description().to_owned());
    }
    settings::encode(&all)
}

/// A failure of the group is that of every batch in it, whatever was decided for it: a key that was refused, or skipped,
/// for a batch of the same group is not stored after all. Only what is wrong with a batch itself stays.
fn fail_all(error: Error, count: usize, outcomes: Vec<Result<Appended>>) -> Vec<Result<Appended>> {
    let mut failed: Vec<Result<Appended>> = outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Err(own @ Error::BadInput { .. }) => Err(own),
            _ => Err(error.clone()),
        })
        .collect();
    failed.resize_with(count, || Err(error.clone()));
    failed
}
