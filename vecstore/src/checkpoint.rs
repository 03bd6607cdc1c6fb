//! Checkpoints: the manifest brought up to date.

use std::sync::Arc;

use crate::error::IoContext;
use crate::event::Event;
use crate::load;
use crate::manifest::{Manifest, SegmentRecord};
use crate::view::View;
use crate::writer::Writer;
use crate::{Error, Result};

impl Writer {
    /// Writes the manifest: the list on disk, read again, plus the commits after it.
    pub fn checkpoint(&mut self, view: &mut View) -> Result<()> {
        self.update_manifest(view, |_| Ok(()))
    }

    /// A checkpoint that nobody asked for: its failure is told, louder each time, and repeated after the next commit.
    /// The commits are durable without it.
    pub fn routine_checkpoint(&mut self, view: &mut View) {
        match self.checkpoint(view) {
            Ok(()) => self.failed_checkpoints = 0,
            Err(error) => {
                self.failed_checkpoints += 1;
                let event = Event::CheckpointFailed { attempts: self.failed_checkpoints, error };
                self.observer.tell(&self.dir, &event);
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
        self.manifest_lock.acquire(self.timeout)?;
        let result = self.replace_manifest(view, change);
        self.manifest_lock.release();
        result
    }

    fn replace_manifest(
        &mut self,
        view: &mut View,
        change: impl FnOnce(&mut Manifest) -> Result<()>,
    ) -> Result<()> {
        let vfs = Arc::clone(&self.vfs);
        self.remove_temporaries(&self.dir, crate::manifest::TMP_PREFIX);
        let mut manifest = Manifest::read(&*vfs, &self.dir)?;
        if manifest.body.store_id != view.meta.store_id {
            return Err(Error::Moved { path: self.dir.clone(), found: "another store was put in its place" });
        }
        if manifest.body.is_backup() {
            // What is written to a backup is a history of its own. Files that an interrupted backup brought are not part
            // of it.
            self.set_aside_beyond(manifest.body.last_commit())?;
            manifest.body.begin_epoch()?;
        }
        let from = manifest.body.last_commit() + 1;
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
        // Names that the manifest lists were flushed before: our own when they were committed, those of others in
        // `catch_up`.
        manifest.replace(&*vfs, &self.dir)?;
        let dir = self.dir.clone();
        self.flush_names(&dir, view.manifest_last + 1)?;
        if let Some(last) = fresh.last() {
            let event = Event::Checkpoint {
                first: from,
                last: last.last,
                rows: fresh_rows,
                bytes: fresh.iter().map(|record| record.file_len).sum(),
            };
            self.observer.tell(&self.dir, &event);
        }
        view.manifest_generation = manifest.generation;
        view.manifest_last = manifest.body.last_commit();
        view.meta = Arc::new(crate::view::Meta::of(&manifest.body));
        self.since_checkpoint = 0;
        Ok(())
    }

    /// Moves segments after a commit to quarantine/: no manifest ever listed them.
    fn set_aside_beyond(&self, last: u64) -> Result<()> {
        let segments = self.segments();
        for name in load::list_segments(&*self.vfs, &self.dir)?.into_iter().filter(|name| name.last > last) {
            let folder = crate::repair::quarantine_folder(&*self.vfs, &self.dir)?;
            let (from, to) = (segments.join(name.to_string()), folder.join(name.to_string()));
            self.vfs.replace(&from, &to).at(&from, "move the segment to quarantine")?;
        }
        self.vfs.flush_dir(&segments).at(&segments, "flush the directory")
    }
}
