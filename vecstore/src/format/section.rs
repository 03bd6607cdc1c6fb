//! The section table of a segment: position, checksum and merge rule of each section.

use bytemuck::{Pod, Zeroable};
use std::path::Path;

use crate::base::{Bug, Error, Result};

/// Sections begin at multiples of this, so that mapped bytes can be cast to records.
pub(crate) const ALIGN: u64 = 64;
/// Length of a line of the table.
pub(crate) const LINE_LEN: usize = 64;

/// Name of a section: four ASCII letters or digits. The first is a capital letter for sections of the format
/// itself, a small letter for sections of other programs.
pub(crate) type Tag = [u8; 4];

/// The NumPy header.
pub(crate) const HEAD: Tag = *b"HEAD";
/// The rows, C order.
pub(crate) const ROWS: Tag = *b"ROWS";
/// The scale of each row (f32), for element types that have scales.
pub(crate) const SCAL: Tag = *b"SCAL";
/// The Euclidean length of each row (f32), where vectors are compared by cosine.
pub(crate) const NORM: Tag = *b"NORM";
/// Key bytes of all entries, in order.
pub(crate) const KEYS: Tag = *b"KEYS";
/// For each entry, where its key ends in KEYS (u64).
pub(crate) const KEND: Tag = *b"KEND";
/// For each entry, its kind (u8).
pub(crate) const KIND: Tag = *b"KIND";
/// For each entry, the number of rows up to and including this entry (u64).
pub(crate) const REND: Tag = *b"REND";
/// Payload bytes of all entries; absent when no entry has any.
pub(crate) const PAYL: Tag = *b"PAYL";
/// For each entry, where its payload ends in PAYL (u64); absent with PAYL.
pub(crate) const PEND: Tag = *b"PEND";
/// Directory of the attributes; absent when no entry has any.
pub(crate) const ATTR: Tag = *b"ATTR";
/// Values of the attributes, column by column; absent with ATTR.
pub(crate) const ATTD: Tag = *b"ATTD";
/// Key hashes, ascending (u64).
pub(crate) const HASH: Tag = *b"HASH";
/// For each hash, the number of its entry (u32).
pub(crate) const HENT: Tag = *b"HENT";
/// Kills; absent if there are none.
pub(crate) const KILL: Tag = *b"KILL";
/// The run table: for entries and rows, their commits.
pub(crate) const RUNS: Tag = *b"RUNS";
/// Settings and the fingerprint's description.
pub(crate) const SETT: Tag = *b"SETT";
/// A CRC-32 (u32) per block of all sections before it.
pub(crate) const CRCS: Tag = *b"CRCS";

/// Sections that every segment has.
pub(crate) const REQUIRED: [Tag; 10] = [HEAD, ROWS, KEYS, KEND, KIND, REND, HASH, HENT, RUNS, SETT];
/// Sections that this version knows. Merges treat them as `docs/FORMAT.md` says, whatever merge rule their
/// lines have.
const KNOWN: [Tag; 18] = [
    HEAD, ROWS, SCAL, NORM, KEYS, KEND, KIND, REND, PAYL, PEND, ATTR, ATTD, HASH, HENT, KILL, RUNS, SETT,
    CRCS,
];

/// Merge rule: how a merge treats a section that the program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MergeRule {
    /// The output does not have the section.
    Drop,
    /// The output has the section; of a section about entries or rows, only the bytes of those kept.
    Copy,
    /// The file is not merged.
    Refuse,
}

/// Subject of a section: the whole file, its entries, or its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    File,
    /// The same number of bytes for each entry.
    Entry,
    /// The same number of bytes for each row.
    Row,
}

