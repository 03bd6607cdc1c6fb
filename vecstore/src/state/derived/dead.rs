//! Which entries and rows of a segment are superseded: bits in memory, or straight from a mapped bitmap.

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

    /// Adds a position; says whether it was new.
    fn insert(&mut self, index: usize) -> bool {
        let Some(word) = self.0.get_mut(index / 64) else { return false };
        let mask = 1 << (index % 64);
        let new = *word & mask == 0;
        *word |= mask;
        new
    }

    /// The positions in it, ascending.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len() * 64).filter(|index| self.contains(*index))
    }

    /// True when every position in it is in `other` too.
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

    /// The body of a bitmap: the bits of the entries, then those of the rows, each in whole words.
    pub fn words(&self) -> Vec<u64> {
        [&self.entries.0[..], &self.rows.0].concat()
    }

    /// True when everything in it is in `other` too.
    pub fn is_subset(&self, other: &Sets) -> bool {
        self.entries.is_subset(&other.entries) && self.rows.is_subset(&other.rows)
    }

    fn of_body(segment: &Segment, body: &[u8]) -> Self {
        let words = |bytes: &[u8]| Bits(bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect());
        let (entries, rows) = body.split_at(body.len().min(segment.entry_count().div_ceil(64) * 8));
        Sets { entries: words(entries), rows: words(rows) }
    }
}

/// Where the sets are.
#[derive(Clone, Debug)]
enum Held {
    Here(Sets),
    Mapped(Arc<Mapped>),
}

/// A bitmap, and what takes its place where it turns out to be damaged.
#[derive(Debug)]
struct Mapped {
    file: DerivedFile,
    segment: Arc<Segment>,
    replay: Arc<Replay>,
    replayed: OnceLock<Result<Sets>>,
}

/// The segments whose kills are in bitmaps.
#[derive(Debug, Default)]
pub(crate) struct Replay(pub Vec<Arc<Segment>>);

/// Superseded entries of a segment, and their rows.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    held: Held,
    /// How many entries of each kind, by code.
    pub kinds: [u64; 4],
    /// How many rows.
    pub row_count: u64,
}

impl Dead {
    pub fn none(segment: &Segment) -> Self {
        Dead { held: Held::Here(Sets::none(segment)), kinds: [0; 4], row_count: 0 }
    }

    /// What a bitmap says, whose header fits the segment.
    pub fn mapped(file: DerivedFile, segment: Arc<Segment>, replay: Arc<Replay>) -> Self {
        let [_, _, a, b, c, d, row_count, _] = file.header().facts;
        let mapped = Mapped { file, segment, replay, replayed: OnceLock::new() };
        Dead { held: Held::Mapped(Arc::new(mapped)), kinds: [a, b, c, d], row_count }
    }

    /// How many entries.
    pub fn entry_count(&self) -> u64 {
        self.kinds.iter().sum()
    }

    /// True when the bitmap has turned out to be damaged.
    pub fn is_damaged(&self) -> bool {
        matches!(&self.held, Held::Mapped(mapped) if mapped.file.is_damaged())
    }

    /// Another bitmap has been written in place of a damaged one.
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

    /// All of it, in memory.
    pub fn sets(&self) -> Result<Sets> {
        match &self.held {
            Held::Here(sets) => Ok(sets.clone()),
            Held::Mapped(mapped) => match mapped.file.whole() {
                Some(body) => Ok(Sets::of_body(&mapped.segment, body)),
                None => mapped.sets().cloned(),
            },
        }
    }

    /// Adds the entry that a kill of this segment names, if it is still there, and its rows. Says whether it was not in it.
    /// Kind and number of rows are the kill's, whose checksum was verified, not those of the segment's tables.
    pub fn apply(&mut self, segment: &Segment, kill: &Kill) -> Result<bool> {
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
    /// What the kills say.
    #[cold]
    fn sets(&self) -> Result<&Sets> {
        let replay = || {
            let (mut dead, name) = (Dead::none(&self.segment), self.segment.name());
            for later in self.replay.0.iter().filter(|later| later.name().last > name.first) {
                for kill in
                    later.checked_kills()?.iter().filter(|k| (name.first..=name.last).contains(&k.commit))
                {
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
