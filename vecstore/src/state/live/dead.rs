//! Which entries and rows of a segment are superseded: bits in memory, or straight from a mapped bitmap.

use std::ops::Range;
use std::sync::Arc;

use crate::format::records::{Kill, count};
use crate::segment::Segment;
use crate::vfs::Mapping;

/// A set of positions, one bit each.
#[derive(Clone, Debug)]
pub(crate) enum Bits {
    Owned(Vec<u64>),
    /// Whole little-endian words of 64 bits, somewhere in a file. A change copies them first.
    Mapped(Arc<Mapping>, Range<usize>),
}

impl Bits {
    pub fn with_len(len: usize) -> Self {
        Bits::Owned(vec![0; len.div_ceil(64)])
    }

    /// The bits as they lie on disk: position 0 is the lowest bit of the first byte.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Bits::Owned(words) => bytemuck::cast_slice(words),
            Bits::Mapped(file, at) => file.get(at.clone()).unwrap_or_default(),
        }
    }

    #[inline]
    pub fn contains(&self, index: usize) -> bool {
        self.bytes().get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }

    /// Adds a position; says whether it was new.
    fn insert(&mut self, index: usize) -> bool {
        if matches!(self, Bits::Mapped(..)) {
            *self = Bits::Owned(self.bytes().chunks_exact(8).map(bytemuck::pod_read_unaligned).collect());
        }
        let Bits::Owned(words) = self else { return false };
        let Some(word) = words.get_mut(index / 64) else { return false };
        let mask = 1 << (index % 64);
        let new = *word & mask == 0;
        *word |= mask;
        new
    }

    /// The positions in it, ascending.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.bytes().len() * 8).filter(|index| self.contains(*index))
    }

    /// True when every position in it is in `other` too.
    pub fn is_subset(&self, other: &Bits) -> bool {
        let (ours, theirs) = (self.bytes(), other.bytes());
        ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| ours & !theirs == 0)
    }
}

/// Superseded entries of a segment, and their rows.
#[derive(Clone, Debug)]
pub(crate) struct Dead {
    pub entries: Bits,
    pub rows: Bits,
    /// How many entries of each kind, by code.
    pub kinds: [u64; 4],
    /// How many rows.
    pub row_count: u64,
}

impl Dead {
    pub fn none(segment: &Segment) -> Self {
        Dead {
            entries: Bits::with_len(segment.entry_count()),
            rows: Bits::with_len(segment.row_count()),
            kinds: [0; 4],
            row_count: 0,
        }
    }

    /// How many entries.
    pub fn entry_count(&self) -> u64 {
        self.kinds.iter().sum()
    }

    /// Adds an entry and its rows. Kind and number of rows are the kill's, whose checksum was verified, not
    /// those of the segment's tables.
    pub fn add(&mut self, entry: usize, rows: Range<usize>, kill: &Kill) {
        if !self.entries.insert(entry) {
            return;
        }
        for row in rows {
            self.rows.insert(row);
        }
        self.row_count = self.row_count.saturating_add(u64::from(kill.rows));
        count(&mut self.kinds, kill.kind);
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
    }

    #[test]
    fn mapped_bits_are_the_same_and_are_copied_when_they_change() {
        let mut owned = Bits::with_len(130);
        for index in [0, 7, 8, 63, 64, 129] {
            owned.insert(index);
        }
        let file = Arc::new(Mapping::copied(owned.bytes()).unwrap());
        let mut mapped = Bits::Mapped(Arc::clone(&file), 0..24);
        assert_eq!(mapped.positions().collect::<Vec<_>>(), [0, 7, 8, 63, 64, 129]);
        assert!(mapped.is_subset(&owned) && owned.is_subset(&mapped));
        assert!(mapped.insert(65) && !mapped.insert(129));
        assert_eq!(mapped.positions().collect::<Vec<_>>(), [0, 7, 8, 63, 64, 65, 129]);
        assert!(!mapped.is_subset(&owned) && owned.is_subset(&mapped));
        assert!(!Bits::Mapped(file, 0..24).contains(65), "the file has not changed");
    }
}
