//! When merges run: in the background, in an append when files pile up, or because a user asks.

use super::host::{Host, Merges};
use crate::lock::LOCK;
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::housekeeping;
use super::pace::Pace;
use super::plan::{self, Lane, Piece};
use crate::base::sync::atomic::Ordering;
use crate::base::sync::nap;
use crate::base::{Error, Event, Progress, Result};
use crate::lock::{Lanes, Lock, Watch, open_large, open_small};
use crate::merge::CompactReport;
use crate::state::{LiveSegment, Manifest, View, load};

/// Size of the largest segment that a merge makes, unless asked otherwise.
pub(crate) const MAX_SEGMENT: u64 = 4 << 30;
/// Files from which on an append merges small files itself, unless another thread or process does.
const BACKLOG: usize = 128;
/// Files from which on an append waits for mergers, so that files stay few even if appends are faster than
/// merges.
const FULL_STOP: usize = 180;
/// Further files after a failed merge before an append tries again.
const RETRY_AFTER: usize = 64;
/// Time rested per time worked, in a compaction while other threads or processes append.
const COURTESY: f64 = 4.0;
/// Further files between two looks at the results of another process's merger.
const LOOK_EVERY: usize = 8;
/// Interval at which an append that waits for mergers polls.
const LOOK: Duration = Duration::from_millis(1);

/// The goal of a merge of large files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Few files, for little work.
    Background,
    /// Neighbours joined up to `max_bytes`, without superseded entries.
    Compact { max_bytes: u64 },
    /// One segment for the whole store.
    Full,
}

/// State of one round of merges.
#[derive(Debug, Default)]
struct Round {
    /// True if a user asked for the round: then a checkpoint first lists every commit.
    is_explicit: bool,
    /// The last commit when the round began. Later commits are left to the next round: with a steady writer
    /// this round would never end.
    horizon: Option<u64>,
    /// Ranges of the segments that the round has written. Entries superseded in them meanwhile are left to
    /// the next round.
    written: HashSet<(u64, u64)>,
    total: CompactReport,
}

