//! The live state of a store at one moment: segments in order, and the entries that newer ones have
//! superseded.
//!
//! A view never changes once it is published; a commit publishes a new view that shares all segments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::base::{Bug, DType, Error, Result};
use crate::format::columns::Column;
use crate::format::records::Kill;
use crate::format::{Id, check_may_write, key_hash, settings};
use crate::segment::{Segment, SegmentName};
use crate::state::{Body, Dead, EpochRecord, MANIFEST, Manifest, SegmentRecord};
use crate::types::{Fingerprint, Metric};

/// Counts over the live entries of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Keys that are stored: entries with rows, empty and rejected ones.
    pub entries: u64,
    /// Entries of kind [`Kind::Rows`](crate::Kind::Rows).
    pub with_rows: u64,
    /// Entries of kind [`Kind::Empty`](crate::Kind::Empty).
    pub empty: u64,
    /// Entries of kind [`Kind::Rejected`](crate::Kind::Rejected).
    pub rejected: u64,
    /// Entries of kind [`Kind::Tombstone`](crate::Kind::Tombstone).
    pub tombstones: u64,
    /// Live rows.
    pub rows: u64,
    /// Rows in the files whose entries were replaced or deleted; merges drop them.
    pub dead_rows: u64,
    /// Bytes of all segment files, superseded entries included.
    pub bytes: u64,
    /// Bytes that a [full compaction](crate::Store::compact_full) would give back: dead rows, and an estimate
    /// of the keys, payloads and tables of dead entries, as if all entries of a file had equally large ones.
    pub reclaimable_bytes: u64,
}

impl Totals {
    /// The counts by kind, in the order of the kinds' codes.
    fn kinds(&mut self) -> [&mut u64; 4] {
        [&mut self.with_rows, &mut self.empty, &mut self.rejected, &mut self.tombstones]
    }
}

/// Properties that all segments of a store share, from the manifest.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub store_id: Id,
    pub dim: usize,
    pub dtype: DType,
    pub metric: Metric,
    pub fingerprint: Option<Fingerprint>,
    pub settings: BTreeMap<String, String>,
    pub epochs: Vec<EpochRecord>,
    /// True if the store was made as a backup and nothing has been written to it since.
    pub is_backup: bool,
    /// Listed segments that a merge found damaged.
    pub damaged: BTreeSet<SegmentName>,
}

impl Meta {
    /// Content of a segment's settings section: the user's settings, and the fingerprint's description.
    pub fn segment_settings(&self) -> Result<Vec<u8>> {
        let mut all = self.settings.clone();
        if let Some(fingerprint) = &self.fingerprint {
            all.insert(settings::FINGERPRINT.to_owned(), fingerprint.description().to_owned());
        }
        settings::encode(&all)
    }

    pub fn of(body: &Body) -> Self {
        Meta {
            store_id: body.store_id,
            dim: body.dim as usize,
            dtype: DType::from_code(body.dtype).unwrap_or(DType::F32),
            metric: Metric::from_code(body.metric).unwrap_or(Metric::Cosine),
            fingerprint: body.fingerprint(),
            settings: body.settings.clone(),
            epochs: body.epochs.clone(),
            is_backup: body.is_backup,
            damaged: body.damaged.clone(),
        }
    }

    pub fn epoch(&self) -> Id {
        self.epochs.last().map_or([0; 16], |epoch| epoch.id)
    }
}

/// A segment and its superseded entries.
#[derive(Clone, Debug)]
pub(crate) struct LiveSegment {
    pub segment: Arc<Segment>,
    pub dead: Option<Arc<Dead>>,
}

impl LiveSegment {
    #[inline]
    pub fn is_live(&self, entry: usize) -> Result<bool> {
        self.dead.as_ref().map_or(Ok(true), |dead| Ok(!dead.has_entry(entry)?))
    }

    #[inline]
    pub fn is_row_live(&self, row: usize) -> Result<bool> {
        self.dead.as_ref().map_or(Ok(true), |dead| Ok(!dead.has_row(row)?))
    }
}

