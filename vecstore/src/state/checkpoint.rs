//! Checkpoints: the manifest brought up to date.

use std::sync::Arc;
use std::time::Duration;

use crate::base::Event;
use crate::base::bug::Bug;
use crate::base::error::IoContext;
use crate::base::{Error, Result};
use crate::care::repair;
use crate::commit::session::Writer;
use crate::state::live::{self, BitmapName, LIVE, LiveRecord};
use crate::state::load;
use crate::state::manifest::{Manifest, SegmentRecord, TMP_PREFIX};
use crate::state::named::CHECKPOINTS;
use crate::state::view::View;

/// Kills that are not in any bitmap yet, from which on a checkpoint that nobody asked for writes bitmaps too. Replaying
/// this many takes some milliseconds; a bitmap costs a flush, and they can be as many as segments.
const MANY_KILLS: u64 = 1 << 16;

/// How long LOCK.manifest is waited for under the commit lock, for which all who commit have to wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);
/// Commits after a checkpoint from which on it is told that there is none.
const OVERDUE: u64 = 1024;

/// What a checkpoint does with liveness bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bitmaps {
    /// Brings all of them up to date.
    All,
    /// Leaves them as they are while few kills came since: the record says up to where they go.
    WhenMany,
}

impl Writer {
    /// Writes the manifest: the list on disk, read again, plus the commits after it; and liveness bitmaps.
    pub fn checkpoint(&mut self, view: &mut View) -> Result<()> {
        self.write_manifest(view, Bitmaps::All, PATIENCE, |_| Ok(()))
    }

    /// Writes the manifest, and bitmaps only when there is much to gain.
    pub fn list_commits(&mut self, view: &mut View) -> Result<()> {
        self.write_manifest(view, Bitmaps::WhenMany, PATIENCE, |_| Ok(()))
    }

    /// A checkpoint that nobody asked for: its failure is told, louder each time, and repeated after the next commit.
    /// The commits are durable without it.
    pub fn routine_checkpoint(&mut self, view: &mut View) {
        match self.write_manifest(view, Bitmaps::WhenMany, Duration::ZERO, |_| Ok(())) {
            Ok(()) => self.failed_checkpoints = 0,
            // All who commit would wait. Its holder will be done by one of the next commits.
            Err(Error::Busy { .. }) if self.since_checkpoint < OVERDUE => {}
            Err(error) => {
                self.failed_checkpoints += 1;
                self.events.push(Event::CheckpointFailed { attempts: self.failed_checkpoints, error });
            }
        }
    }

    /// Replaces the manifest by one derived from the one on disk: commits are appended, then `change` is applied.
    ///
    /// Called under the commit lock.
    pub fn update_manifest(
        &mut self,
        view: &mut View,
        change: impl FnOnce(&mut Manifest) -> Result<()>,
    ) -> Result<()> {
        self.write_manifest(view, Bitmaps::WhenMany, PATIENCE, change)
    }

    fn write_manifest(
        &mut self,
        view: &mut View,
        bitmaps: Bitmaps,
        patience: Duration,
        change: impl FnOnce(&mut Manifest) -> Result<()>,
    ) -> Result<()> {
        let patience = self.timeout.left(Duration::ZERO).min(patience);
        self.manifest_lock.acquire_named(patience)?;
        let result = self.replace_manifest(view, bitmaps, change);
        self.manifest_lock.release();
        result
    }