impl<H: Host> Merges<'_, H> {
    /// Merges as long as the lane's plan finds something to do. False if another thread or process is merging
    /// in the lane.
    pub fn merge_in_background(&self, lane: Lane, pace: &Pace<'_>) -> Result<bool> {
        if !self.has_plan(lane) {
            return Ok(true);
        }
        if lane == Lane::Small {
            self.clean_once()?;
        }
        let mut lock = match lane {
            Lane::Small => open_small(self.host.vfs(), self.host.path())?,
            Lane::Large => open_large(self.host.vfs(), self.host.path())?,
        };
        let Some(found) = lock.try_acquire()? else { return Ok(false) };
        if found.died {
            self.state.is_clean.store(false, Ordering::Relaxed);
        }
        let round = &mut Round::default();
        let merged = match lane {
            Lane::Small => {
                self.merge_small(|pieces| plan::background(pieces, lane, self.state.max_segment), pace, round)
            }
            Lane::Large => self.merge_large(&mut lock, Goal::Background, pace, round).map(|()| true),
        };
        lock.release();
        merged
    }

    /// Merges files in the calling thread if they pile up. A failure here does not fail the append.
    pub fn merge_backlog(&self) {
        if self.state.closing.load(Ordering::Relaxed) {
            return;
        }
        let files = self.files();
        if files < BACKLOG.max(self.state.again_at.load(Ordering::Relaxed)) {
            return;
        }
        // Without a plan, inputs that are being removed may still have to go before appends go on.
        let has_plan = self.has_plan(Lane::Small) || self.has_plan(Lane::Large);
        if !has_plan && (files < FULL_STOP || self.files_going() == 0) {
            return;
        }
        let merged = if files < FULL_STOP {
            self.merge_in_background(Lane::Small, &self.inline())
        } else {
            // Mergers do not rest while an append waits.
            self.state.hurry.fetch_add(1, Ordering::Relaxed);
            let merged = self.merge_until_few().map(|()| true);
            self.state.hurry.fetch_sub(1, Ordering::Relaxed);
            merged
        };
        // Another process may have merged files that this handle still counts.
        let merged = merged.and_then(|alone| if alone { Ok(true) } else { self.reload_if_fewer(BACKLOG) });
        let again_at = match merged {
            // After a failure (a full disk, say) appends go on for a while before the next attempt.
            Err(_) => files + RETRY_AFTER,
            Ok(_) if self.files() < BACKLOG => 0,
            // The files are claimed by another merger, or cannot be merged.
            Ok(_) if files < FULL_STOP => (files + LOOK_EVERY).min(FULL_STOP),
            Ok(_) => files + LOOK_EVERY,
        };
        self.state.again_at.store(again_at, Ordering::Relaxed);
        if !self.state.closing.load(Ordering::Relaxed) {
            self.note_merge(Lane::Small, &merged.map(drop));
        }
    }

    /// Reports a failed merge as an event that counts the failures in a row.
    pub fn note_merge(&self, lane: Lane, merged: &Result<()>) {
        let failed = &self.state.lane(lane).failed;
        let Err(error) = merged else {
            failed.store(0, Ordering::Relaxed);
            return;
        };
        // A failed merge may have left an output that the manifest does not list.
        self.state.is_clean.store(false, Ordering::Relaxed);
        let attempts = failed.fetch_add(1, Ordering::Relaxed) + 1;
        self.host.note(&Event::MergeFailed { attempts, error: error.clone() });
    }

    /// Waits until mergers have made files few, or merges in this thread.
    fn merge_until_few(&self) -> Result<()> {
        let (start, timeout) = (Instant::now(), self.lock_timeout()?);
        loop {
            let mut is_alone = true;
            for lane in [Lane::Small, Lane::Large] {
                is_alone &= self.merge_in_background(lane, &self.inline())?;
                if self.files() < FULL_STOP || self.state.closing.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
            // Nothing is left to merge or to remove, or another process has made files few.
            if is_alone && self.files_going() == 0 || self.reload_if_fewer(FULL_STOP)? {
                return Ok(());
            }
            if timeout.left(start.elapsed()).is_zero() {
                // An attempt without waiting gives the error that names the process with the lock.
                let probe = |mut lock: Lock| lock.hold(Duration::ZERO, |_| Ok(()));
                probe(open_large(self.host.vfs(), self.host.path())?)?;
                return probe(open_small(self.host.vfs(), self.host.path())?);
            }
            nap(LOOK);
        }
    }

    /// Reads the result of another process's merger. True if fewer than `than` files are left.
    fn reload_if_fewer(&self, than: usize) -> Result<bool> {
        // This handle's own mergers publish their views themselves.
        let few = || self.files() < than;
        if few() {
            return Ok(true);
        }
        let manifest = Manifest::read(self.host.vfs(), self.host.path())?;
        let damaged = &manifest.body.damaged;
        let is_barrier = |bytes, name| {
            let piece = Piece { bytes, is_left_alone: damaged.contains(&name), ..Piece::default() };
            plan::is_barrier(&piece, self.state.max_segment)
        };
        let listed = manifest.body.segments.iter();
        let listed = plan::mergeable(listed.map(|record| is_barrier(record.file_len, record.name())));
        if listed + self.count_after(manifest.body.last_commit())? + self.files_going() < than {
            self.host.reload()?;
        }
        Ok(few())
    }

    /// Number of live files that merges could reduce, plus the inputs that this handle's mergers are about to
    /// remove.
    fn files(&self) -> usize {
        let view = self.host.view();
        let max_segment = self.state.max_segment;
        let mergeable = plan::mergeable(
            view.segments.iter().map(|live| plan::is_barrier(&piece(&view, live), max_segment)),
        );
        let going: usize =
            [Lane::Small, Lane::Large].map(|lane| self.state.lane(lane).going.beside(&view)).iter().sum();
        mergeable + going
    }

    /// Number of merge inputs that are neither listed nor removed yet.
    fn files_going(&self) -> usize {
        self.state.lane(Lane::Small).going.left() + self.state.lane(Lane::Large).going.left()
    }

    /// Number of segment files that begin after a commit.
    fn count_after(&self, commit: u64) -> Result<usize> {
        let names = load::list_segments(self.host.vfs(), self.host.path())?;
        Ok(names.iter().filter(|name| name.first > commit).count())
    }

    /// Removes leftovers before a handle's first merge, and before the next one after a merge failed or its
    /// process died.
    fn clean_once(&self) -> Result<()> {
        if self.state.is_clean.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut lanes = Lanes::open(self.host.vfs(), self.host.path())?;
        if !lanes.try_acquire()? {
            return Ok(());
        }
        let result = self.clean();
        lanes.release();
        self.state.is_clean.store(result.is_ok(), Ordering::Relaxed);
        result
    }

    fn clean(&self) -> Result<()> {
        let timeout = self.lock_timeout()?;
        housekeeping::drop_dead_pins(self.host.vfs(), self.host.path(), &timeout)?;
        housekeeping::remove_leftovers(self.host.vfs(), self.host.path(), &timeout)
    }

    /// Removes files that are no longer needed. While files are being merged, that is left to a later merge.
    pub fn tidy(&self) -> Result<()> {
        self.state.is_clean.store(false, Ordering::Relaxed);
        self.clean_once()
    }

    /// Merges neighbours into segments of at most `max_bytes`, or with `None` the whole store into one
    /// segment.
    pub fn compact(&self, max_bytes: Option<u64>, progress: Option<&Progress>) -> Result<CompactReport> {
        let timeout = self.lock_timeout()?;
        let watch = Watch::open(self.host.vfs(), &self.host.path().join(LOCK));
        let hurry = Arc::clone(&self.state.hurry);
        let commits = Some(Rc::new(watch));
        let pace = Pace { rest: COURTESY, commits, hurry, progress, ..Pace::full_speed() };
        let most = max_bytes.unwrap_or(self.state.max_segment);
        let entries = self.host.view().segments.iter().map(|live| live.segment.footer().entries).sum::<u64>();
        if max_bytes.is_none() && entries > plan::MAX_ENTRIES {
            return Err(Error::invalid(format!(
                "a segment holds at most {} entries, and this store has {entries}; compact it without asking \
                 for one segment",
                plan::MAX_ENTRIES
            )));
        }
        let round = &mut Round { is_explicit: true, ..Round::default() };
        let goal = max_bytes.map_or(Goal::Full, |max_bytes| Goal::Compact { max_bytes });
        open_large(self.host.vfs(), self.host.path())?.hold(&timeout, |lock| {
            // Small files are merged first, so that few files are left while the longer merge of large ones
            // runs.
            let mut small = open_small(self.host.vfs(), self.host.path())?;
            small.hold(&timeout, |_| self.merge_small(|pieces| plan::fresh(pieces, most), &pace, round))?;
            self.merge_large(lock, goal, &pace, round)
        })?;
        let view = self.host.view();
        if let Some((live, why)) =
            view.segments.iter().find_map(|live| Some((live, live.segment.refuses_merge()?)))
            && goal == Goal::Full
        {
            return Err(Error::UnsupportedVersion {
                path: live.segment.path().to_owned(),
                expected: "not how to merge it; other files are merged".to_owned(),
                found: why,
            });
        }
        round.total.damaged = view.meta.damaged.len();
        match view.meta.damaged.first().filter(|_| goal == Goal::Full) {
            Some(name) => Err(Error::damaged(
                &self.host.path().join(load::SEGMENTS).join(name.to_string()),
                "rows, keys or tables",
                "it cannot be part of one segment".to_owned(),
            )),
            None => Ok(std::mem::take(&mut round.total)),
        }
    }

    /// True if a lane has something to merge. Looks only at the view, not at files.
    pub fn has_plan(&self, lane: Lane) -> bool {
        let view = self.host.view();
        // A backup that was never written to stays a backup.
        !view.meta.is_backup
            && plan::background(&pieces(&view, is_mostly_dead), lane, self.state.max_segment).is_some()
    }

    /// The pace of a merge in an append: full speed, until the handle is closed.
    fn inline(&self) -> Pace<'static> {
        Pace { stop: Arc::clone(&self.state.closing), ..Pace::full_speed() }
    }

    /// Under the small lane's lock: merges the files that `plan` chooses among those without a claim. False
    /// if some files are claimed.
    fn merge_small(
        &self,
        plan: impl Fn(&[Piece]) -> Option<Range<usize>>,
        pace: &Pace<'_>,
        round: &mut Round,
    ) -> Result<bool> {
        // This thread may hold the large lane's lock itself: then nothing is claimed yet.
        let mut large = open_large(self.host.vfs(), self.host.path())?;
        loop {
            let claimed = large.claimed()?;
            let choose = |view: &View, horizon: u64| {
                let from = view.segments.partition_point(|live| live.segment.name().first <= claimed);
                let to = view.segments.partition_point(|live| live.segment.name().last <= horizon);
                let all = pieces(view, is_mostly_dead);
                let range = plan(all.get(from..to).unwrap_or_default())?;
                Some(range.start + from..range.end + from)
            };
            let (view, range) = self.next(round, choose)?;
            let Some(range) = range else { return self.take_over(&view, round).map(|()| claimed == 0) };
            self.merge(&view, range, Lane::Small, pace, &mut round.total)?;
            self.host.reload()?;
        }
    }

    /// Under the large lane's lock: merges until the goal is reached. Each merge is planned under the small
    /// lane's lock, too.
    fn merge_large(&self, lock: &mut Lock, goal: Goal, pace: &Pace<'_>, round: &mut Round) -> Result<()> {
        let timeout = self.lock_timeout()?;
        let mut small = open_small(self.host.vfs(), self.host.path())?;
        small.hold(&timeout, |_| self.clean())?;
        loop {
            let (view, range) = small.hold(&timeout, |_| self.plan_large(lock, goal, round))?;
            let Some(range) = range else { return self.take_over(&view, round) };
            self.merge(&view, range, Lane::Large, pace, &mut round.total)?;
            self.host.reload()?;
        }
    }

    fn plan_large(
        &self,
        lock: &mut Lock,
        goal: Goal,
        round: &mut Round,
    ) -> Result<(View, Option<Range<usize>>)> {
        let written = round.written.clone();
        let choose =
            |view: &View, horizon: u64| choose(goal, view, horizon, &written, self.state.max_segment);
        let (view, range) = self.next(round, choose)?;
        let inputs = range.clone().and_then(|range| view.segments.get(range));
        if let Some([first, .., last] | [first @ last]) = inputs {
            let (first, last) = (first.segment.name().first, last.segment.name().last);
            round.written.insert((first, last));
            lock.claim(last)?;
        }
        Ok((view, range))
    }

    /// The view that the manifest lists, and the range of its segments to merge next.
    fn next(
        &self,
        round: &mut Round,
        choose: impl Fn(&View, u64) -> Option<Range<usize>>,
    ) -> Result<(View, Option<Range<usize>>)> {
        loop {
            let view = match round.horizon {
                Some(_) => self.listed()?,
                None => {
                    self.with_enough(|view| !round.is_explicit && choose(view, view.last_commit()).is_some())?
                }
            };
            if round.horizon.is_none() {
                round.total.segments_before = view.segments.len();
            }
            let horizon = *round.horizon.get_or_insert(view.last_commit());
            let range = choose(&view, horizon);
            if range.is_none() || !view.meta.is_backup {
                return Ok((view, range));
            }
            // A backup that is written to begins a history of its own: under the commit lock, and without the
            // files that an interrupted backup brought.
            self.host.locked(|writer, view| writer.list_commits(view))?;
        }
    }

    /// Ends a round. Another process may have merged segments of this handle's view, so the directory is read
    /// again.
    fn take_over(&self, view: &View, round: &mut Round) -> Result<()> {
        round.total.segments_after = view.segments.len();
        self.host.reload()
    }
}

