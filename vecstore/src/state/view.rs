//! The live state of a store at one moment: segments in order, and which entries newer ones have superseded.
//!
//! A view never changes once it is published; a commit publishes a new one that shares all segments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::base::{Bug, DType, Error, Result};
use crate::format::records::Kill;
use crate::format::{Id, KNOWN_RO_COMPAT, key_hash};
use crate::segment::{Segment, SegmentName};
use crate::state::{Body, Dead, EpochRecord, LiveRecord, Manifest, SegmentRecord, damaged};
use crate::types::{Fingerprint, Kind, Metric};

/// Counts over the live entries of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Entries of kind [`Kind::Rows`].
    pub entries: u64,
    /// Entries of kind [`Kind::Empty`].
    pub empty: u64,
    /// Entries of kind [`Kind::Rejected`].
    pub rejected: u64,
    /// Entries of kind [`Kind::Tombstone`].
    pub tombstones: u64,
    /// Live rows.
    pub rows: u64,
    /// Bytes of all segment files, superseded entries included.
    pub bytes: u64,
}

impl Totals {
    fn of_kind(&mut self, kind: usize) -> Option<&mut u64> {
        match kind {
            0 => Some(&mut self.entries),
            1 => Some(&mut self.empty),
            2 => Some(&mut self.rejected),
            3 => Some(&mut self.tombstones),
            _ => None,
        }
    }
}

/// What all segments of a store share, from the manifest.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub store_id: Id,
    pub dim: usize,
    pub dtype: DType,
    pub metric: Metric,
    pub fingerprint: Option<Fingerprint>,
    pub settings: BTreeMap<String, String>,
    pub epochs: Vec<EpochRecord>,
    /// Nothing has been written since this store was made as a backup.
    pub is_backup: bool,
    /// Listed segments that a merge has found damaged.
    pub damaged: BTreeSet<SegmentName>,
}

impl Meta {
    pub fn of(body: &Body) -> Self {
        Meta {
            store_id: body.store_id,
            dim: body.dim as usize,
            dtype: DType::from_code(body.dtype).unwrap_or(DType::F32),
            metric: Metric::from_code(body.metric).unwrap_or(Metric::Cosine),
            fingerprint: body.fingerprint(),
            settings: body.settings.clone(),
            epochs: body.epochs.clone(),
            is_backup: body.is_backup(),
            damaged: damaged::of(body),
        }
    }

    pub fn epoch(&self) -> Id {
        self.epochs.last().map_or([0; 16], |epoch| epoch.id)
    }
}

/// A segment and what of it is superseded.
#[derive(Clone, Debug)]
pub(crate) struct LiveSegment {
    pub segment: Arc<Segment>,
    pub dead: Option<Arc<Dead>>,
}

impl LiveSegment {
    #[inline]
    pub fn is_live(&self, entry: usize) -> bool {
        self.dead.as_ref().is_none_or(|dead| !dead.entries.contains(entry))
    }

    pub fn is_row_live(&self, row: usize) -> bool {
        self.dead.as_ref().is_none_or(|dead| !dead.rows.contains(row))
    }
}

/// The live state at one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub meta: Arc<Meta>,
    /// Generation of the manifest this view began with.
    pub manifest_generation: u64,
    /// Last commit that manifest lists.
    pub manifest_last: u64,
    /// The manifest's ro-compat flags.
    pub ro_compat: u64,
    pub segments: Vec<LiveSegment>,
    pub totals: Totals,
    /// Last commit whose kills, and all before it, are in the bitmaps that the manifest lists.
    pub covered: u64,
    /// A liveness bitmap that the manifest lists was missing or damaged: the next checkpoint writes all of them anew.
    pub distrusts_bitmaps: bool,
}

impl View {
    /// The state of a manifest before any of its segments is added.
    pub fn empty(manifest: &Manifest) -> Self {
        View {
            meta: Arc::new(Meta::of(&manifest.body)),
            manifest_generation: manifest.generation,
            manifest_last: manifest.body.last_commit(),
            ro_compat: manifest.ro_compat,
            segments: Vec::new(),
            totals: Totals::default(),
            covered: LiveRecord::of(&manifest.body).map_or(0, |record| record.last),
            distrusts_bitmaps: false,
        }
    }

    pub fn last_commit(&self) -> u64 {
        self.segments.last().map_or(0, |live| live.segment.footer().last)
    }

