//! When the manifest is written, and under which locks.

use std::sync::Arc;
use std::time::Duration;

use super::session::Writer;
use crate::base::{Bug, Error, Event, Result};
use crate::state::{Bitmaps, Manifest, View, checkpoint};

/// How long a lock holder waits for LOCK.manifest: all commits wait meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// Commits without a checkpoint from which on a busy LOCK.manifest is reported.
const OVERDUE: u64 = 1024;

impl Writer {
    /// Writes the manifest (the list on disk, read again, plus the commits after it), and brings all liveness
    /// bitmaps up to date.
    pub fn checkpoint(&mut self, view: &mut View) -> Result<()> {
        self.under_manifest_lock(PATIENCE, |writer| writer.replace_manifest(view, Bitmaps::All, |_| Ok(())))
    }

    /// Writes the manifest, and liveness bitmaps only if many kills came since.
    pub fn list_commits(&mut self, view: &mut View) -> Result<()> {
        let write = |writer: &mut Self| writer.replace_manifest(view, Bitmaps::WhenMany, |_| Ok(()));
        self.under_manifest_lock(PATIENCE, write)
    }

    /// Writes a checkpoint that the user did not ask for. A failure is reported as an event that counts the
    /// attempts, and the next commit tries again; the commits are durable without a checkpoint.
    pub fn routine_checkpoint(&mut self, view: &mut View) {
        let write = |writer: &mut Self| writer.replace_manifest(view, Bitmaps::WhenMany, |_| Ok(()));
        match self.under_manifest_lock(Duration::ZERO, write) {
            Ok(()) => self.failed_checkpoints = 0,
            // Waiting would hold up all commits. LOCK.manifest is likely to be free at one of the next
            // commits.
            Err(Error::Busy { .. }) if self.since_checkpoint < OVERDUE => {}
            Err(error) => {
                self.failed_checkpoints += 1;
                self.events.push(Event::CheckpointFailed { attempts: self.failed_checkpoints, error });
            }
        }
    }

    /// Replaces the manifest: reads the one on disk, appends the commits after it, applies `change`, and
    /// raises LOCK's counter so that other processes notice. Called under the commit lock.
    pub fn update_manifest(
        &mut self,
        view: &mut View,
        change: impl FnOnce(&mut Manifest) -> Result<()>,
    ) -> Result<()> {
        self.under_manifest_lock(PATIENCE, |writer| {
            writer.replace_manifest(view, Bitmaps::WhenMany, change)
        })?;
        self.lock.raise();
        Ok(())
    }

    /// Runs `work` under LOCK.manifest, in addition to the commit lock.
    pub(super) fn under_manifest_lock<T>(
        &mut self,
        patience: Duration,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let patience = self.timeout.left(Duration::ZERO).min(patience);
        self.manifest_lock.acquire_named(patience)?;
        let result = work(self);
        self.manifest_lock.release();
        result
    }

    /// Writes the manifest with `change` applied. Called under the commit lock and LOCK.manifest.
    pub(super) fn replace_manifest(
        &mut self,
        view: &mut View,
        bitmaps: Bitmaps,
        change: impl FnOnce(&mut Manifest) -> Result<()>,
    ) -> Result<()> {
        let (vfs, dir, first) = (Arc::clone(&self.vfs), self.dir.clone(), view.first_unlisted());
        let event = checkpoint::write(&*vfs, &dir, view, bitmaps, change, |folder| {
            let flushed = self.flush_names(folder, first);
            // The manifest's own name is in the store's directory: that flush decides about the mark in
            // LOCK.manifest.
            match &flushed {
                Ok(()) if *folder == dir => self.manifest_lock.clear_suspect(),
                Err(_) if *folder == dir && !Bug::NoManifestMark.is_on() => {
                    self.manifest_lock.mark_suspect(1)
                }
                _ => {}
            }
            flushed
        })?;
        self.events.extend(event);
        (self.since_checkpoint, self.bytes_since_checkpoint) = (0, 0);
        Ok(())
    }
}