/// The segments of a view, as a plan sees them. `is_worth`: true for a segment that is worth rewriting alone.
fn pieces(view: &View, is_worth: impl Fn(&LiveSegment) -> bool) -> Vec<Piece> {
    let all = view.segments.iter();
    all.map(|live| Piece { is_worth_rewriting: is_worth(live), ..piece(view, live) }).collect()
}

fn piece(view: &View, live: &LiveSegment) -> Piece {
    let footer = live.segment.footer();
    Piece {
        bytes: footer.file_len,
        entries: footer.entries,
        is_left_alone: view.meta.damaged.contains(&live.segment.name())
            || live.segment.refuses_merge().is_some(),
        is_worth_rewriting: false,
    }
}

/// The next merge of large files, among the segments up to commit `horizon`.
fn choose(
    goal: Goal,
    view: &View,
    horizon: u64,
    written: &HashSet<(u64, u64)>,
    max_segment: u64,
) -> Option<Range<usize>> {
    let has_tombstones =
        |live: &LiveSegment| live.segment.footer().kinds.last().is_some_and(|count| *count > 0);
    let is_worth = |live: &LiveSegment| {
        let name = live.segment.name();
        !written.contains(&(name.first, name.last))
            && match goal {
                Goal::Background => is_mostly_dead(live),
                Goal::Compact { .. } => live.dead.is_some(),
                Goal::Full => live.dead.is_some() || has_tombstones(live),
            }
    };
    let mut pieces = pieces(view, is_worth);
    pieces.truncate(view.segments.partition_point(|live| live.segment.name().last <= horizon));
    match goal {
        Goal::Background => plan::background(&pieces, Lane::Large, max_segment),
        Goal::Compact { max_bytes } => plan::compact(&pieces, max_bytes),
        Goal::Full => plan::compact(&pieces, u64::MAX),
    }
}

/// True if a segment is worth rewriting alone in the background: at least half of it is superseded.
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
