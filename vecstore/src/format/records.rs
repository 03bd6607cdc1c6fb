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

/// Counts a kind by its code.
pub(crate) fn count(kinds: &mut [u64; 4], code: u8) {
    if let Some(count) = kinds.get_mut(usize::from(code)) {
        *count += 1;
    }
}
