//! One merge, from the choice of inputs to their removal.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::copy::merged;
use super::housekeeping::{self, Files};
use super::plan::{self, Limits};
use super::throttle::Throttled;
use crate::event::Event;
use crate::format::{random_id, settings};
use crate::inner::Inner;
use crate::live::{self, LiveRecord};
use crate::load::{self, SEGMENTS};
use crate::lock::Lock;
use crate::manifest::{Manifest, SegmentRecord};
use crate::publish::Target;
use crate::segment::{Segment, SegmentName, check_open};
use crate::view::{LiveSegment, View};
use crate::writer::{LOCK_MANIFEST, LOCK_MERGE};
use crate::{Compacted, Error, Result};

/// Temporary outputs begin with this; only the holder of the merge lock may remove them.
pub(super) const TMP_PREFIX: &str = "tmp-merge-";
/// Segments are merged up to this size, unless asked otherwise.
pub(crate) const MAX_SEGMENT: u64 = 4 << 30;
/// Files from which on an append merges some itself, if nobody else does.
const BACKLOG: usize = 128;
/// Files from which on an append waits for whoever merges, so that files stay few whatever the speeds.
const FULL_STOP: usize = 160;
/// Files that come in after a failed attempt before an append tries again.
const RETRY_AFTER: usize = 64;

/// How considerate a merge is, and how it is stopped.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// Time rested per time worked.
    pub rest: f64,
    /// Give up.
    pub stop: Arc<AtomicBool>,
    /// Do not rest any more: an append waits.
    pub hurry: Arc<AtomicBool>,
}

impl Pace {
    fn full_speed() -> Self {
        Pace { rest: 0.0, stop: Arc::default(), hurry: Arc::default() }
    }
}

/// What is to be achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Files few, work little.
    Background,
    /// Neighbours joined up to a size, superseded entries gone.
    Compact { max_bytes: u64 },
    /// One segment.
    Full,
}

impl Inner {
    /// Merges while the background policy finds something to do; nothing when somebody else is merging.
    pub fn merge_in_background(&self, pace: &Pace) -> Result<()> {
        if !self.has_plan() {
            return Ok(());
        }
        let mut lock = self.merge_lock()?;
        if lock.try_acquire()?.is_none() {
            return Ok(());
        }
        let result = self.merge_all(Goal::Background, pace);
        lock.release();
        result.map(drop)
    }

    /// Merges in the calling thread when files pile up. A failure here is no failure of the append.
    pub fn merge_backlog(&self) {
        let files = self.view.read().segments.len();
        if files < BACKLOG.max(self.merge_again_at.load(Ordering::Relaxed)) || !self.has_plan() {
            return;
        }
        let merged = if files < FULL_STOP {
            self.merge_in_background(&Pace::full_speed())
        } else {
            self.wait_for_merge()
        };
        // After a failure (a damaged input, a full disk) appends go on for a while before the next attempt.
        let again_at = if merged.is_ok() { 0 } else { files + RETRY_AFTER };
        self.merge_again_at.store(again_at, Ordering::Relaxed);
        self.note_merge(&merged);
    }

    /// Tells of a failed merge, louder each time.
    pub fn note_merge(&self, merged: &Result<()>) {
        let Err(error) = merged else {
            self.failed_merges.store(0, Ordering::Relaxed);
            return;
        };
        let attempts = self.failed_merges.fetch_add(1, Ordering::Relaxed) + 1;
        self.tell(&Event::MergeFailed { attempts, error: error.clone() });
    }

    /// Lets whoever merges finish, at full speed, and merges what is left.
    fn wait_for_merge(&self) -> Result<()> {
        self.hurry.store(true, Ordering::Relaxed);
        let result = self.lock_timeout().and_then(|timeout| {
            let mut lock = self.merge_lock()?;
            lock.acquire(timeout)?;
            let result = self.merge_all(Goal::Background, &Pace::full_speed());
            lock.release();
            result.map(drop)
        });
        self.hurry.store(false, Ordering::Relaxed);
        result
    }

    /// Removes files that nobody needs any more; nothing when somebody is merging, for a merge does the same.
    pub fn tidy(&self) -> Result<()> {
        let mut lock = self.merge_lock()?;
        if lock.try_acquire()?.is_none() {
            return Ok(());
        }
        let result = self
            .lock_timeout()
            .and_then(|timeout| housekeeping::remove_leftovers(&*self.vfs, &self.path, timeout));
        lock.release();
        result
    }

    /// Merges everything that fits into segments of `max_bytes`, or with `None` into one segment.
    pub fn compact(&self, max_bytes: Option<u64>) -> Result<Compacted> {
        let timeout = self.lock_timeout()?;
        let mut lock = self.merge_lock()?;
        lock.acquire(timeout)?;
        let goal = max_bytes.map_or(Goal::Full, |max_bytes| Goal::Compact { max_bytes });
        let result = self.merge_all(goal, &Pace::full_speed());
        lock.release();
        result
    }

