//! Fixed-size records of the sections RUNS and KILL.

use bytemuck::{Pod, Zeroable};

/// Consecutive entries of one commit that lie one after the other in the segment.
///
/// A run ends at the next run's `segment_entry`, the last run at the end of the segment, so its length is not
/// stored. A fresh batch has one run; if a merge drops entries, each stretch between them is a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Run {
    /// Commit of the entries.
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
    /// Largest number of an entry or row within a batch. Real numbers are far smaller, even those that a
    /// repair assigns.
    pub const MOST: u64 = u64::MAX / 2;

    /// True if `next` may follow this run: its places in the segment do not descend, and it is of a later
    /// commit, or begins after all entries and rows of this run within the commit.
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

/// A kill: names an older entry that a commit of this segment supersedes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Kill {
    /// Commit that kills the entry.
    pub killer: u64,
    /// Commit of the killed entry.
    pub commit: u64,
    /// Number of the killed entry within its batch.
    pub entry: u64,
    /// Number of the killed entry's first row within its batch.
    pub row: u64,
    /// Number of rows of the killed entry.
    pub rows: u32,
    /// Kind of the killed entry, as a code.
    pub kind: u8,
    /// Zero.
    pub padding: [u8; 3],
}

impl Kill {
    /// The killed entry: its commit, and its number within the batch. Kills are sorted by this.
    pub fn victim(&self) -> (u64, u64) {
        (self.commit, self.entry)
    }
}

/// Adds one to the count of the kind with this code.
pub(crate) fn count(kinds: &mut [u64; 4], code: u8) {
    if let Some(count) = kinds.get_mut(usize::from(code)) {
        *count += 1;
    }
}
