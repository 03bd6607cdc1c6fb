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

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{IoContext, is_no_space};
use crate::format::footer::Footer;
use crate::format::{Id, hex, random_id, settings};
use crate::load::{self, SEGMENTS};
use crate::lock::Lock;
use crate::manifest::{MANIFEST, Manifest, SegmentRecord, remove_own};
use crate::resolve::{Overlay, Resolved, resolve};
use crate::segment::{Segment, SegmentBuilder, SegmentName};
use crate::vfs::Vfs;
use crate::view::View;
use crate::{Batch, Error, OnDuplicate, Result};

/// Temporary segments begin with this; only the holder of the commit lock may remove them.
pub(crate) const TMP_PREFIX: &str = "tmp-commit-";
/// The commit lock's file.
pub(crate) const LOCK: &str = "LOCK";
/// The manifest lock's file.
pub(crate) const LOCK_MANIFEST: &str = "LOCK.manifest";

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

/// The writing side of a handle. One thread at a time has it.
#[derive(Debug)]
pub(crate) struct Writer {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    lock: Lock,
    manifest_lock: Lock,
    timeout: Duration,
    verify_saves: bool,
    /// LOCK's counter when the view was last known to be complete; `None`: look.
    counter: Option<u64>,
    since_checkpoint: u64,
    latched: Option<String>,
}

impl Writer {
    pub fn open(vfs: Arc<dyn Vfs>, dir: &Path, timeout: Duration, verify_saves: bool) -> Result<Self> {
        let lock = Lock::open(&*vfs, &dir.join(LOCK), "commit")?;
        let manifest_lock = Lock::open(&*vfs, &dir.join(LOCK_MANIFEST), "manifest")?;
        Ok(Writer {
            vfs,
            dir: dir.to_owned(),
            lock,
            manifest_lock,
            timeout,
            verify_saves,
            counter: None,
            since_checkpoint: 0,
            latched: None,
        })
    }

    fn segments(&self) -> PathBuf {
        self.dir.join(SEGMENTS)
    }

    /// Runs `work` under the commit lock, with a view that knows everything that is on disk.
    pub fn locked<T>(
        &mut self,
        view: &mut View,
        work: impl FnOnce(&mut Self, &mut View) -> Result<T>,
    ) -> Result<T> {
        if let Some(reason) = &self.latched {
            return Err(Error::Latched { path: self.dir.clone(), reason: reason.clone() });
        }
        let found = self.lock.acquire(self.timeout)?;
        let current = found.counter.is_some() && found.counter == self.counter;
        let ready = if current && !found.died && found.suspect == 0 {
            Ok(())
        } else {
            self.counter = None;
            self.catch_up(view, found.suspect)
        };
        let result = ready.and_then(|()| work(self, view));
        if self.counter.is_some() {
            self.counter = Some(self.lock.counter());
        }
        self.lock.release();
        result
    }

    /// Learns what others did since this handle last held the lock, or what a writer left that died.
    fn catch_up(&mut self, view: &mut View, suspect: u64) -> Result<()> {
        let segments = self.segments();
        // Before anything is built on a name that somebody else published, that name is made durable.
        self.vfs.flush_dir(&segments).at(&segments, "flush the directory")?;
        self.remove_temporaries(&segments, TMP_PREFIX);
        *view = load::load(&*self.vfs, &self.dir, Some(view))?;
        if suspect != 0 {
            self.rewrite_suspects(view)?;
        }
        self.counter = Some(self.lock.counter());
        Ok(())
    }

    /// Removes what a dead holder of our lock left behind.
    fn remove_temporaries(&self, dir: &Path, prefix: &str) {
        for name in self.vfs.list(dir).unwrap_or_default() {
            if name.to_str().is_some_and(|name| name.starts_with(prefix)) {
                remove_own(&*self.vfs, &dir.join(name));
            }
        }
    }

