//! The writing side of a handle: the commit lock, and catching up with what others did.

use crate::lock::{LOCK, LOCK_MANIFEST, LOCK_TURN};
use crate::state::{remove_own, remove_temporaries};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Bug, Error, Event, Result};
use crate::commit::Committed;
use crate::format::random_id;
use crate::lock::{Found, Lock, Span, Timeout, Watch};
use crate::segment::{Segment, SegmentName};
use crate::state::{SEGMENTS, Target, Verify, View, load, named};
use crate::vfs::Vfs;

/// From so many segments on the directory is listed: others may have merged them. Again when so many more have come.
const MANY: usize = 96;
const MORE: usize = 32;

/// Temporary segments begin with this; only the holder of the commit lock may remove them.
pub(crate) const TMP_PREFIX: &str = "tmp-commit-";
/// Those that take the place of a commit in doubt.
const TMP_PREFIX_ANEW: &str = "tmp-commit-anew-";

/// The writing side of a handle. One thread at a time has it.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) dir: PathBuf,
    pub(crate) lock: Lock,
    pub(crate) manifest_lock: Lock,
    pub(crate) timeout: Timeout,
    pub(crate) verify_saves: bool,
    /// LOCK's counter when the view was last known to be complete; `None`: look.
    pub(crate) counter: Option<u64>,
    pub(crate) since_checkpoint: u64,
    pub(crate) bytes_since_checkpoint: u64,
    pub(crate) failed_checkpoints: u32,
    /// What is to be told once no lock is held.
    pub(crate) events: Vec<Event>,
    /// A segment that is committed, and not yet part of the view.
    pub(crate) committed: Option<Committed>,
    /// From so many segments on the directory is listed.
    many: usize,
    latched: Option<String>,
}

impl Writer {
    pub fn open(vfs: Arc<dyn Vfs>, dir: &Path, timeout: Timeout, verify_saves: bool) -> Result<Self> {
        let mut lock = Lock::open_fair(&*vfs, &dir.join(LOCK), &dir.join(LOCK_TURN), "commit")?;
        let manifest_lock = Lock::open(&*vfs, &dir.join(LOCK_MANIFEST), "manifest")?;
        lock.probe()?;
        Ok(Writer {
            vfs,
            dir: dir.to_owned(),
            lock,
            manifest_lock,
            timeout,
            verify_saves,
            counter: None,
            since_checkpoint: 0,
            bytes_since_checkpoint: 0,
            failed_checkpoints: 0,
            events: Vec::new(),
            committed: None,
            many: MANY,
            latched: None,
        })
    }

    pub(crate) fn segments(&self) -> PathBuf {
        self.dir.join(SEGMENTS)
    }

    /// Runs `work` under the commit lock, with a view that knows everything that is on disk.
    pub fn locked<T>(
        &mut self,
        view: &mut View,
        work: impl FnOnce(&mut Self, &mut View) -> Result<T>,
    ) -> Result<T> {
        self.locked_within(&self.timeout.clone(), view, work)
    }

    /// The same with another patience.
    pub fn locked_within<T>(
        &mut self,
        timeout: &Timeout,
        view: &mut View,
        work: impl FnOnce(&mut Self, &mut View) -> Result<T>,
    ) -> Result<T> {
        self.check_latch()?;
        let found = self.lock.acquire(timeout)?;
        self.holding(found, view, work)
    }

    /// Refuses what is written outside the commit lock where [`Writer::locked`] would.
    pub fn check_may_write(&self) -> Result<()> {
        self.check_latch()?;
        self.lock.check_place()
    }