    fn merge_lock(&self) -> Result<Lock> {
        Lock::open(&*self.vfs, &self.path.join(LOCK_MERGE), "merge")
    }

    /// A look at the view, without any file operation.
    fn has_plan(&self) -> bool {
        plan::background(&sizes(&self.view.read()), Limits { max_bytes: MAX_SEGMENT }).is_some()
    }

    fn merge_all(&self, goal: Goal, pace: &Pace) -> Result<Compacted> {
        let mut total = Compacted::default();
        // Commits that come in meanwhile are left to the next time: with a steady writer this would never end.
        let mut horizon = None;
        // What others supersede meanwhile in a segment that was just written is left to the next time too.
        let mut rewritten = HashSet::new();
        loop {
            let view = self.listed_view()?;
            if horizon.is_none() {
                total.segments_before = view.segments.len();
                housekeeping::remove_leftovers(&*self.vfs, &self.path, self.lock_timeout()?)?;
            }
            let horizon = *horizon.get_or_insert(view.last_commit());
            let Some(range) = choose(goal, &view, horizon, &rewritten) else {
                total.segments_after = view.segments.len();
                // Another process may have merged what this handle still sees as many files.
                if self.view.read().segments.len() > view.segments.len() {
                    self.reload()?;
                }
                return Ok(total);
            };
            let commits = view.segments.get(range.clone()).unwrap_or_default();
            if let (Some(first), Some(last)) = (commits.first(), commits.last()) {
                rewritten.insert((first.segment.name().first, last.segment.name().last));
            }
            self.merge(&view, range, pace, &mut total)?;
            self.reload()?;
        }
    }

    fn lock_timeout(&self) -> Result<std::time::Duration> {
        self.with_writer("merge", |writer, _| Ok(writer.timeout))
    }

    /// The state that the manifest lists, after a checkpoint: everything in it is durable and listed, and so is
    /// whatever kills entries in it.
    fn listed_view(&self) -> Result<View> {
        self.with_writer("merge", |writer, view| {
            writer.locked(view, |writer, view| {
                if view.last_commit() > view.manifest_last { writer.list_commits(view) } else { Ok(()) }
            })
        })?;
        let manifest = Manifest::read(&*self.vfs, &self.path)?;
        let known = Arc::clone(&self.view.read());
        load::listed(&*self.vfs, &self.path, &manifest, Some(&known))
    }

    /// Merges a range of listed segments into one.
    fn merge(&self, view: &View, range: Range<usize>, pace: &Pace, total: &mut Compacted) -> Result<()> {
        let inputs = view.segments.get(range).unwrap_or_default();
        let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else { return Ok(()) };
        for live in inputs {
            check_open(&live.segment)?;
        }
        let dir = self.path.join(SEGMENTS);
        let files = Files::read(&*self.vfs, &self.path)?;
        let (first_commit, last_commit) = (first.segment.name().first, last.segment.name().last);
        let generation = files.next_generation(first_commit, last_commit);
        let name = SegmentName { first: first_commit, last: last_commit, generation };
        let encoded = merged(inputs, name, random_id()?, settings::encode(&last.segment.settings()?)?)?;
        self.check_space(&dir, encoded.file_len())?;
        let target = Target {
            vfs: &*self.vfs,
            dir: &dir,
            prefix: TMP_PREFIX,
            name,
            len: encoded.file_len(),
            // The inputs go afterwards: what takes their place is read back first.
            verify: true,
        };
        let path = target.publish(|file| encoded.write(&mut Throttled::new(file, pace)))?;
        self.with_writer("merge", |writer, view| writer.flush_seen(view))?;
        let output = Segment::open(&*self.vfs, &path, name)?;
        let removed = self.swap(view, inputs, &output)?;
        total.merges += 1;
        total.bytes_read += inputs.iter().map(|live| live.segment.footer().file_len).sum::<u64>();
        total.bytes_written += output.footer().file_len;
        let entries = |segment: &Segment| segment.footer().entries;
        let before: u64 = inputs.iter().map(|live| entries(&live.segment)).sum();
        total.entries_dropped += before.saturating_sub(entries(&output));
        log::debug!("{before} entries before, {} after; {removed} file(s) removed", entries(&output));
        self.tell(&Event::Merged {
            first: first_commit,
            last: last_commit,
            segments: inputs.len(),
            bytes: output.footer().file_len,
        });
        Ok(())
    }

    fn check_space(&self, dir: &Path, needed: u64) -> Result<()> {
        match self.vfs.free_space(dir) {
            Ok(free) if free < needed => Err(Error::NoSpace {
                path: dir.to_owned(),
                needed,
                free: Some(free),
                source: Arc::new(std::io::ErrorKind::StorageFull.into()),
            }),
            _ => Ok(()),
        }
    }

