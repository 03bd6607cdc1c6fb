//! The superseded entries and rows of a segment: bits in memory, or read from a mapped bitmap.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::base::Result;
use crate::format::records::{Kill, count};
use crate::segment::{DerivedFile, Segment};

/// A set of positions, one bit each: position 0 is the lowest bit of the first word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    fn with_len(len: usize) -> Self {
        Bits(vec![0; len.div_ceil(64)])
    }

    fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Adds a position; returns whether it was new.
    fn insert(&mut self, index: usize) -> bool {
        let Some(word) = self.0.get_mut(index / 64) else { return false };
        let mask = 1 << (index % 64);
        let new = *word & mask == 0;
        *word |= mask;
        new
    }

    /// The positions in the set, ascending.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len() * 64).filter(|index| self.contains(*index))
    }

    /// True if every position of this set is in `other` too.
    fn is_subset(&self, other: &Bits) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(ours, theirs)| ours & !theirs == 0)
    }
}

/// The superseded entries and rows of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Sets {
    pub entries: Bits,
    pub rows: Bits,
}

impl Sets {
    fn none(segment: &Segment) -> Self {
        Sets { entries: Bits::with_len(segment.entry_count()), rows: Bits::with_len(segment.row_count()) }
    }

    /// The body of a bitmap: the bits of the entries, then those of the rows, each padded to whole words.
    pub fn words(&self) -> Vec<u64> {
        [&self.entries.0[..], &self.rows.0].concat()
    }

    /// True if all entries and rows of these sets are in `other` too.
    pub fn is_subset(&self, other: &Sets) -> bool {
        self.entries.is_subset(&other.entries) && self.rows.is_subset(&other.rows)
    }

    fn of_body(segment: &Segment, body: &[u8]) -> Self {
        let words = |bytes: &[u8]| Bits(bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect());
        let (entries, rows) = body.split_at(body.len().min(segment.entry_count().div_ceil(64) * 8));
        Sets { entries: words(entries), rows: words(rows) }
    }
}

/// Place of the sets: in memory, or in a mapped bitmap.
#[derive(Clone, Debug)]
enum Held {
    Here(Sets),
    Mapped(Arc<Mapped>),
}

/// A mapped bitmap, and the segments from which its sets are replayed if it turns out to be damaged.
#[derive(Debug)]
struct Mapped {
    file: DerivedFile,
    segment: Arc<Segment>,
    replay: Arc<Replay>,
    replayed: OnceLock<Result<Sets>>,
}

/// The segments whose kills bitmaps may contain.
#[derive(Debug, Default)]
pub(crate) struct Replay(pub Vec<Arc<Segment>>);

/// The superseded entries of a segment, and their rows.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    held: Held,
    /// Every kill by a commit up to this one is contained and counted.
    through: u64,
    /// Number of superseded entries of each kind, by code.
    pub kinds: [u64; 4],
    /// Number of superseded rows.
    pub row_count: u64,
}

impl Dead {
    pub fn none(segment: &Segment) -> Self {
        Dead { held: Held::Here(Sets::none(segment)), through: 0, kinds: [0; 4], row_count: 0 }
    }

    /// The superseded entries of a mapped bitmap, whose header fits the segment.
    pub fn mapped(file: DerivedFile, segment: Arc<Segment>, replay: Arc<Replay>) -> Self {
        let [_, _, a, b, c, d, row_count, through] = file.header().facts;
        let mapped = Mapped { file, segment, replay, replayed: OnceLock::new() };
        Dead { held: Held::Mapped(Arc::new(mapped)), through, kinds: [a, b, c, d], row_count }
    }

    /// The last commit up to which every kill is contained.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// Number of superseded entries.
    pub fn entry_count(&self) -> u64 {
        self.kinds.iter().sum()
    }

    /// True if the bitmap turned out to be damaged and has not been replaced.
    pub fn is_damaged(&self) -> bool {
        matches!(&self.held, Held::Mapped(mapped) if mapped.file.is_damaged())
    }

    /// Records that another bitmap has been written in place of a damaged one.
    pub fn note_replaced(&self) {
        if let Held::Mapped(mapped) = &self.held {
            mapped.file.note_replaced();
        }
    }

    #[inline]
    pub fn has_entry(&self, index: usize) -> Result<bool> {
        match &self.held {
            Held::Here(sets) => Ok(sets.entries.contains(index)),
            Held::Mapped(mapped) => {
                let bit = mapped.file.get(index / 8).and_then(<[u8]>::first);
                bit.map_or_else(
                    || Ok(mapped.sets()?.entries.contains(index)),
                    |byte| Ok(byte >> (index % 8) & 1 == 1),
                )
            }
        }
    }

    #[inline]
    pub fn has_row(&self, index: usize) -> Result<bool> {
        match &self.held {
            Held::Here(sets) => Ok(sets.rows.contains(index)),
            Held::Mapped(mapped) => {
                let start = mapped.segment.entry_count().div_ceil(64) * 8;
                let bit = mapped.file.get(start + index / 8).and_then(<[u8]>::first);
                bit.map_or_else(
                    || Ok(mapped.sets()?.rows.contains(index)),
                    |byte| Ok(byte >> (index % 8) & 1 == 1),
                )
            }
        }
    }

