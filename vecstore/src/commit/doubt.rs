//! Flushes of directories, and what one that failed leaves: a handle that writes no more, and commits in doubt.

use std::path::Path;
use std::sync::Arc;

use crate::base::{Bug, Error, Result};
use crate::commit::Writer;
use crate::format::random_id;
use crate::segment::{SegmentName, check_open};
use crate::state::{View, load, remove_own};

/// Temporary segments that take the place of a commit in doubt begin with this.
const TMP_PREFIX_ANEW: &str = "tmp-commit-anew-";

impl Writer {
    /// After a directory flush failed, the kernel may show names and pages that will not survive. Everything above
    /// the last checkpoint is copied to the next generation and flushed; then the mark goes.
    pub(super) fn rewrite_suspects(&mut self, view: &mut View) -> Result<()> {
        let names = load::list_segments(&*self.vfs, &self.dir)?;
        let mut old = Vec::new();
        for live in view.segments.iter().filter(|live| live.segment.name().first > view.manifest_last) {
            // Damage is never copied under a fresh checksum; the file stays as it is for `verify` to report.
            if let Err(error) = check_open(&live.segment, &|_| Ok(())) {
                log::error!("not written anew: {error}");
                continue;
            }
            let mut footer = *live.segment.footer();
            let range = (footer.first, footer.last);
            let highest = names.iter().filter(|n| (n.first, n.last) == range).map(|n| n.generation).max();
            footer.generation = highest.unwrap_or(footer.generation).saturating_add(1);
            footer.nonce = random_id()?;
            footer.seal();
            let body_len = live.segment.bytes().len() - footer.bytes().len();
            let body = live.segment.bytes().get(..body_len).unwrap_or_default();
            let name = SegmentName { first: footer.first, last: footer.last, generation: footer.generation };
            self.target(&self.segments(), TMP_PREFIX_ANEW, name, footer.file_len).publish(|file| {
                file.write_all(body)?;
                file.write_all(footer.bytes())?;
                Ok(footer)
            })?;
            old.push(live.segment.path().to_owned());
        }
        if !old.is_empty() {
            self.flush_names(&self.segments(), view.first_unlisted())?;
            *view = load::load(&*self.vfs, &self.dir, None)?;
        }
        // Always: the name that is in doubt may be the manifest's.
        self.checkpoint(view)?;
        if !old.is_empty() {
            old.iter().for_each(|path| remove_own(&*self.vfs, path));
            log::warn!(
                "{}: wrote the last {} segment(s) anew: a writer died, or a flush failed, while they were being named",
                self.dir.display(),
                old.len()
            );
        }
        self.lock.clear_suspect();
        Ok(())
    }

    /// Under the commit lock: flushes the directory of segments, or the store's own. If that fails it is unknown what will
    /// survive: the handle stops writing, and a mark in LOCK makes the next writer copy what is above the last checkpoint.
    pub(super) fn flush_names(&mut self, dir: &Path, first: u64) -> Result<()> {
        let Err(source) = self.vfs.flush_dir(dir) else { return Ok(()) };
        if !Bug::NoMark.is_on() {
            self.lock.mark_suspect(first);
        }
        self.lock.raise();
        Err(self.latch(dir, source))
    }

    /// Makes names durable that a reader of this handle has seen, outside the commit lock.
    pub fn flush_seen(&mut self, view: &View) -> Result<()> {
        // The names of segments, and the manifest's: its writer may have died before flushing it.
        for dir in [self.segments(), self.dir.clone()] {
            if let Err(source) = self.vfs.flush_dir(&dir) {
                return Err(self.flush_failed(&dir, view.first_unlisted(), source));
            }
        }
        Ok(())
    }

    /// Stops writing, and leaves the mark, after a failed flush of a directory outside the commit lock.
    pub fn flush_failed(&mut self, dir: &Path, first: u64, source: std::io::Error) -> Error {
        // The kernel reports a failure once. The next flush may claim success, so the mark must be left.
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
        let error = Error::OutcomeUnknown { path: dir.to_owned(), source: Arc::new(source) };
        self.latched = Some(error.to_string()).filter(|_| !Bug::NoLatch.is_on());
        error
    }

    /// Latches, and leaves the mark, when an error says that a name may be there or not.
    pub(super) fn in_doubt(&mut self, first: u64, error: Error) -> Error {
        if matches!(error, Error::OutcomeUnknown { .. }) {
            self.lock.mark_suspect(first);
            self.latched = Some(error.to_string());
        }
        error
    }
}