/// True if a fingerprint differs from the recorded one; false if either is unknown.
pub(crate) fn is_of_other_model(recorded: Option<&[u8; 32]>, fingerprint: &[u8; 32]) -> bool {
    *fingerprint != [0; 32] && recorded.is_some_and(|recorded| recorded != fingerprint)
}

/// The kill by which commit `killer` replaces or deletes an entry of a segment.
pub(crate) fn kill_of(segment: &Segment, index: usize, killer: u64) -> Result<Kill> {
    let damaged = |section, what| Error::damaged(segment.path(), section, format!("entry {index} {what}"));
    let (commit, entry) = segment.origin(index).ok_or_else(|| damaged("RUNS", "is in no run"))?;
    let (kind, rows) = segment.kind_and_rows(index)?;
    let row = segment.address_of_entry(index, rows.start).row;
    let rows = u32::try_from(rows.len()).map_err(|_| damaged("REND", "has 2^32 rows or more"))?;
    Ok(Kill { killer, commit, entry, row, rows, kind: kind.code(), padding: [0; 3] })
}

/// The live state at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub meta: Arc<Meta>,
    /// Last commit that the manifest of this view lists.
    pub manifest_last: u64,
    /// The manifest's ro-compat flags.
    pub ro_compat: u64,
    pub segments: Vec<LiveSegment>,
    pub totals: Totals,
    /// Last commit up to which every kill is in the bitmaps that the manifest lists.
    pub covered: u64,
    /// True if a liveness bitmap that the manifest lists was missing or damaged: the next checkpoint writes
    /// all of them anew.
    pub distrusts_bitmaps: bool,
}

impl View {
    /// A view of a manifest without its segments.
    pub fn empty(manifest: &Manifest) -> Self {
        View {
            meta: Arc::new(Meta::of(&manifest.body)),
            manifest_last: manifest.body.last_commit(),
            ro_compat: manifest.ro_compat,
            segments: Vec::new(),
            totals: Totals::default(),
            covered: manifest.body.live_last,
            distrusts_bitmaps: false,
        }
    }

    /// Takes over the segments of another view and their superseded entries.
    pub fn take_over(&mut self, other: &View) {
        self.segments.clone_from(&other.segments);
        (self.totals, self.distrusts_bitmaps) = (other.totals, other.distrusts_bitmaps);
    }

    /// All counts.
    pub fn totals(&self) -> Totals {
        let mut totals = self.totals;
        totals.entries = totals.with_rows.saturating_add(totals.empty).saturating_add(totals.rejected);
        let (dtype, dim) = (self.meta.dtype, self.meta.dim);
        // A norm, and a scale where the element type has them, belong to each row.
        let row_bytes = (dim * dtype.size() + if dtype.has_scales() { 8 } else { 4 }) as u64;
        for LiveSegment { segment, dead } in &self.segments {
            let footer = segment.footer();
            let (dead_entries, dead_rows, dead_deletions) = dead.as_ref().map_or((0, 0, 0), |dead| {
                let [.., deletions] = dead.kinds;
                (dead.entry_count(), dead.row_count, deletions)
            });
            // A full compaction drops deletions too.
            let [.., deletions] = footer.kinds;
            let dead_entries = dead_entries + deletions.saturating_sub(dead_deletions);
            let beside_rows = footer.file_len.saturating_sub(footer.rows.saturating_mul(row_bytes));
            let share =
                u128::from(beside_rows) * u128::from(dead_entries) / u128::from(footer.entries.max(1));
            let of_entries = u64::try_from(share).unwrap_or(beside_rows);
            totals.dead_rows = totals.dead_rows.saturating_add(dead_rows);
            let reclaimable = dead_rows.saturating_mul(row_bytes).saturating_add(of_entries);
            totals.reclaimable_bytes = totals.reclaimable_bytes.saturating_add(reclaimable);
        }
        totals
    }

    pub fn last_commit(&self) -> u64 {
        self.segments.last().map_or(0, |live| live.segment.footer().last)
    }