    /// All superseded entries and rows, in memory.
    pub fn sets(&self) -> Result<Sets> {
        match &self.held {
            Held::Here(sets) => Ok(sets.clone()),
            Held::Mapped(mapped) => match mapped.file.whole() {
                Some(body) => Ok(Sets::of_body(&mapped.segment, body)),
                None => mapped.sets().cloned(),
            },
        }
    }

    /// Adds the entry that a kill of this segment names, if it still exists, and its rows; returns whether
    /// the entry was new. Uses the kill's kind and number of rows, whose checksum was compared, not those of
    /// the segment's tables.
    pub fn apply(&mut self, segment: &Segment, kill: &Kill) -> Result<bool> {
        if kill.killer <= self.through {
            return Ok(false);
        }
        let Some(index) = segment.locate_entry(kill.commit, kill.entry) else { return Ok(false) };
        if self.has_entry(index)? {
            return Ok(false);
        }
        if !matches!(self.held, Held::Here(_)) {
            self.held = Held::Here(self.sets()?);
        }
        if let Held::Here(sets) = &mut self.held {
            sets.entries.insert(index);
            for row in rows_of(segment, kill) {
                sets.rows.insert(row);
            }
        }
        self.row_count = self.row_count.saturating_add(u64::from(kill.rows));
        count(&mut self.kinds, kill.kind);
        Ok(true)
    }
}

fn rows_of(segment: &Segment, kill: &Kill) -> Range<usize> {
    let first = segment.locate_row(kill.commit, kill.row);
    first.map_or(0..0, |first| first..first.saturating_add(kill.rows as usize).min(segment.row_count()))
}

impl Mapped {
    /// The sets of a damaged bitmap, replayed from the kills that it contained.
    #[cold]
    fn sets(&self) -> Result<&Sets> {
        let replay = || {
            let (mut dead, name) = (Dead::none(&self.segment), self.segment.name());
            let [.., through] = self.file.header().facts;
            let is_in =
                |kill: &&Kill| kill.killer <= through && (name.first..=name.last).contains(&kill.commit);
            for later in self.replay.0.iter().filter(|later| later.name().last >= name.first) {
                for kill in later.checked_kills()?.iter().filter(is_in) {
                    dead.apply(&self.segment, kill)?;
                }
            }
            dead.sets()
        };
        self.replayed.get_or_init(replay).as_ref().map_err(Clone::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::{MergePolicy, OpenOptions};
    use crate::state::{Manifest, derived};
    use crate::types::{OnDuplicate, StoreConfig};
    use crate::vfs::RealFs;

    /// A merge may leave a bitmap that contains kills of later commits than the complete set of bitmaps. If a
    /// block of it is damaged, superseded entries stay superseded and are counted once.
    #[test]
    fn a_damaged_block_is_replayed_from_the_kills_of_its_bitmap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
        let store = options.create(&path, StoreConfig::new(1)).unwrap();
        let mut batch = store.batch();
        (0..20_000).for_each(|number| batch.push(number.to_string(), &[number as f32]).unwrap());
        store.append(&mut batch, OnDuplicate::Error).unwrap();
        store.delete(&["5"]).unwrap();
        store.delete(&["19990", "6"]).unwrap();
        store.close().unwrap();
        let mut manifest = Manifest::read(&RealFs, &path).unwrap();
        assert_eq!(manifest.body.live_last, 3);
        manifest.body.live_last = 2;
        manifest.write(&RealFs, &path).unwrap();
        let bitmap = path.join(derived::DERIVED).join(derived::named(&manifest.body)[0].to_string());
        let mut bytes = std::fs::read(&bitmap).unwrap();
        // Damages the second block: rows from 12,736 on.
        let place = bytes.len() - 8 - 100;
        bytes[place] ^= 0x20;
        std::fs::write(&bitmap, bytes).unwrap();
        let holds = |store: &crate::Store, gone: &[usize]| {
            let snapshot = store.snapshot();
            assert_eq!(snapshot.totals().rows, 20_000 - gone.len() as u64);
            let found = snapshot.search(&[1.0], usize::MAX).unwrap();
            assert_eq!(found.len(), 20_000 - gone.len());
            assert_eq!(snapshot.iter().count(), 20_000 - gone.len());
            let is_gone =
                |hit: &crate::Hit| gone.iter().any(|number| hit.key == number.to_string().as_bytes());
            assert!(!found.iter().any(is_gone));
        };
        let store = options.open(&path).unwrap();
        holds(&store, &[5, 6, 19_990]);
        store.delete(&["19991"]).unwrap();
        holds(&store, &[5, 6, 19_990, 19_991]);
        store.close().unwrap();
        let report = crate::care::verify(&path).unwrap();
        assert!(report.is_whole(), "{:?}", report.faults);
        let store = options.open(&path).unwrap();
        holds(&store, &[5, 6, 19_990, 19_991]);
        store.compact_full().unwrap();
        holds(&store, &[5, 6, 19_990, 19_991]);
    }

    #[test]
    fn bits_count_once() {
        let mut bits = Bits::with_len(65);
        assert!(bits.insert(64));
        assert!(!bits.insert(64));
        assert!(bits.contains(64) && !bits.contains(63) && !bits.contains(1000));
        assert!(!bits.insert(1000), "outside");
        assert_eq!(bits.positions().collect::<Vec<_>>(), [64]);
        let mut more = bits.clone();
        more.insert(3);
        assert!(bits.is_subset(&more) && !more.is_subset(&bits));
    }
}
