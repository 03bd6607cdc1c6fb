//! The report of a compaction.

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// Segments before the compaction.
    pub segments_before: usize,
    /// Segments after the compaction.
    pub segments_after: usize,
    /// Number of merges.
    pub merges: u64,
    /// Entries that are no longer stored: superseded ones, and tombstones that nothing needs.
    pub entries_dropped: u64,
    /// Bytes of the inputs.
    pub bytes_read: u64,
    /// Bytes of the outputs.
    pub bytes_written: u64,
    /// Damaged segments, which stay as they are until they are repaired.
    pub damaged: usize,
}
