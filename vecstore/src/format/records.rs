//! Fixed-size records inside sections: runs and kills.

use bytemuck::{Pod, Zeroable};

/// A stretch of entries of one commit that lie one after the other in the segment.
///
/// A run reaches to the next run's `segment_entry` (the last one to the end), so lengths need not be stored.
/// A fresh batch has one run; a merge that drops entries leaves one for each stretch that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Run {
    /// The commit the entries are from.
    pub commit: u64,
    /// Number of the first entry within its batch.
    pub entry: u64,
    /// Number of the first row within its batch.
    pub row: u64,
    /// Number of the first entry within the segment.
    pub segment_entry: u64,
    /// Number of the first row within the segment.
    pub segment_row: u64,
}

impl Run {
    /// Numbers within a batch end here. None is nearly as large, not even those that a repair gives.
    pub const MOST: u64 = u64::MAX / 2;

    /// True when another run may come next: it begins after all that this one has, in the commit as in the segment.
    pub fn may_precede(&self, next: &Run) -> bool {
        let len = |of: fn(&Run) -> u64| of(next).checked_sub(of(self));
        let (Some(entries), Some(rows)) = (len(|run| run.segment_entry), len(|run| run.segment_row)) else {
            return false;
        };
        let ends = |begin: u64, len: u64, next: u64| begin.checked_add(len).is_some_and(|end| end <= next);
        let follows = ends(self.entry, entries, next.entry) && ends(self.row, rows, next.row);
        self.commit < next.commit || self.commit == next.commit && follows
    }
}

/// An older entry that this segment's commits replace or delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Kill {
    /// The commit that kills.
    pub killer: u64,
    /// The commit of the entry killed.
    pub commit: u64,
    /// The entry's number within its batch.
    pub entry: u64,
    /// The entry's first row within its batch.
    pub row: u64,
    /// How many rows it has.
    pub rows: u32,
    /// Its kind.
    pub kind: u8,
    /// Zero.
    pub padding: [u8; 3],
}

impl Kill {
    /// The entry that it names, by its commit and its number there: what kills are sorted by.
    pub fn victim(&self) -> (u64, u64) {
        (self.commit, self.entry)
    }
}

/// Counts a kind by its code.
pub(crate) fn count(kinds: &mut [u64; 4], code: u8) {
    if let Some(count) = kinds.get_mut(usize::from(code)) {
        *count += 1;
    }
}