    /// After a directory flush failed, the kernel may show names and pages that will not survive. Everything above
    /// the last checkpoint is copied to the next generation and flushed; then the mark goes.
    fn rewrite_suspects(&mut self, view: &mut View) -> Result<()> {
        let names = load::list_segments(&*self.vfs, &self.dir)?;
        let mut old = Vec::new();
        for live in view.segments.iter().filter(|live| live.segment.name().first > view.manifest_last) {
            let (_, faults) =
                crate::segment::check_file(&*self.vfs, live.segment.path(), live.segment.name());
            if let Some(fault) = faults.first() {
                return Err(Error::damaged(live.segment.path(), fault.section.clone(), fault.detail.clone()));
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
            self.write_file(&name, footer.file_len, |file| {
                file.write_all(body)?;
                file.write_all(footer.bytes())?;
                Ok(footer)
            })?;
            old.push(live.segment.path().to_owned());
        }
        if !old.is_empty() {
            let segments = self.segments();
            self.flush_names(&segments, view.manifest_last + 1)?;
            *view = load::load(&*self.vfs, &self.dir, None)?;
            self.checkpoint(view)?;
            old.iter().for_each(|path| remove_own(&*self.vfs, path));
            log::warn!("{}: wrote {} segment(s) anew after a failed flush", self.dir.display(), old.len());
        }
        self.lock.mark_suspect(0);
        Ok(())
    }

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
            writer.publish(view, &resolved)?;
            writer.since_checkpoint += resolved.len() as u64;
            if writer.since_checkpoint >= CHECKPOINT_EVERY
                && let Err(error) = writer.checkpoint(view)
            {
                // The commits are durable without it; it is tried again after the next one.
                log::warn!("the checkpoint failed and will be repeated: {error}");
            }
            Ok(())
        });
        match committed {
            Ok(()) => outcomes,
            Err(error) => fail_all(error, group.len(), outcomes),
        }
    }

    /// Writes, names and flushes the segment of a group, and adds it to the view.
    fn publish(&mut self, view: &mut View, batches: &[Resolved<'_>]) -> Result<()> {
        let meta = Arc::clone(&view.meta);
        let first = view.last_commit() + 1;
        let last = view.last_commit() + batches.len() as u64;
        let mut builder = SegmentBuilder::new(meta.dim, meta.dtype);
        for (commit, batch) in (first..).zip(batches) {
            builder.begin_commit(commit);
            for entry in &batch.written {
                builder.push(entry.key, entry.kind, entry.rows, entry.payload);
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
        let path = self.write_file(&name, encoded.file_len(), |file| encoded.write(file))?;
        let segments = self.segments();
        self.flush_names(&segments, first)?;
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

    /// Writes a temporary file, flushes it, and gives it its final name. The name is not yet durable.
    fn write_file(
        &self,
        name: &SegmentName,
        len: u64,
        write: impl FnOnce(&mut dyn crate::vfs::VfsFile) -> std::io::Result<Footer>,
    ) -> Result<PathBuf> {
        let segments = self.segments();
        let tmp = segments.join(format!("{TMP_PREFIX}{}", hex(&random_id()?)));
        let path = segments.join(name.to_string());
        let written = (|| {
            let mut file = self.vfs.create_new(&tmp)?;
            let footer = write(&mut *file)?;
            file.flush()?;
            Ok(footer)
        })();
        let footer = match written {
            Ok(footer) => footer,
            // A failed flush of a temporary file only fails this batch: the file goes, and a later attempt writes
            // another one. It is never flushed again, because the kernel reports a lost page only once.
            Err(source) => {
                remove_own(&*self.vfs, &tmp);
                return Err(self.write_error(tmp, len, source));
            }
        };
        if self.verify_saves
            && let Err(error) = self.read_back(&tmp, name, &footer)
        {
            remove_own(&*self.vfs, &tmp);
            return Err(error);
        }
        if let Err(source) = self.vfs.rename_noreplace(&tmp, &path) {
            remove_own(&*self.vfs, &tmp);
            return Err(match source.kind() {
                std::io::ErrorKind::AlreadyExists => Error::ForeignSegment {
                    path,
                    detail: "the next commit's name is taken by a file that is not part of the store"
                        .to_owned(),
                },
                _ => self.write_error(path, len, source),
            });
        }
        Ok(path)
    }

    fn write_error(&self, path: PathBuf, needed: u64, source: std::io::Error) -> Error {
        if is_no_space(&source) {
            return Error::NoSpace { path, needed, free: self.vfs.free_space(&self.dir).ok(), source };
        }
        Error::Io { path, op: "write the segment", source }
    }

    /// Reads a written file again and compares all checksums, before it gets its name.
    fn read_back(&self, tmp: &Path, name: &SegmentName, footer: &Footer) -> Result<()> {
        let (segment, faults) = crate::segment::check_file(&*self.vfs, tmp, *name);
        if let Some(fault) = faults.first() {
            return Err(Error::damaged(
                tmp,
                fault.section.clone(),
                format!("read back after writing: {}", fault.detail),
            ));
        }
        if segment.is_none_or(|segment| segment.footer().crc != footer.crc) {
            return Err(Error::damaged(tmp, "footer", "read back after writing: it is not what was written"));
        }
        log::info!(
            "save verified: commits {} to {}, {} entries, {} rows, {} bytes read back and compared",
            footer.first,
            footer.last,
            footer.entries,
            footer.rows,
            footer.file_len
        );
        Ok(())
    }

    /// Flushes the directory of segments. If that fails nobody knows what will survive: the handle stops writing,
    /// and a mark in LOCK makes the next writer copy what is above the last checkpoint.
    fn flush_names(&mut self, segments: &Path, first: u64) -> Result<()> {
        let Err(source) = self.vfs.flush_dir(segments) else { return Ok(()) };
        self.lock.mark_suspect(first);
        self.lock.raise();
        self.counter = None;
        let error = Error::OutcomeUnknown { path: segments.to_owned(), source };
        self.latched = Some(error.to_string());
        Err(error)
    }

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
        let from = manifest.body.last_commit() + 1;
        for live in view.segments.iter().filter(|live| live.segment.name().first >= from) {
            manifest.body.segments.push(SegmentRecord::of(&live.segment));
        }
        manifest.generation += 1;
        change(&mut manifest)?;
        // Names that the manifest lists were flushed before: our own when they were committed, those of others in
        // `catch_up`.
        manifest.write(&*vfs, &self.dir)?;
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

/// The settings section of a segment: the user's settings, and the fingerprint's description.
fn segment_settings(meta: &crate::view::Meta) -> Result<Vec<u8>> {
    let mut all = meta.settings.clone();
    if let Some(fingerprint) = &meta.fingerprint {
        all.insert(settings::FINGERPRINT.to_owned(), fingerprint.description().to_owned());
    }
    settings::encode(&all)
}

/// A failure of the group: the first batch that would have been written gets the error itself, the others its text;
/// batches that had failed on their own keep their own error.
fn fail_all(error: Error, count: usize, mut outcomes: Vec<Result<Appended>>) -> Vec<Result<Appended>> {
    let reason = error.to_string();
    let mut error = Some(error);
    while outcomes.len() < count {
        outcomes.push(Ok(Appended::default()));
    }
    for outcome in &mut outcomes {
        if outcome.is_ok() {
            *outcome = Err(error.take().unwrap_or_else(|| Error::GroupFailed { reason: reason.clone() }));
        }
    }
    outcomes
}

/// Random ids of a new store.
pub(crate) fn new_ids() -> Result<(Id, Id)> {
    Ok((random_id()?, random_id()?))
}
