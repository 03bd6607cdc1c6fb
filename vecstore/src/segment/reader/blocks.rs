//! Checksums of blocks, compared when the blocks are read for the first time.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Segment;
use crate::base::{Error, Result};
use crate::format::section::{self, Tag};
use crate::segment::check::range_of;

/// Tables that a lookup reads in many places. They are checked as a whole, before the first lookup.
const TABLES: [Tag; 8] = [
    section::RUNS,
    section::KIND,
    section::KEND,
    section::REND,
    section::PEND,
    section::HASH,
    section::HENT,
    section::SCAL,
];

/// The parts of a segment whose checksums were found right.
#[derive(Debug)]
pub(super) struct Checked {
    /// A bit for each block of the file: set once its checksum was found right.
    right: Box<[AtomicU64]>,
    /// True if the table of block checksums has the right checksum.
    crcs: OnceLock<bool>,
    tables: OnceLock<Result<()>>,
    attributes: OnceLock<Result<()>>,
}

impl Checked {
    /// No block was checked yet.
    pub fn new(blocks: usize) -> Self {
        let right = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Checked { right, crcs: OnceLock::new(), tables: OnceLock::new(), attributes: OnceLock::new() }
    }
}

impl Segment {
    /// The same segment, which compares the checksum of each block when the block is read for the first time.
    pub fn checked(mut self) -> Self {
        self.checked = Some(Checked::new(self.section_range(section::CRCS).len() / 4));
        self
    }

    /// Checks the tables that lookups read.
    #[inline]
    pub fn check_tables(&self) -> Result<()> {
        match &self.checked {
            None => Ok(()),
            Some(checked) => {
                let check = || TABLES.iter().try_for_each(|tag| self.check_bytes(*tag, 0..usize::MAX));
                checked.tables.get_or_init(check).clone()
            }
        }
    }

    /// Checks the values of attributes.
    #[inline]
    pub(super) fn check_attributes(&self) -> Result<()> {
        match &self.checked {
            None => Ok(()),
            Some(checked) => {
                let check = || self.check_bytes(section::ATTD, 0..usize::MAX);
                checked.attributes.get_or_init(check).clone()
            }
        }
    }

    /// Checks the blocks that hold a range of a section's bytes.
    #[inline]
    pub(super) fn check_bytes(&self, tag: Tag, range: Range<usize>) -> Result<()> {
        match &self.checked {
            Some(checked) if !range.is_empty() => self.check_blocks(checked, tag, range),
            _ => Ok(()),
        }
    }

    #[cold]
    fn check_blocks(&self, checked: &Checked, tag: Tag, range: Range<usize>) -> Result<()> {
        let Some(line) = self.layout.sections.iter().find(|line| line.tag == tag) else { return Ok(()) };
        let bytes = self.slice(&self.section_range(tag));
        if bytes.is_empty() {
            return Ok(());
        }
        let crcs = self.slice(&self.section_range(section::CRCS));
        let is_table_right = || {
            let line = self.layout.sections.iter().find(|line| line.tag == section::CRCS);
            line.is_some_and(|line| line.crc == crc32fast::hash(crcs))
        };
        if !checked.crcs.get_or_init(is_table_right) {
            return Err(Error::damaged(&self.path, "CRCS", "its checksum does not match"));
        }
        let block_len = self.block_len();
        let (first, last) =
            (range.start / block_len, (range.end.min(bytes.len()).saturating_sub(1)) / block_len);
        for block in first..=last {
            let number = line.first_block as usize + block;
            let bit = 1u64 << (number % 64);
            let word = checked.right.get(number / 64);
            if word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0) {
                continue;
            }
            let start = block * block_len;
            let found = bytes.get(start..bytes.len().min(start + block_len)).unwrap_or_default();
            let found = crc32fast::hash(found).to_le_bytes();
            if crcs.get(number * 4..number * 4 + 4) != Some(&found[..]) {
                let place = format!("{}, block {block}", line.name());
                return Err(Error::damaged(&self.path, place, "its checksum does not match"));
            }
            if let Some(word) = word {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn section_range(&self, tag: Tag) -> Range<usize> {
        let line = self.layout.sections.iter().find(|line| line.tag == tag);
        line.and_then(|line| range_of(line, self.map.len())).unwrap_or_default()
    }
}
