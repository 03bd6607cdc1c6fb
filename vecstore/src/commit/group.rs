//! The commit: how a group of batches becomes one durable, visible segment.
//!
//! 1. Take the commit lock (between processes).
//! 2. If another process committed since, bring the view up to date. If the last lock holder may not have
//!    flushed its names, flush the directory first: a visible name is not yet durable.
//! 3. Decide numbers, duplicates, kills and the link to the predecessor.
//! 4. Write a temporary file and flush its data.
//! 5. Rename it to its final name, without replacing; flush the directory.
//! 6. Raise LOCK's counter, release the lock, acknowledge.
//!
//! `docs/DURABILITY.md` argues what a crash leaves at each step.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::{Bug, Error, Result};
use crate::commit::{Overlay, Resolved, TMP_PREFIX, Writer, resolve};
use crate::format::footer::{Footer, Layout};
use crate::format::{random_ids, rejected};
use crate::lock::{Span, Timeout};
use crate::segment::{EncodedSegment, IN_MEMORY, Segment, SegmentBuilder};
use crate::state::View;
use crate::types::{Batch, Kind, OnDuplicate};
use crate::vfs::Mapping;

/// Commits after which a checkpoint is due.
const CHECKPOINT_EVERY: u64 = 64;
/// Bytes of segments after which a checkpoint is due: if a lock holder dies, the next one copies every
/// segment since the last checkpoint.
const CHECKPOINT_BYTES: u64 = 256 << 20;

/// What an append did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The batch's commit number; `None` if no entry was written.
    pub commit: Option<u64>,
    /// Entries written; deletions are not entries.
    pub entries: u64,
    /// Rows written.
    pub rows: u64,
    /// Entries not written: their key is stored already (for a deletion: is not stored), or a later entry of
    /// the batch replaces them.
    pub skipped: u64,
    /// Entries that replaced the stored entry of their key.
    pub replaced: u64,
    /// Keys deleted.
    pub deleted: u64,
}

/// A segment that this handle has committed, as it was written.
#[derive(Debug)]
pub(crate) struct Committed {
    path: PathBuf,
    layout: Layout,
    map: Option<Mapping>,
    /// The hashes of the segment's keys.
    hashes: Vec<u64>,
}

/// A batch of a group, and what to do about keys that are stored already.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub batch: &'a Batch,
    pub policy: OnDuplicate,
}

/// Decides the outcome of each batch of a group. Returns the outcomes, and the batches with entries to write.
fn resolve_group<'a>(view: &View, group: &[Request<'a>]) -> (Vec<Result<Appended>>, Vec<Resolved<'a>>) {
    let mut overlay = Overlay::default();
    let mut resolved: Vec<Resolved<'_>> = Vec::new();
    let mut next = view.last_commit() + 1;
    let mut outcomes = Vec::with_capacity(group.len());
    for (number, request) in group.iter().enumerate() {
        overlay.is_needed = number + 1 < group.len();
        outcomes.push(resolve(view, &mut overlay, request.batch, request.policy, next).map(|mut batch| {
            if batch.written.is_empty() {
                return batch.outcome;
            }
            batch.outcome.commit = Some(next);
            next += 1;
            let outcome = batch.outcome;
            resolved.push(batch);
            outcome
        }));
    }
    (outcomes, resolved)
}

/// Lays out the segment that follows the view's last segment.
fn encode<'a>(view: &View, batches: &[Resolved<'a>]) -> Result<EncodedSegment<'a>> {
    let meta = &view.meta;
    let first = view.last_commit() + 1;
    let row_bytes = meta.dim * meta.dtype.size();
    let mut builder = SegmentBuilder::new(batches.iter().map(|batch| batch.written.len()).sum());
    for (commit, batch) in (first..).zip(batches) {
        builder.begin_run(commit, 0, 0);
        for (hash, entry) in &batch.written {
            let rows = (entry.rows.len() / row_bytes) as u64;
            let payload = match entry.kind {
                Kind::Rejected => Cow::Owned(rejected::encode(entry.reason, entry.payload)),
                _ => Cow::Borrowed(entry.payload),
            };
            builder.push_hashed(*hash, entry.key, entry.kind, rows, &payload);
            entry.attributes.iter().try_for_each(|(name, value)| builder.add_attribute(name, &value))?;
        }
        match batch.all_rows() {
            Some((rows, scales)) => builder.add_rows(rows, scales),
            None => batch.written.iter().for_each(|(_, entry)| builder.add_rows(entry.rows, entry.scales)),
        }
        batch.kills.iter().for_each(|kill| builder.kill(*kill));
    }
    let mut identity = Footer::empty();
    identity.store_id = meta.store_id;
    identity.epoch = meta.epoch();
    [identity.nonce, identity.link_out] = random_ids()?;
    identity.link_in = view.link();
    identity.fingerprint = meta.fingerprint.as_ref().map_or([0; 32], |fingerprint| *fingerprint.id());
    identity.first = first;
    identity.last = view.last_commit() + batches.len() as u64;
    identity.dim = u32::try_from(meta.dim).map_err(|_| Error::internal("a dimension of 2^32 or more"))?;
    identity.dtype = meta.dtype.code();
    identity.metric = meta.metric.code();
    identity.time = crate::format::milliseconds();
    builder.finish(identity, meta.dtype, meta.segment_settings()?)
}