    fn replace_manifest(
        &mut self,
        view: &mut View,
        bitmaps: Bitmaps,
        change: impl FnOnce(&mut Manifest) -> Result<()>,
    ) -> Result<()> {
        let vfs = Arc::clone(&self.vfs);
        for dir in [self.dir.clone(), self.dir.join(LIVE), self.dir.join(CHECKPOINTS)] {
            self.remove_temporaries(&dir, TMP_PREFIX);
        }
        let mut manifest = Manifest::read(&*vfs, &self.dir)?;
        if manifest.body.store_id != view.meta.store_id {
            return Err(Error::Moved { path: self.dir.clone(), found: "another store was put in its place" });
        }
        let from = manifest.body.last_commit() + 1;
        if manifest.body.is_backup() {
            // What is written to a backup is a history of its own. Files that an interrupted backup brought are not part
            // of it.
            self.set_aside_from(from)?;
            match Bug::NoEpochBackup.is_on() {
                true => drop(manifest.body.extra.remove(crate::state::manifest::BACKUP_RECORD)),
                false => manifest.body.begin_epoch()?,
            }
        }
        let mut fresh_rows = 0;
        let mut fresh = Vec::new();
        for live in view.segments.iter().filter(|live| live.segment.name().first >= from) {
            let record = SegmentRecord::of(&live.segment);
            // What is listed is there, as it was written.
            let path = live.segment.path();
            let found = vfs.metadata(path).at(path, "look at the segment")?;
            if found.len != record.file_len {
                let detail = format!("expected a file of {} bytes, found {}", record.file_len, found.len);
                return Err(Error::damaged(path, "file", detail));
            }
            fresh_rows += live.segment.footer().rows;
            fresh.push(record);
        }
        manifest.body.segments.extend_from_slice(&fresh);
        manifest.generation += 1;
        change(&mut manifest)?;
        let superseded = live::named(&manifest.body);
        let written = self.bring_bitmaps(view, &mut manifest, bitmaps);
        if Bug::RemoveBitmapsEarly.is_on() {
            let _ = live::remove_unlisted(&*vfs, &self.dir, &manifest, superseded.clone());
        }
        // Names that the manifest lists were flushed before: our own when they were committed, those of others in
        // `catch_up`, those of bitmaps just now.
        if let Err(error) = manifest.replace(&*vfs, &self.dir) {
            live::discard_unlisted(&*vfs, &self.dir, &manifest, written.as_deref().unwrap_or_default());
            return Err(error);
        }
        let dir = self.dir.clone();
        if let Err(error) = self.flush_names(&dir, view.first_unlisted()) {
            if !Bug::NoManifestMark.is_on() {
                self.manifest_lock.mark_suspect(1);
            }
            return Err(error);
        }
        self.manifest_lock.clear_suspect();
        // Only now: had the new manifest not been durable, a power cut would bring back the one that needs them.
        if let Err(error) = live::remove_unlisted(&*vfs, &self.dir, &manifest, superseded) {
            log::warn!("superseded liveness bitmaps stay where they are: {error}");
        }
        if let Some(last) = fresh.last() {
            self.events.push(Event::Checkpoint {
                first: from,
                last: last.last,
                rows: fresh_rows,
                bytes: fresh.iter().map(|record| record.file_len).sum(),
            });
        }
        view.covered = LiveRecord::of(&manifest.body).map_or(0, |record| record.last);
        view.distrusts_bitmaps &= written.is_none();
        view.manifest_generation = manifest.generation;
        view.manifest_last = manifest.body.last_commit();
        view.meta = Arc::new(crate::state::view::Meta::of(&manifest.body));
        (self.since_checkpoint, self.bytes_since_checkpoint) = (0, 0);
        Ok(())
    }

    /// Brings the liveness bitmaps of a manifest that lists everything up to date, and returns those it wrote; `None` when
    /// they are left as they are. They can be derived, so that they cannot be written is no failure of the checkpoint: the
    /// record that the manifest has says itself how far it goes.
    fn bring_bitmaps(
        &self,
        view: &mut View,
        manifest: &mut Manifest,
        bitmaps: Bitmaps,
    ) -> Option<Vec<BitmapName>> {
        let covered = LiveRecord::of(&manifest.body).map_or(0, |record| record.last);
        let many = view.distrusts_bitmaps || view.kills_after(covered) > MANY_KILLS;
        if bitmaps == Bitmaps::WhenMany && !many {
            return None;
        }
        let brought = self.as_listed(view, manifest).and_then(|()| {
            let (segments, last) = (view.segments.iter(), view.last_commit());
            let trust = !view.distrusts_bitmaps;
            let published = live::publish(&*self.vfs, &self.dir, &manifest.body, segments, last, trust)?;
            published.record.put(&mut manifest.body)?;
            Ok(published.written)
        });
        brought
            .inspect_err(|error| {
                log::warn!("no liveness bitmaps with this checkpoint, opening reads more instead: {error}");
            })
            .ok()
    }

    /// Makes the view consist of the very files that the manifest lists: another handle may have merged some that this
    /// one still reads, and bitmaps are about files.
    fn as_listed(&self, view: &mut View, manifest: &Manifest) -> Result<()> {
        let ours = view.segments.iter().map(|live| SegmentRecord::of(&live.segment));
        if !ours.eq(manifest.body.segments.iter().copied()) {
            let listed = load::listed(&*self.vfs, &self.dir, manifest, Some(view))?;
            view.segments = listed.segments;
            view.totals = listed.totals;
            view.distrusts_bitmaps = listed.distrusts_bitmaps;
        }
        Ok(())
    }

    /// Moves segments from a commit on to quarantine/: no manifest ever listed them.
    fn set_aside_from(&mut self, first: u64) -> Result<()> {
        let mut beyond = load::list_segments(&*self.vfs, &self.dir)?;
        beyond.retain(|name| name.last >= first);
        repair::move_aside(&*self.vfs, &self.dir, &beyond)?;
        // Should they come back, they would follow the manifest in another epoch.
        self.flush_names(&self.segments(), first)
    }
}
