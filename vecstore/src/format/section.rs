//! The section table of a segment: the place of each section, and its checksum.

use bytemuck::{Pod, Zeroable};

/// Sections begin at multiples of this, so that their records can be cast where they are mapped.
pub(crate) const ALIGN: u64 = 64;

/// A section's name: four ASCII letters.
pub(crate) type Tag = [u8; 4];

/// The NumPy header.
pub(crate) const HEAD: Tag = *b"HEAD";
/// The rows, C order.
pub(crate) const ROWS: Tag = *b"ROWS";
/// The scale of each row (f32), for element types that have scales.
pub(crate) const SCAL: Tag = *b"SCAL";
/// Key bytes of all entries, one after the other.
pub(crate) const KEYS: Tag = *b"KEYS";
/// For each entry, where its key ends in KEYS (u64).
pub(crate) const KEND: Tag = *b"KEND";
/// For each entry, its kind (u8).
pub(crate) const KIND: Tag = *b"KIND";
/// For each entry, how many rows the entries up to and including it have (u64).
pub(crate) const REND: Tag = *b"REND";
/// Payload bytes of all entries; absent when no entry has any.
pub(crate) const PAYL: Tag = *b"PAYL";
/// For each entry, where its payload ends in PAYL (u64); absent with PAYL.
pub(crate) const PEND: Tag = *b"PEND";
/// Key hashes, ascending (u64).
pub(crate) const HASH: Tag = *b"HASH";
/// For each hash, the entry it belongs to (u32).
pub(crate) const HENT: Tag = *b"HENT";
/// Addresses killed; absent when there are none.
pub(crate) const KILL: Tag = *b"KILL";
/// The run table: which commits the entries and rows are from.
pub(crate) const RUNS: Tag = *b"RUNS";
/// Settings and the fingerprint's description.
pub(crate) const SETT: Tag = *b"SETT";
/// A CRC-32 (u32) per block of all sections before it.
pub(crate) const CRCS: Tag = *b"CRCS";

/// What every segment has.
pub(crate) const REQUIRED: [Tag; 10] = [HEAD, ROWS, KEYS, KEND, KIND, REND, HASH, HENT, RUNS, SETT];

/// One line of the section table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Section {
    /// Its name; all zero for an unused line.
    pub tag: Tag,
    /// No flags are defined in version 1.0: zero.
    pub flags: u32,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes, without the zeros that pad it.
    pub len: u64,
    /// CRC-32 over its block checksums (for CRCS: over its bytes).
    pub crc: u32,
    /// Number of its first block in CRCS (for CRCS: zero).
    pub first_block: u32,
}

impl Section {
    /// The section's name as text.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.tag).into_owned()
    }

    /// First byte after the section.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }
}

/// The next offset at which a section may begin.
pub(crate) fn align_up(offset: u64) -> Option<u64> {
    offset.checked_next_multiple_of(ALIGN)
}
