//! What a compaction did.

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Segments before.
    pub segments_before: usize,
    /// Segments after.
    pub segments_after: usize,
    /// Merges it took.
    pub merges: u64,
    /// Superseded and deleted entries that went.
    pub entries_dropped: u64,
    /// Bytes of the inputs.
    pub bytes_read: u64,
    /// Bytes of the outputs.
    pub bytes_written: u64,
    /// Damaged segments, which stay as they are until they are repaired.
    pub damaged: usize,
}