    /// What a manifest says of its segments.
    pub fn records(&self) -> impl Iterator<Item = SegmentRecord> + '_ {
        self.segments.iter().map(|live| SegmentRecord::of(&live.segment))
    }

    /// The first commit that the manifest does not list, or will not: what is in doubt begins there.
    pub fn first_unlisted(&self) -> u64 {
        self.manifest_last + 1
    }

    /// What the next segment's `link_in` must be.
    pub fn link(&self) -> Id {
        match self.segments.last() {
            Some(live) => live.segment.footer().link_out,
            None => self.meta.epochs.first().map_or([0; 16], |epoch| epoch.id),
        }
    }

    /// Adds the next segment, after checking that it belongs here, and what it supersedes.
    pub fn add(&mut self, segment: Arc<Segment>, listed: Option<&SegmentRecord>) -> Result<()> {
        let kills = segment.checked_kills()?;
        self.add_covered(Arc::clone(&segment), listed, None)?;
        for kill in kills {
            self.apply_kill(kill);
        }
        Ok(())
    }

    /// Adds the next segment, after checking that it belongs here: store, shape, epoch, link, and, where the manifest
    /// lists it, the very file. What of it is superseded is known, and its own kills are: bitmaps have them.
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
        if footer.first != self.last_commit() + 1 {
            return foreign(format!("expected commit {}, found {}", self.last_commit() + 1, footer.first));
        }
        if footer.link_in != self.link() && !Bug::TrustLink.is_on() {
            return foreign(
                "its link does not continue the segment before it (swapped, or another history)".to_owned(),
            );
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
        for (kind, (count, dead)) in footer.kinds.iter().zip(dead_kinds).enumerate() {
            if let Some(total) = self.totals.of_kind(kind) {
                *total = total.saturating_add(count.saturating_sub(dead));
            }
        }
        self.totals.rows = self.totals.rows.saturating_add(footer.rows.saturating_sub(dead_rows));
        self.totals.bytes = self.totals.bytes.saturating_add(footer.file_len);
        self.segments.push(LiveSegment { segment, dead });
        Ok(())
    }

    /// After the manifest only its last epoch counts; a file that stands in for listed ones may be of any it knows.
    fn may_follow(&self, last: u64, epoch: Id) -> bool {
        if last > self.manifest_last {
            return epoch == self.meta.epoch();
        }
        self.meta.epochs.iter().any(|known| known.id == epoch)
    }

    /// Marks an entry as superseded. Doing it twice, or for an entry that a merge has dropped, changes nothing.
    fn apply_kill(&mut self, kill: &Kill) {
        let after = self.segments.partition_point(|live| live.segment.footer().first <= kill.commit);
        let Some(live) = after.checked_sub(1).and_then(|at| self.segments.get_mut(at)) else { return };
        let segment = &live.segment;
        let Some(index) = segment.locate_entry(kill.commit, kill.entry) else { return };
        if live.dead.as_ref().is_some_and(|dead| dead.entries.contains(index)) {
            return;
        }
        let rows = segment
            .locate_row(kill.commit, kill.row)
            .map_or(0..0, |first| first..first.saturating_add(kill.rows as usize).min(segment.row_count()));
        let dead = live.dead.get_or_insert_with(|| Arc::new(Dead::none(segment)));
        Arc::make_mut(dead).add(index, rows, kill);
        self.totals.rows = self.totals.rows.saturating_sub(u64::from(kill.rows));
        if let Some(total) = self.totals.of_kind(usize::from(kill.kind)) {
            *total = total.saturating_sub(1);
        }
    }

    /// Kills that whoever opens the store replays, when its bitmaps are complete up to a commit.
    pub fn kills_after(&self, commit: u64) -> u64 {
        let after = self.segments.iter().filter(|live| live.segment.footer().last > commit);
        after.flat_map(|live| live.segment.footer().killed).fold(0, u64::saturating_add)
    }

    /// True when the next who opens the store has kills to replay that a checkpoint would spare him. A backup stays as it
    /// is: whatever changes it makes it a store of its own.
    pub fn wants_bitmaps(&self) -> bool {
        !self.meta.is_backup && (self.distrusts_bitmaps || self.kills_after(self.covered) > 0)
    }

    /// True when a kill agrees with the entry it names, if that is still there; for `verify`.
    pub fn kill_agrees(&self, kill: &Kill) -> Result<bool> {
        self.segment_of(kill.commit).map_or(Ok(false), |live| live.segment.agrees_with(kill))
    }

    /// Refuses to write to a store with features that this program only knows how to read.
    pub fn check_writable(&self) -> Result<()> {
        let refuse = |path: &Path, flags: u64| {
            Err(Error::UnsupportedVersion {
                path: path.to_owned(),
                expected: format!("ro-compat flags {KNOWN_RO_COMPAT:#x} to write (open read-only to read)"),
                found: format!("ro-compat flags {flags:#x}"),
            })
        };
        if self.ro_compat & !KNOWN_RO_COMPAT != 0 {
            return refuse(Path::new(crate::state::manifest::MANIFEST), self.ro_compat);
        }
        match self.segments.iter().find(|live| !live.segment.footer().writable()) {
            Some(live) => refuse(live.segment.path(), live.segment.footer().ro_compat),
            None => Ok(()),
        }
    }

    /// The newest entry with this key, tombstones included: its segment, and its number there.
    pub fn find(&self, key: &[u8]) -> Result<Option<(&Arc<Segment>, usize)>> {
        self.find_hashed(key_hash(key), key)
    }

    /// The same for a key whose hash is known.
    pub fn find_hashed(&self, hash: u64, key: &[u8]) -> Result<Option<(&Arc<Segment>, usize)>> {
        for live in self.segments.iter().rev() {
            if let Some(index) = live.segment.find(hash, key)? {
                return Ok(Some((&live.segment, index)));
            }
        }
        Ok(None)
    }

    /// The segment that covers a commit.
    pub fn segment_of(&self, commit: u64) -> Option<&LiveSegment> {
        let after = self.segments.partition_point(|live| live.segment.footer().first <= commit);
        self.segments.get(after.checked_sub(1)?).filter(|live| commit <= live.segment.footer().last)
    }

    /// True when the entry counts as present for the duplicate policies: a tombstone does not.
    #[inline]
    pub fn is_present(kind: Kind) -> bool {
        kind != Kind::Tombstone
    }

    /// Segments by path, to use them again in a later view.
    pub fn open_segment(&self, name: SegmentName, path: &Path) -> Option<Arc<Segment>> {
        let at = self.segments.partition_point(|live| live.segment.name().first < name.first);
        let live = self.segments.get(at).filter(|live| live.segment.name() == name)?;
        (live.segment.path() == path).then(|| Arc::clone(&live.segment))
    }
}
