//! When the manifest is written, and under which locks.

use std::sync::Arc;
use std::time::Duration;

use super::session::Writer;
use crate::base::{Bug, Error, Event, Result};
use crate::state::{Bitmaps, Manifest, View, checkpoint};

/// How long LOCK.manifest is waited for under the commit lock: all commits wait meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// Commits after a checkpoint from which on it is told that there is none.
const OVERDUE: u64 = 1024;

impl Writer {
    /// Writes the manifest: the list on disk, read again, plus the commits after it; and liveness bitmaps.
    pub fn checkpoint(&mut self, view: &mut View) -> Result<()> {
        self.under_manifest_lock(PATIENCE, |writer| writer.replace_manifest(view, Bitmaps::All, |_| Ok(())))
    }

    /// Writes the manifest, and bitmaps only when there is much to gain.
    pub fn list_commits(&mut self, view: &mut View) -> Result<()> {
        let write = |writer: &mut Self| writer.replace_manifest(view, Bitmaps::WhenMany, |_| Ok(()));
        self.under_manifest_lock(PATIENCE, write)
    }

    /// A checkpoint that no user asked for: its failure is told, louder each time, and repeated after the
    /// next commit. The commits are durable without it.
    pub fn routine_checkpoint(&mut self, view: &mut View) {
        let write = |writer: &mut Self| writer.replace_manifest(view, Bitmaps::WhenMany, |_| Ok(()));
        match self.under_manifest_lock(Duration::ZERO, write) {
            Ok(()) => self.failed_checkpoints = 0,
            // All commits would wait. The holder of LOCK.manifest will be done by one of the next commits.
            Err(Error::Busy { .. }) if self.since_checkpoint < OVERDUE => {}
            Err(error) => {
                self.failed_checkpoints += 1;
                self.events.push(Event::CheckpointFailed { attempts: self.failed_checkpoints, error });
            }
        }
    }

    /// Replaces the manifest by one derived from the one on disk: commits are appended, then `change` is
    /// applied. Tells other processes.
    ///
    /// Called under the commit lock.
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

    /// Runs `work` under LOCK.manifest, too.
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

    /// Under both locks.
    pub(super) fn replace_manifest(
        &mut self,
        view: &mut View,
        bitmaps: Bitmaps,
        change: impl FnOnce(&mut Manifest) -> Result<()>,
    ) -> Result<()> {
        let (vfs, dir, first) = (Arc::clone(&self.vfs), self.dir.clone(), view.first_unlisted());
        let event = checkpoint::write(&*vfs, &dir, view, bitmaps, change, |folder| {
            let flushed = self.flush_names(folder, first);
            // The directory of the store has the manifest's own name.
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