    /// Records of this view's segments, as a manifest lists them.
    pub fn records(&self) -> impl Iterator<Item = SegmentRecord> + '_ {
        self.segments.iter().map(|live| SegmentRecord::of(&live.segment))
    }

    /// The first commit that the manifest does not list. If a flush fails, this commit and all later ones are
    /// in doubt.
    pub fn first_unlisted(&self) -> u64 {
        self.manifest_last + 1
    }

    /// The `link_in` that the next segment must have.
    pub fn link(&self) -> Id {
        let first_epoch = || self.meta.epochs.first().map_or([0; 16], |epoch| epoch.id);
        self.segments.last().map_or_else(first_epoch, |live| live.segment.footer().link_out)
    }

    /// Adds the next segment, after checking that it belongs here, and applies its kills.
    pub fn add(&mut self, segment: Arc<Segment>, listed: Option<&SegmentRecord>) -> Result<()> {
        let kills = segment.checked_kills()?;
        self.add_covered(Arc::clone(&segment), listed, None)?;
        for kill in kills {
            self.apply_kill(kill)?;
        }
        Ok(())
    }

    /// Adds the next segment, after checking that it belongs here: store, shape, fingerprint, epoch, link,
    /// and, if the manifest lists it, that it is the very file. Its superseded entries are in `dead`, and its
    /// own kills are not applied: bitmaps contain both.
    pub fn add_covered(
        &mut self,
        segment: Arc<Segment>,
        listed: Option<&SegmentRecord>,
        dead: Option<Arc<Dead>>,
    ) -> Result<()> {
        let footer = segment.footer();
        let foreign = |detail: String| Err(Error::ForeignSegment { path: segment.path().to_owned(), detail });
        if footer.store_id != self.meta.store_id && !Bug::TrustStore.is_on() {
            return foreign("it is of another store".to_owned());
        }
        if footer.dim as usize != self.meta.dim
            || footer.dtype != self.meta.dtype.code()
            || footer.metric != self.meta.metric.code()
        {
            return foreign("its dimension, element type or metric is not the store's".to_owned());
        }
        if is_of_other_model(self.meta.fingerprint.as_ref().map(Fingerprint::id), &footer.fingerprint) {
            return foreign("its vectors have another fingerprint than the store's".to_owned());
        }
        if footer.first != self.last_commit() + 1 {
            return foreign(format!("expected commit {}, found {}", self.last_commit() + 1, footer.first));
        }
        if footer.link_in != self.link() && !Bug::TrustLink.is_on() {
            let detail = "its link does not continue the segment before it (swapped, or another history)";
            return foreign(detail.to_owned());
        }
        match listed {
            Some(record) if *record != SegmentRecord::of(&segment) && !Bug::TrustListed.is_on() => {
                return foreign("it is not the file that the manifest lists under this name".to_owned());
            }
            None if !self.may_follow(footer.last, footer.epoch) && !Bug::TrustEpoch.is_on() => {
                return foreign("it was written in another epoch (before a restore, say)".to_owned());
            }
            _ => {}
        }
        let (dead_kinds, dead_rows) = dead.as_ref().map_or(([0; 4], 0), |dead| (dead.kinds, dead.row_count));
        for (total, (count, dead)) in self.totals.kinds().into_iter().zip(footer.kinds.iter().zip(dead_kinds))
        {
            *total = total.saturating_add(count.saturating_sub(dead));
        }
        self.totals.rows = self.totals.rows.saturating_add(footer.rows.saturating_sub(dead_rows));
        self.totals.bytes = self.totals.bytes.saturating_add(footer.file_len);
        self.segments.push(LiveSegment { segment, dead });
        Ok(())
    }

    /// True if a segment up to commit `last` may be of this epoch. After the listed commits only the
    /// manifest's last epoch may; a file that stands in for listed files may be of any epoch that the
    /// manifest knows.
    fn may_follow(&self, last: u64, epoch: Id) -> bool {
        if last > self.manifest_last {
            return epoch == self.meta.epoch();
        }
        self.meta.epochs.iter().any(|known| known.id == epoch)
    }

    /// Marks an entry as superseded. A repeated kill, or a kill of an entry that a merge has dropped, changes
    /// nothing.
    fn apply_kill(&mut self, kill: &Kill) -> Result<()> {
        let at = self.place_of(kill.commit);
        let Some(live) = at.and_then(|at| self.segments.get_mut(at)) else { return Ok(()) };
        let segment = &live.segment;
        let is_there = segment.locate_entry(kill.commit, kill.entry).is_some();
        let dead = live.dead.as_mut().filter(|_| is_there);
        let is_new = match dead {
            Some(dead) => Arc::make_mut(dead).apply(segment, kill)?,
            None if is_there => {
                let mut dead = Dead::none(segment);
                let is_new = dead.apply(segment, kill)?;
                live.dead = Some(Arc::new(dead));
                is_new
            }
            None => false,
        };
        if !is_new {
            return Ok(());
        }
        self.totals.rows = self.totals.rows.saturating_sub(u64::from(kill.rows));
        if let Some(total) = self.totals.kinds().get_mut(usize::from(kill.kind)) {
            **total = total.saturating_sub(1);
        }
        Ok(())
    }

    /// Number of kills that an opener replays if the store's bitmaps are complete up to a commit.
    pub fn kills_after(&self, commit: u64) -> u64 {
        let after = self.segments.iter().filter(|live| live.segment.footer().last > commit);
        after.flat_map(|live| live.segment.footer().killed).fold(0, u64::saturating_add)
    }

    /// True if a checkpoint now would give the next opener derived files that it lacks: bitmaps of kills,
    /// filters of keys. Never for a backup: a change makes it a store of its own.
    pub fn wants_derived(&self) -> bool {
        !self.meta.is_backup
            && (self.distrusts_bitmaps() || self.kills_after(self.covered) > 0 || self.lacks_filters())
    }

    /// True if a large segment has no sound filter.
    pub fn lacks_filters(&self) -> bool {
        self.segments.iter().any(|live| live.segment.lacks_filter())
    }

    /// True if a bitmap is missing or damaged.
    pub fn distrusts_bitmaps(&self) -> bool {
        let is_damaged = |live: &LiveSegment| live.dead.as_ref().is_some_and(|dead| dead.is_damaged());
        self.distrusts_bitmaps || self.segments.iter().any(is_damaged)
    }

    /// True if a kill agrees with the entry that it names, or if a merge has dropped that entry.
    pub fn kill_agrees(&self, kill: &Kill) -> Result<bool> {
        self.segment_of(kill.commit).map_or(Ok(false), |live| live.segment.agrees_with(kill))
    }

    /// Refuses to write to a store with features that this version can only read.
    pub fn check_writable(&self) -> Result<()> {
        let segments = self.segments.iter().map(|live| &live.segment);
        let segments = segments.map(|segment| (segment.path(), segment.footer().ro_compat));
        let mut all = std::iter::once((Path::new(MANIFEST), self.ro_compat)).chain(segments);
        all.try_for_each(|(path, flags)| check_may_write(path, flags))
    }

    /// The newest entry with this key, tombstones included, as its segment and its number there.
    pub fn find(&self, key: &[u8]) -> Result<Option<(&Arc<Segment>, usize)>> {
        let hash = key_hash(key);
        for live in self.segments.iter().rev() {
            if let Some(index) = live.segment.find(hash, key)? {
                return Ok(Some((&live.segment, index)));
            }
        }
        Ok(None)
    }

    /// The column of an attribute in the newest segment that has it. An attribute has the same type in all
    /// segments.
    pub fn column(&self, name: &str) -> Result<Option<&Column>> {
        for live in self.segments.iter().rev() {
            if let Some(column) = live.segment.directory()?.column(name) {
                return Ok(Some(column));
            }
        }
        Ok(None)
    }

    /// Number of the last segment that begins with this commit or an earlier one.
    fn place_of(&self, commit: u64) -> Option<usize> {
        self.segments.partition_point(|live| live.segment.footer().first <= commit).checked_sub(1)
    }

    /// The segment that covers a commit.
    pub fn segment_of(&self, commit: u64) -> Option<&LiveSegment> {
        self.segments.get(self.place_of(commit)?).filter(|live| commit <= live.segment.footer().last)
    }

    /// The open segment of a file, for reuse in a later view.
    pub fn open_segment(&self, name: SegmentName, path: &Path) -> Option<Arc<Segment>> {
        let segment = &self.segment_of(name.first)?.segment;
        (segment.name() == name && segment.path() == path).then(|| Arc::clone(segment))
    }
}
