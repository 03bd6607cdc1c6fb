//! Checkpoints: the manifest brought up to date.

use std::sync::Arc;

use crate::manifest::{MANIFEST, Manifest, SegmentRecord};
use crate::view::View;
use crate::writer::Writer;
use crate::{Error, Result};

impl Writer {
    /// Writes the manifest: the list on disk, read again, plus the commits after it.
    pub fn checkpoint(&mut self, view: &mut View) -> Result<()> {
        self.update_manifest(view, |_| Ok(()))
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
        let from = manifest.body.last_commit() + 1;
        for live in view.segments.iter().filter(|live| live.segment.name().first >= from) {
            manifest.body.segments.push(SegmentRecord::of(&live.segment));
        }
        manifest.generation += 1;
        change(&mut manifest)?;
        // Names that the manifest lists were flushed before: our own when they were committed, those of others in
        // `catch_up`.
        manifest.replace(&*vfs, &self.dir)?;
        let dir = self.dir.clone();
        self.flush_names(&dir, view.manifest_last + 1)?;
        let bytes: u64 = manifest.body.segments.iter().filter(|s| s.first >= from).map(|s| s.file_len).sum();
        if from <= manifest.body.last_commit() {
            log::info!(
                "checkpoint {}: commits {from} to {} ({bytes} bytes) are in {MANIFEST}",
                manifest.generation,
                manifest.body.last_commit()
            );
        }
        view.manifest_generation = manifest.generation;
        view.manifest_last = manifest.body.last_commit();
        view.meta = Arc::new(crate::view::Meta::of(&manifest.body));
        self.since_checkpoint = 0;
        Ok(())
    }
}