    /// Puts the output in place of the inputs in the manifest, then removes the inputs that nothing pins.
    fn swap(&self, view: &View, inputs: &[LiveSegment], output: &Segment) -> Result<usize> {
        let mut lock = Lock::open(&*self.vfs, &self.path.join(LOCK_MANIFEST), "manifest")?;
        lock.acquire_named(self.lock_timeout()?)?;
        let swapped = self.swap_locked(&mut lock, view, inputs, output);
        lock.release();
        // The writer is only asked now: it takes the commit lock, which comes before that of the manifest.
        match swapped? {
            Swapped::Removed(count) => Ok(count),
            Swapped::InDoubt(source) => self.with_writer("merge", |writer, known| {
                Err(writer.flush_failed(&self.path, known.manifest_last + 1, source))
            }),
        }
    }

    fn swap_locked(
        &self,
        lock: &mut Lock,
        view: &View,
        inputs: &[LiveSegment],
        output: &Segment,
    ) -> Result<Swapped> {
        let mut manifest = Manifest::read(&*self.vfs, &self.path)?;
        let bitmaps = LiveRecord::of(&manifest.body);
        let superseded = live::named(&manifest.body);
        let records: Vec<SegmentRecord> =
            inputs.iter().map(|live| SegmentRecord::of(&live.segment)).collect();
        let listed = &mut manifest.body.segments;
        let at = listed.iter().position(|record| Some(record) == records.first());
        let range = at.map(|at| at..at + records.len());
        match range.filter(|range| listed.get(range.clone()) == Some(records.as_slice())) {
            Some(range) => drop(listed.splice(range, [SegmentRecord::of(output)])),
            // Only a repair or restore under our feet: the output stays unlisted and the next merger removes it.
            None => return Err(Error::bad_input("the manifest changed during a merge; compact again")),
        }
        if manifest.body.is_backup() {
            manifest.body.begin_epoch()?;
        }
        manifest.generation += 1;
        live::after_merge(&mut manifest.body, bitmaps, output.name(), view.last_commit());
        manifest.replace(&*self.vfs, &self.path)?;
        // If this fails, a power cut may bring the former manifest back, which lists the inputs: they stay, and nobody
        // is to rely on what the directory shows.
        if let Err(source) = self.vfs.flush_dir(&self.path) {
            lock.mark_suspect(1);
            return Ok(Swapped::InDoubt(source));
        }
        lock.clear_suspect();
        let files = Files::read(&*self.vfs, &self.path)?;
        let removed = files.remove_unlisted(&*self.vfs, records.iter().map(SegmentRecord::name));
        live::remove_unlisted(&*self.vfs, &self.path, &manifest, superseded)?;
        Ok(Swapped::Removed(removed))
    }
}

/// What became of the exchange of inputs for an output.
enum Swapped {
    /// It is durable; so many inputs were removed.
    Removed(usize),
    /// The new manifest is visible, but flushing its name failed.
    InDoubt(std::io::Error),
}

fn sizes(view: &View) -> Vec<u64> {
    view.segments.iter().map(|live| live.segment.footer().file_len).collect()
}

/// The next merge of segments up to a commit.
fn choose(goal: Goal, view: &View, horizon: u64, rewritten: &HashSet<(u64, u64)>) -> Option<Range<usize>> {
    let count = view.segments.partition_point(|live| live.segment.name().last <= horizon);
    let segments = view.segments.get(..count)?;
    let sizes: Vec<u64> = segments.iter().map(|live| live.segment.footer().file_len).collect();
    let fresh =
        |live: &LiveSegment| !rewritten.contains(&(live.segment.name().first, live.segment.name().last));
    let range = match goal {
        Goal::Background => plan::background(&sizes, Limits { max_bytes: MAX_SEGMENT }),
        Goal::Compact { max_bytes } => {
            let dead: Vec<bool> = segments.iter().map(|live| fresh(live) && live.dead.is_some()).collect();
            plan::compact(&sizes, &dead, Limits { max_bytes })
        }
        Goal::Full => {
            let tombstones =
                |live: &LiveSegment| live.segment.footer().kinds.last().is_some_and(|count| *count > 0);
            let untidy = segments.iter().any(|live| fresh(live) && (live.dead.is_some() || tombstones(live)));
            (segments.len() > 1 || untidy && !segments.is_empty()).then_some(0..segments.len())
        }
    }?;
    // Entry numbers within a segment have 32 bits.
    let entries: u64 =
        view.segments.get(range.clone())?.iter().map(|live| live.segment.footer().entries).sum();
    (entries < u64::from(u32::MAX)).then_some(range)
}
