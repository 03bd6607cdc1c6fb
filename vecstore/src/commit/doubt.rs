//! Directory flushes, and the effects of a failed one: a handle that stops writing, and commits in doubt.

use std::path::Path;
use std::sync::Arc;

use crate::base::{Bug, Error, Result};
use crate::commit::Writer;
use crate::commit::manifest::PATIENCE;
use crate::format::random_id;
use crate::segment::check_open;
use crate::state::{Bitmaps, View, load, remove_own, versions};

/// Prefix of the temporary files that commits in doubt are copied to.
const TMP_PREFIX_ANEW: &str = "tmp-commit-anew-";

impl Writer {
    /// After a failed directory flush, the kernel may show names and pages that will not survive. Every
    /// segment above the last checkpoint is copied to the next generation and flushed; then the mark is
    /// cleared. The manifest lock is taken before anything is copied, because the copies are listed under it.
    pub(super) fn rewrite_suspects(&mut self, view: &mut View) -> Result<()> {
        self.under_manifest_lock(PATIENCE, |writer| writer.rewrite_locked(view))
    }

    fn rewrite_locked(&mut self, view: &mut View) -> Result<()> {
        // An unreadable version holds up merges, but never a commit.
        let versions = versions::readable(&*self.vfs, &self.dir);
        let mut known = load::known_names(&*self.vfs, &self.dir, versions.into_iter())?;
        known.extend(view.segments.iter().map(|live| live.segment.name()));
        let mut old = Vec::new();
        for live in view.segments.iter().filter(|live| live.segment.name().first > view.manifest_last) {
            // Damage is never copied under a fresh checksum; the file stays as it is for `verify` to report.
            if let Err(error) = check_open(&live.segment, &|_| Ok(())) {
                log::error!("not written anew: {error}");
                continue;
            }
            let old_footer = live.segment.footer();
            let name = load::next_generation(&known, old_footer.first, old_footer.last);
            let footer = old_footer.of_copy(name.generation, random_id()?);
            let body =
                usize::try_from(footer.body_len()).ok().and_then(|len| live.segment.bytes().get(..len));
            let body = body.ok_or(Error::internal("a segment that is shorter than its footer"))?;
            self.target(&self.segments(), TMP_PREFIX_ANEW, name, footer.file_len).publish(|file| {
                file.write_all(body)?;
                file.write_all(footer.bytes())?;
                Ok((footer, ()))
            })?;
            old.push(live.segment.path().to_owned());
        }
        if !old.is_empty() {
            self.flush_names(&self.segments(), view.first_unlisted())?;
            *view = load::load(&*self.vfs, &self.dir, None)?;
        }
        // Written even if nothing was copied: the name in doubt may be the manifest's.
        self.replace_manifest(view, Bitmaps::All, |_| Ok(()))?;
        if !old.is_empty() {
            old.iter().for_each(|path| remove_own(&*self.vfs, path));
            log::warn!(
                "{}: wrote the last {} segment(s) anew: a writer died, or a flush failed, while they were \
                 being named",
                self.dir.display(),
                old.len()
            );
        }
        self.lock.clear_suspect();
        Ok(())
    }

    /// Under the commit lock: flushes `segments/` or the store's directory. If the flush fails, it is unknown
    /// which names survive: the handle stops writing, and a mark in LOCK makes the next lock holder copy
    /// every segment above the last checkpoint.
    pub(super) fn flush_names(&mut self, dir: &Path, first: u64) -> Result<()> {
        let Err(source) = self.vfs.flush_dir(dir) else { return Ok(()) };
        if !Bug::NoMark.is_on() {
            self.lock.mark_suspect(first);
        }
        self.lock.raise();
        Err(self.latch(dir, source))
    }

    /// Makes durable, outside the commit lock, every name that this handle has shown to readers.
    pub fn flush_seen(&mut self, view: &View) -> Result<()> {
        // Names of segments, and the manifest's name: the manifest's writer may have died before flushing it.
        for dir in [self.segments(), self.dir.clone()] {
            if let Err(source) = self.vfs.flush_dir(&dir) {
                return Err(self.flush_failed(&dir, view.first_unlisted(), source));
            }
        }
        Ok(())
    }

    /// After a failed directory flush outside the commit lock: leaves the mark and stops the handle from
    /// writing.
    pub fn flush_failed(&mut self, dir: &Path, first: u64, source: std::io::Error) -> Error {
        // The kernel reports a failure only once: the next flush may claim success, so the mark must be left.
        match self.lock.acquire(&self.timeout) {
            Ok(_) => {
                self.lock.mark_suspect(first);
                self.lock.raise();
                self.lock.release();
            }
            Err(error) => log::error!("cannot mark commits as suspect after a failed flush: {error}"),
        }
        self.latch(dir, source)
    }

    fn latch(&mut self, dir: &Path, source: std::io::Error) -> Error {
        self.counter = None;
        let error = Error::OutcomeUnknown { path: dir.to_owned(), cause: Arc::new(source) };
        self.latched = Some(error.to_string()).filter(|_| !Bug::NoLatch.is_on());
        error
    }

    /// Leaves the mark and stops the handle from writing if an error says that a name may exist or not.
    pub(super) fn in_doubt(&mut self, first: u64, error: Error) -> Error {
        if matches!(error, Error::OutcomeUnknown { .. }) {
            self.lock.mark_suspect(first);
            self.latched = Some(error.to_string());
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Store;
    use crate::lock::Timeout;
    use crate::segment::SegmentName;
    use crate::state::{Manifest, QUARANTINE, SegmentRecord};
    use crate::types::{OnDuplicate, StoreConfig};
    use crate::vfs::RealFs;

    /// The names of files in quarantine, and names that a version lists, may be needed again.
    #[test]
    fn a_commit_in_doubt_takes_a_name_that_no_file_has_had() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = Store::create(&path, StoreConfig::new(1)).unwrap();
        let mut batch = store.batch();
        batch.push("a", &[1.0f32]).unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
        let mut view = load::load(&RealFs, &path, None).unwrap();
        let name = view.segments[0].segment.name();
        let rewritten = |generation| SegmentName { generation, ..name }.to_string();
        let quarantined = path.join(QUARANTINE).join(rewritten(1));
        std::fs::create_dir(path.join(QUARANTINE)).unwrap();
        std::fs::copy(view.segments[0].segment.path(), quarantined).unwrap();
        let suspect = |view: &mut View| {
            let timeout = Timeout::from(std::time::Duration::from_secs(10));
            let mut writer = Writer::open(Arc::new(RealFs), &path, timeout.clone(), false).unwrap();
            writer.lock.acquire(&timeout).unwrap();
            writer.lock.mark_suspect(1);
            writer.lock.release();
            writer.locked(&timeout, view, |_, _| Ok(())).unwrap();
            load::list_segments(&RealFs, &path).unwrap()[0].to_string()
        };
        let before = Manifest::read(&RealFs, &path).unwrap();
        assert_eq!(suspect(&mut view), rewritten(2), "quarantined");

        let mut manifest = before.clone();
        let record = SegmentRecord::of(&view.segments[0].segment);
        manifest.body.segments = vec![SegmentRecord { generation: 7, ..record }];
        versions::write(&RealFs, &path, "v", &manifest).unwrap();
        before.write(&RealFs, &path).unwrap();
        let mut view = load::load(&RealFs, &path, None).unwrap();
        assert_eq!(suspect(&mut view), rewritten(8), "named");
    }
}