/// One line of the section table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Section {
    pub tag: Tag,
    /// A [`MergeRule`]: 0 drop, 1 copy, anything else refuse.
    pub merge: u8,
    /// A [`Unit`]: 0 file, 1 entry, 2 row.
    pub unit: u8,
    /// How the bytes are packed; 0: not at all.
    pub codec: u8,
    /// Alignment of the offset as an exponent of two, 6 to 16.
    pub align_log2: u8,
    /// Offset of the section in the file.
    pub offset: u64,
    /// Length of the section, without the zeros after it.
    pub len: u64,
    /// Length of the section when unpacked.
    pub raw_len: u64,
    /// CRC-32 over the section's block checksums (for CRCS: over its bytes).
    pub crc: u32,
    /// Number of the section's first block in CRCS (for CRCS: zero).
    pub first_block: u32,
    /// No flags are defined in version 1.0: zero; a reader refuses anything else.
    pub flags: u32,
    zero: u32,
    /// Zero; a reader ignores it.
    pub ignored: [u8; 16],
}

const _: () = assert!(size_of::<Section>() == LINE_LEN);

impl Section {
    /// Line of a section that this version writes.
    pub fn new(tag: Tag, offset: u64, len: u64, first_block: u32) -> Self {
        let (merge, unit) = match tag {
            NORM => (1, 2),
            _ => (2, 0),
        };
        Section {
            tag,
            merge,
            unit,
            align_log2: 6,
            offset,
            len,
            raw_len: len,
            first_block,
            ..Section::default()
        }
    }

    /// Line of a section that is carried over into a new file: position, lengths and checksum are those of
    /// `new`, the offset rounded up to this line's alignment; the rest is as in this line.
    pub fn moved(&self, new: Section) -> Self {
        let offset = new.offset.next_multiple_of(1 << self.align_log2.min(16));
        let Section { len, raw_len, first_block, crc, .. } = new;
        Section { offset, len, raw_len, first_block, crc, ..*self }
    }

    /// The section's name as text.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.tag).into_owned()
    }

    /// First byte after the section.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }

    /// True if this version knows the section.
    pub fn is_known(&self) -> bool {
        KNOWN.contains(&self.tag)
    }

    /// Rule for merges by a program that does not know the section.
    pub fn rule(&self) -> MergeRule {
        match (self.merge, self.codec, self.unit()) {
            (0, ..) => MergeRule::Drop,
            // Packed bytes of several inputs cannot be joined.
            (1, 0, Some(_)) => MergeRule::Copy,
            _ => MergeRule::Refuse,
        }
    }

    pub fn unit(&self) -> Option<Unit> {
        [Unit::File, Unit::Entry, Unit::Row].get(usize::from(self.unit)).copied()
    }

    /// The first fault of the line, regardless of other lines and of the file.
    fn fault(&self) -> Option<&'static str> {
        let is_name = self.tag.iter().all(u8::is_ascii_alphanumeric) && self.tag[0].is_ascii_alphabetic();
        if !is_name {
            return Some("a name that is not four letters and digits");
        }
        if self.flags != 0 {
            return Some("unknown flags");
        }
        if self.zero != 0 || self.codec == 0 && self.raw_len != self.len {
            return Some("reserved bytes that are not zero, or two lengths");
        }
        if !(6..=16).contains(&self.align_log2) || !self.offset.is_multiple_of(1 << self.align_log2) {
            return Some("an offset that is not aligned");
        }
        None
    }
}

/// Reads a section table; `crc` is its checksum from the footer. Checks each line by itself, not against
/// other lines or the file.
pub(crate) fn parse_table(path: &Path, table: &[u8], crc: u32) -> Result<Vec<Section>> {
    let damaged = |detail: String| Err(Error::damaged(path, "section table", detail));
    if crc32fast::hash(table) != crc && !Bug::TrustFooter.is_on() {
        return damaged("its checksum does not match".to_owned());
    }
    let lines: Vec<Section> = table.chunks_exact(LINE_LEN).map(bytemuck::pod_read_unaligned).collect();
    for line in &lines {
        if let Some(fault) = line.fault() {
            return damaged(format!("section {} has {fault}", line.name().escape_default()));
        }
        if line.is_known() && line.codec != 0 {
            let (expected, found) = ("sections that are not packed".to_owned(), line.name());
            let found = format!("section {found} with codec {}", line.codec);
            return Err(Error::UnsupportedVersion { path: path.to_owned(), expected, found });
        }
    }
    Ok(lines)
}
