//! When to merge what: in the background, inline when files pile up, or because somebody asks.

use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::housekeeping;
use super::plan::{self, Limits};
use super::throttle::Pace;
use crate::event::Event;
use crate::inner::Inner;
use crate::load;
use crate::lock::{Lock, Watch};
use crate::manifest::Manifest;
use crate::sync::atomic::Ordering;
use crate::sync::nap;
use crate::view::{LiveSegment, View};
use crate::writer::{LOCK, LOCK_MERGE};
use crate::{Compacted, Result};

/// Segments are merged up to this size, unless asked otherwise.
pub(crate) const MAX_SEGMENT: u64 = 4 << 30;
const LIMITS: Limits = Limits { max_bytes: MAX_SEGMENT };
/// Files from which on an append merges some itself, if nobody else does.
const BACKLOG: usize = 128;
/// Files from which on an append waits for whoever merges, so that files stay few whatever the speeds.
const FULL_STOP: usize = 180;
/// Files that come in after a failed attempt before an append tries again.
const RETRY_AFTER: usize = 64;
/// New files that the manifest lists from which on a merge that takes longer lets a smaller one go first.
const TAIL: usize = 32;
/// New files from which on that one does not wait until they are listed (whoever commits lists them now and then, and would
/// have to wait if the merge did), as long as there are fewer than [`CROWDED`] files in all.
const LONG_TAIL: usize = 96;
/// Files from which on there is no time for that: a merge takes as long as 20 commits, and at [`FULL_STOP`] appends wait.
const CROWDED: usize = 152;
/// How many merges may be under way within each other. Each has newer and fewer files than the one around it.
const DEPTH: usize = 4;
/// Time rested per time worked, by somebody who compacts a store that others append to.
const COURTESY: f64 = 4.0;
/// Files that come in between two looks at what another process's merger has done.
const LOOK_EVERY: usize = 8;
/// How often an append that waits for another process's merger looks.
const LOOK: Duration = Duration::from_millis(1);

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
    /// Merges while the background policy finds something to do. False when somebody else is merging.
    pub fn merge_in_background(&self, pace: &Pace) -> Result<bool> {
        if !self.has_plan() {
            return Ok(true);
        }
        let mut lock = self.merge_lock()?;
        if lock.try_acquire()?.is_none() {
            return Ok(false);
        }
        let result = self.merge_all(Goal::Background, pace);
        lock.release();
        result.map(|_| true)
    }

    /// Merges in the calling thread when files pile up. A failure here is no failure of the append.
    pub fn merge_backlog(&self) {
        let files = self.files();
        if files < BACKLOG.max(self.merge_again_at.load(Ordering::Relaxed)) {
            return;
        }
        // Where nothing is to be merged, what is being removed may still have to go first.
        if !self.has_plan() && (files < FULL_STOP || self.going.left() == 0) {
            return;
        }
        let merged = if files < FULL_STOP {
            self.merge_in_background(&Pace::full_speed())
        } else {
            self.wait_for_merge().map(|()| true)
        };
        let (again_at, merged) = match merged {
            Ok(true) => (0, Ok(())),
            // Another process is merging what this handle still sees as many files.
            Ok(false) => match self.reload_if_fewer(BACKLOG) {
                Ok(true) => (0, Ok(())),
                Ok(false) => ((files + LOOK_EVERY).min(FULL_STOP), Ok(())),
                Err(error) => (files + RETRY_AFTER, Err(error)),
            },
            // After a failure (a damaged input, a full disk) appends go on for a while before the next attempt.
            Err(error) => (files + RETRY_AFTER, Err(error)),
        };
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

    /// Waits until whoever merges has made files few, at full speed, or merges them here.
    fn wait_for_merge(&self) -> Result<()> {
        self.hurry.fetch_add(1, Ordering::Relaxed);
        let result = self.lock_timeout().and_then(|timeout| {
            let start = Instant::now();
            let mut lock = self.merge_lock()?;
            loop {
                if lock.try_acquire()?.is_some() {
                    let result = self.merge_all(Goal::Background, &Pace::full_speed());
                    lock.release();
                    return result.map(drop);
                }
                if self.reload_if_fewer(FULL_STOP)? {
                    return Ok(());
                }
                if start.elapsed() >= timeout {
                    // Says who holds the lock.
                    return lock.acquire(Duration::ZERO).map(|_| lock.release()).map(drop);
                }
                nap(LOOK.min(timeout));
            }
        });
        self.hurry.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Takes over what another merger has achieved. Says whether there are fewer live segments now.
    fn reload_if_fewer(&self, than: usize) -> Result<bool> {
        // The merger of this very handle publishes a view itself.
        let few = || self.files() < than;
        if few() {
            return Ok(true);
        }
        let manifest = Manifest::read(&*self.vfs, &self.path)?;
        let listed = manifest.body.segments.len() + self.count_after(manifest.body.last_commit())?;
        if listed + self.going.left() < than {
            self.reload_lightly()?;
        }
        Ok(few())
    }

    /// Live files, and those that this handle's merger is about to remove.
    fn files(&self) -> usize {
        let view = Arc::clone(&self.view.read());
        self.going.and_live(&view)
    }

    /// How many files there are after a commit.
    fn count_after(&self, commit: u64) -> Result<usize> {
        let names = load::list_segments(&*self.vfs, &self.path)?;
        Ok(names.iter().filter(|name| name.first > commit).count())
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
        let watch = Watch::open(&*self.vfs, &self.path.join(LOCK));
        let pace =
            Pace { rest: COURTESY, commits: Some(Rc::new(watch)), always: false, ..Pace::full_speed() };
        let result = self.merge_all(goal, &pace);
        lock.release();
        result
    }

    fn merge_lock(&self) -> Result<Lock> {
        Lock::open(&*self.vfs, &self.path.join(LOCK_MERGE), "merge")
    }

    /// A look at the view, without any file operation.
    fn has_plan(&self) -> bool {
        let view = Arc::clone(&self.view.read());
        // A backup that nothing was written to stays one.
        !view.meta.is_backup && choose(Goal::Background, &view, view.last_commit(), &HashSet::new()).is_some()
    }

    fn merge_all(&self, goal: Goal, pace: &Pace) -> Result<Compacted> {
        let mut total = Compacted::default();
        // Commits that come in meanwhile are left to the next time: with a steady writer this would never end.
        let mut horizon = None;
        // What others supersede meanwhile in a segment that was just written is left to the next time too.
        let mut rewritten = HashSet::new();
        loop {
            let view = match horizon {
                Some(_) => self.listed()?,
                None => self.with_enough(|view| {
                    goal == Goal::Background && choose(goal, view, view.last_commit(), &rewritten).is_some()
                })?,
            };
            if horizon.is_none() {
                total.segments_before = view.segments.len();
                let timeout = self.lock_timeout()?;
                housekeeping::drop_dead_pins(&*self.vfs, &self.path, timeout)?;
                housekeeping::remove_leftovers(&*self.vfs, &self.path, timeout)?;
            }
            let horizon = *horizon.get_or_insert(view.last_commit());
            let Some(range) = choose(goal, &view, horizon, &rewritten) else {
                total.segments_after = view.segments.len();
                // Another process may have merged what this handle still sees as it was, and would want to merge.
                let known = Arc::clone(&self.view.read());
                let same = |a: &LiveSegment, b: &LiveSegment| a.segment.name() == b.segment.name();
                let is_known =
                    known.segments.iter().zip(&view.segments).all(|(known, listed)| same(known, listed));
                drop(known);
                if !is_known {
                    self.reload_lightly()?;
                }
                return Ok(total);
            };
            // What is written to a backup is a history of its own, which begins under the commit lock, and without the
            // files that an interrupted backup brought.
            if view.meta.is_backup {
                self.with_writer("merge", |writer, view| {
                    writer.locked(view, |writer, view| writer.list_commits(view))
                })?;
                continue;
            }
            let commits = view.segments.get(range.clone()).unwrap_or_default();
            if let (Some(first), Some(last)) = (commits.first(), commits.last()) {
                rewritten.insert((first.segment.name().first, last.segment.name().last));
            }
            self.merge(&view, range, pace, DEPTH, &mut total)?;
            self.reload()?;
        }
    }

    /// Keeps the files after a commit few, while a merge of older ones is under way in this thread.
    pub(super) fn merge_tail(&self, after: u64, pace: &Pace, depth: usize) -> Result<()> {
        let tail = |view: &View| {
            let start = view.segments.partition_point(|live| live.segment.name().last <= after);
            let range = plan::tail(sizes(view).get(start..).unwrap_or_default(), TAIL, LIMITS)?;
            Some(range.start + start..range.end + start)
        };
        // Files may be there that named checkpoints alone need: only what the manifest lists counts, and what is newer.
        let manifest = Manifest::read(&*self.vfs, &self.path)?;
        let listed = manifest.body.segments.iter().filter(|record| record.first > after).count();
        let unlisted = self.count_after(manifest.body.last_commit().max(after))?;
        // Those that the outer merge keeps count too, where appends wait for files to become fewer.
        let all = manifest.body.segments.len() + unlisted;
        let long = if all < CROWDED { LONG_TAIL } else { TAIL };
        if listed < TAIL && listed + unlisted < long {
            return Ok(());
        }
        let view = self.with_enough(|view| tail(view).is_some() || listed + unlisted < long)?;
        let Some(range) = tail(&view) else { return Ok(()) };
        self.merge(&view, range, pace, depth, &mut Compacted::default())?;
        self.reload().map(drop)
    }
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
        Goal::Background => plan::background(&sizes, LIMITS).or_else(|| {
            segments.iter().position(|live| fresh(live) && is_mostly_dead(live)).map(|at| at..at + 1)
        }),
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

/// Worth rewriting alone: what goes is at least as much as what is copied.
fn is_mostly_dead(live: &LiveSegment) -> bool {
    let footer = live.segment.footer();
    let half = |dead: u64, all: u64| dead > 0 && dead >= all - dead.min(all);
    // Fresh segments are merged soon anyway.
    footer.file_len > plan::FRESH
        && live.dead.as_ref().is_some_and(|dead| {
            if footer.rows > 0 {
                half(dead.row_count, footer.rows)
            } else {
                half(dead.entry_count(), footer.entries)
            }
        })
}