    /// Refuses once the handle has stopped writing.
    pub(crate) fn check_latch(&self) -> Result<()> {
        match &self.latched {
            Some(reason) => Err(Error::Latched { path: self.dir.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Brings commits out of doubt when the record asks for it: a flush of their directory failed, or the last holder
    /// of the lock died holding it.
    pub fn recover(&mut self, view: &mut View, watch: &Watch) -> Result<()> {
        if watch.suspect() != 0 {
            return self.locked(view, |_, _| Ok(()));
        }
        if watch.is_held() {
            // Unless nobody has the lock, its holder is alive and has done this when it took it.
            if let Some(found) = self.lock.try_acquire()? {
                return self.holding(found, view, |_, _| Ok(()));
            }
        }
        Ok(())
    }

    /// Runs `work` under the commit lock, which this process has just taken, and gives the lock back.
    pub(crate) fn holding<T>(
        &mut self,
        found: Found,
        view: &mut View,
        work: impl FnOnce(&mut Self, &mut View) -> Result<T>,
    ) -> Result<T> {
        let current = found.counter.is_some() && found.counter == self.counter;
        // Who died holding the lock may have died of a failed flush, before the mark could be left. (So do those
        // look whose record could not be written when they gave the lock back.)
        let in_doubt =
            found.died && !Bug::IgnoreDied.is_on() || found.suspect != 0 && !Bug::IgnoreMark.is_on();
        // Such a holder may have committed and not counted it. Without a raise here, a third handle that knows the
        // same count would take its view for complete, and give a commit number twice.
        if in_doubt {
            if !Bug::NoRaise.is_on() {
                self.lock.raise();
            }
            // Stays until the commits have been written anew, even if that fails this time.
            self.lock.mark_suspect(view.first_unlisted());
        }
        let ready = if current && !in_doubt {
            view.check_writable()
        } else {
            // Whoever gave the lock back and counted has flushed what it named, or left the mark. Only where the record
            // cannot say so, or this handle does not know from when on, names are flushed again.
            let then = self.counter.take().filter(|_| found.counter.is_some() && !in_doubt);
            let spans = then.and_then(|then| self.lock.since(then));
            if view.segments.len() < self.many && spans.is_some_and(|spans| self.follow(view, &spans)) {
                self.counter = Some(self.lock.counter());
                view.check_writable()
            } else {
                self.catch_up(view, in_doubt, then.is_some())
            }
        };
        let result = ready.and_then(|()| work(self, view));
        // What failed may have left something: nobody may take a view from before for complete.
        if result.is_err() {
            self.lock.raise();
            self.counter = None;
        }
        let told = self.lock.release();
        self.counter = self.counter.filter(|_| told).map(|_| self.lock.counter());
        result
    }

    /// Maps the commits of others by their names, without a look at the directory. Says whether all of them are known now.
    fn follow(&self, view: &mut View, spans: &[Span]) -> bool {
        let segments = self.segments();
        // Files beyond the manifest of a backup are no commits: an interrupted backup may have left them.
        !view.meta.is_backup
            && spans.iter().all(|Span { first, last }| {
                let name = SegmentName { first: *first, last: *last, generation: 0 };
                *last <= view.last_commit()
                    || *first == view.last_commit() + 1
                        && Segment::open(&*self.vfs, &segments.join(name.to_string()), name)
                            .and_then(|segment| view.add(Arc::new(segment), None))
                            .is_ok()
            })
    }

    /// The same before this handle has the lock, so that it holds it for a shorter time: whoever counted his commit in the
    /// record has flushed its name.
    pub(crate) fn follow_early(&mut self, view: &mut View) {
        let Some(then) = self.counter.take() else { return };
        let counter = match self.lock.news(then) {
            Some((now, spans)) if self.follow(view, &spans) => now,
            _ => then,
        };
        // Now and then what others have merged must be taken over.
        if view.segments.len() >= self.many
            && let Ok(merged) = load::load_until(&*self.vfs, &self.dir, Some(view), view.last_commit())
            && merged.meta.epochs == view.meta.epochs
        {
            *view = merged;
            self.many = MANY.max(view.segments.len() + MORE);
        }
        self.counter = Some(counter);
    }

    /// Learns what others did since this handle last held the lock, or what a writer left that died.
    fn catch_up(&mut self, view: &mut View, in_doubt: bool, vouched: bool) -> Result<()> {
        let segments = self.segments();
        // Before anything is built on a name that somebody else published, that name is made durable.
        if !vouched {
            self.flush_names(&segments, view.first_unlisted())?;
            let dir = self.dir.clone();
            self.flush_names(&dir, view.first_unlisted())?;
        }
        if !vouched {
            remove_temporaries(&*self.vfs, &segments, TMP_PREFIX);
        }
        let before = Arc::clone(&view.meta);
        *view = load::load(&*self.vfs, &self.dir, Some(view))?;
        // An epoch is in the manifest, durably, before its first commit.
        if vouched && view.meta.epochs != before.epochs {
            let dir = self.dir.clone();
            self.flush_names(&dir, view.first_unlisted())?;
        }
        view.check_writable()?;
        self.many = MANY.max(view.segments.len() + MORE);
        if in_doubt && !Bug::NoRewrite.is_on() {
            self.rewrite_suspects(view)?;
        }
        self.counter = Some(self.lock.counter());
        Ok(())
    }

    /// Where a segment written under the commit lock goes.
    pub(crate) fn target<'a>(
        &'a self,
        dir: &'a Path,
        prefix: &'a str,
        name: SegmentName,
        len: u64,
    ) -> Target<'a> {
        let verify = if self.verify_saves { Verify::FromDisk } else { Verify::No };
        Target { vfs: &*self.vfs, dir, prefix, name, len, verify, step: &|_| Ok(()) }
    }

    /// After a directory flush failed, the kernel may show names and pages that will not survive. Everything above
    /// the last checkpoint is copied to the next generation and flushed; then the mark goes.
    fn rewrite_suspects(&mut self, view: &mut View) -> Result<()> {
        // An unreadable checkpoint holds up merges, never a commit.
        let versions = named::readable(&*self.vfs, &self.dir);
        let mut known = load::known_names(&*self.vfs, &self.dir, versions.into_iter())?;
        known.extend(view.segments.iter().map(|live| live.segment.name()));
        let mut old = Vec::new();
        for live in view.segments.iter().filter(|live| live.segment.name().first > view.manifest_last) {
            // Damage is never copied under a fresh checksum; the file stays as it is for `verify` to report.
            if let Err(error) = crate::segment::check_open(&live.segment, &|_| Ok(())) {
                log::error!("not written anew: {error}");
                continue;
            }
            let mut footer = *live.segment.footer();
            let name = load::next_generation(&known, footer.first, footer.last);
            footer.generation = name.generation;
            footer.nonce = random_id()?;
            footer.seal();
            let body_len = live.segment.bytes().len() - footer.bytes().len();
            let body = live.segment.bytes().get(..body_len).unwrap_or_default();
            self.target(&self.segments(), TMP_PREFIX_ANEW, name, footer.file_len).publish(|file| {
                file.write_all(body)?;
                file.write_all(footer.bytes())?;
                Ok((footer, ()))
            })?;
            old.push(live.segment.path().to_owned());
        }
        if !old.is_empty() {
            let segments = self.segments();
            self.flush_names(&segments, view.first_unlisted())?;
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

    /// Flushes the directory of segments, or the store's own. If that fails nobody knows what will survive: the
    /// handle stops writing, and a mark in LOCK makes the next writer copy what is above the last checkpoint.
    pub(crate) fn flush_names(&mut self, dir: &Path, first: u64) -> Result<()> {
        let flushed = self.vfs.flush_dir(dir);
        let Err(source) = flushed else { return Ok(()) };
        if !Bug::NoMark.is_on() {
            self.lock.mark_suspect(first);
        }
        self.lock.raise();
        Err(self.latch(dir, source))
    }

    /// Makes names durable that a reader of this handle has seen, outside the commit lock.
    pub fn flush_seen(&mut self, view: &View) -> Result<()> {
        // The names of segments, and the manifest's: whoever replaced it may have died before flushing it.
        let flushed = [self.segments(), self.dir.clone()]
            .into_iter()
            .find_map(|dir| self.vfs.flush_dir(&dir).err().map(|source| (dir, source)));
        let Some((dir, source)) = flushed else { return Ok(()) };
        Err(self.flush_failed(&dir, view.first_unlisted(), source))
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
    pub(crate) fn in_doubt(&mut self, first: u64, error: Error) -> Error {
        if matches!(error, Error::OutcomeUnknown { .. }) {
            self.lock.mark_suspect(first);
            self.latched = Some(error.to_string());
        }
        error
    }

    /// Tells other processes that settings have changed. Called under the commit lock.
    pub fn raise(&mut self) {
        self.lock.raise();
    }

    /// Commits since the manifest was last written by this handle.
    pub fn since_checkpoint(&self) -> u64 {
        self.since_checkpoint
    }

    /// The handle stopped writing after a failed directory flush.
    pub fn is_latched(&self) -> bool {
        self.latched.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Store;
    use crate::state::{Manifest, QUARANTINE, SegmentRecord};
    use crate::types::{OnDuplicate, StoreConfig};
    use crate::vfs::RealFs;

    /// Its name may be needed again: by a file put back from quarantine, or by a named checkpoint.
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
            writer.locked(view, |_, _| Ok(())).unwrap();
            load::list_segments(&RealFs, &path).unwrap()[0].to_string()
        };
        let before = Manifest::read(&RealFs, &path).unwrap();
        assert_eq!(suspect(&mut view), rewritten(2), "quarantined");

        let mut manifest = before.clone();
        let record = SegmentRecord::of(&view.segments[0].segment);
        manifest.body.segments = vec![SegmentRecord { generation: 7, ..record }];
        named::write(&RealFs, &path, "v", &manifest).unwrap();
        before.write(&RealFs, &path).unwrap();
        let mut view = load::load(&RealFs, &path, None).unwrap();
        assert_eq!(suspect(&mut view), rewritten(8), "named");
    }
}