impl Writer {
    /// Commits a group of batches as one segment; `group` is called once the lock is held. Each batch gets
    /// its own outcome; a failure to write the segment fails every batch. Returns an error only if a lock was
    /// busy, or if there was no batch.
    pub fn commit_group<'g>(
        &mut self,
        timeout: &Timeout,
        view: &mut View,
        group: impl FnOnce() -> Vec<Request<'g>>,
    ) -> Result<Vec<Result<Appended>>> {
        let (mut outcomes, mut count) = (Vec::new(), 0);
        // When the lock is released, the group's segment is durable under its final name, or has failed.
        let committed = self.locked(timeout, view, |writer, view| {
            let group = group();
            count = group.len();
            writer.commit(view, &group, &mut outcomes)
        });
        self.take_in(view);
        match committed {
            Ok(()) => Ok(outcomes),
            Err(_) if Bug::AcknowledgeFailed.is_on() => Ok(outcomes),
            // Nothing was written: all locks are taken first.
            Err(error @ Error::Busy { .. }) => Err(error),
            Err(error) if count == 0 => Err(error),
            Err(error) => Ok(fail_all(error, count, outcomes)),
        }
    }

    /// Under the commit lock: writes the group as one segment, and the manifest if a checkpoint is due.
    fn commit(
        &mut self,
        view: &mut View,
        group: &[Request<'_>],
        outcomes: &mut Vec<Result<Appended>>,
    ) -> Result<()> {
        let (decided, resolved) = resolve_group(view, group);
        outcomes.extend(decided);
        if !resolved.is_empty() {
            self.begin_history(view)?;
            let written = resolved.iter().flat_map(|batch| &batch.written);
            self.write_segment(encode(view, &resolved)?, written.map(|(hash, _)| *hash).collect())?;
        }
        // Only a checkpoint writes the key filter of a large segment: without it, the next batches look up
        // each of their keys there.
        let is_large = self.committed.as_ref().is_some_and(|committed| committed.hashes.len() > IN_MEMORY);
        let is_due =
            self.since_checkpoint >= CHECKPOINT_EVERY || self.bytes_since_checkpoint >= CHECKPOINT_BYTES;
        if is_due || is_large {
            self.take_in(view);
            self.routine_checkpoint(view);
        }
        Ok(())
    }

    fn write_segment(&mut self, encoded: EncodedSegment<'_>, hashes: Vec<u64>) -> Result<()> {
        let name = encoded.name();
        let segments = self.segments();
        let verifies = self.verify_saves;
        let target = self.target(&segments, TMP_PREFIX, name, encoded.file_len());
        let written = target.publish(|file| {
            let layout = encoded.write(file)?;
            // With `verify_saves` the file is not mapped, because mapped pages stay in memory and it must be
            // read back from disk. A file that cannot be mapped here is mapped later, by its name.
            let map = if verifies { None } else { file.map(layout.footer.file_len).ok().flatten() };
            Ok((layout.footer, (layout, map)))
        });
        let (path, (footer, (layout, map))) = written.map_err(|error| self.in_doubt(name.first, error))?;
        self.flush_names(&segments, name.first)?;
        self.lock.raise_by(Span { first: name.first, last: name.last });
        self.committed = Some(Committed { path, layout, map, hashes });
        self.since_checkpoint += name.last - name.first + 1;
        self.bytes_since_checkpoint += footer.file_len;
        Ok(())
    }

    /// A backup that is written to begins a history of its own: a checkpoint records that before its first
    /// commit.
    fn begin_history(&mut self, view: &mut View) -> Result<()> {
        if view.meta.is_backup { self.checkpoint(view) } else { Ok(()) }
    }

    /// Adds the committed segment to the view. The batches are acknowledged whatever happens here: a segment
    /// that cannot be mapped now (too many open files, say) is found at the next listing of the directory.
    fn take_in(&mut self, view: &mut View) {
        let Some(Committed { path, layout, map, hashes }) = self.committed.take() else { return };
        let last = layout.footer.last;
        // The view is incomplete until it has the segment.
        let counter = self.counter.take();
        let added = Segment::written(&*self.vfs, &path, layout, map, &hashes)
            .and_then(|segment| view.add(Arc::new(segment), None));
        // Another process may have merged the segment already.
        if added.is_ok() || self.look_for(view, last) {
            self.counter = counter;
        }
    }
}

/// Fails every batch of a group with `error`, whatever its own outcome: a key that was refused or skipped
/// because of another batch of the group is not stored after all. Only an error in a batch itself stays.
fn fail_all(error: Error, count: usize, outcomes: Vec<Result<Appended>>) -> Vec<Result<Appended>> {
    let mut failed: Vec<Result<Appended>> = outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Err(own @ Error::InvalidArgument { .. }) => Err(own),
            _ => Err(error.clone()),
        })
        .collect();
    failed.resize_with(count, || Err(error.clone()));
    failed
}
