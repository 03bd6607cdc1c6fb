//! Places of a segment's sections, checked against the length of the file and the counts in its footer.

use std::ops::Range;
use std::path::Path;

use crate::base::{Bug, DType, Error, Result};
use crate::format::blocks::block_count;
use crate::format::footer::{Footer, Layout};
use crate::format::npy;
use crate::format::records::{Kill, Run};
use crate::format::section::{self, Section, Tag, Unit};

/// Byte ranges of the sections in the file. All lie within the file and have the length that the footer's
/// counts require.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub rows: Range<usize>,
    pub scales: Range<usize>,
    pub norms: Range<usize>,
    pub keys: Range<usize>,
    pub key_ends: Range<usize>,
    pub kinds: Range<usize>,
    pub row_ends: Range<usize>,
    pub payloads: Range<usize>,
    pub payload_ends: Range<usize>,
    pub attributes: Range<usize>,
    pub values: Range<usize>,
    pub hashes: Range<usize>,
    pub hash_entries: Range<usize>,
    pub kills: Range<usize>,
    pub runs: Range<usize>,
    pub settings: Range<usize>,
}

impl Tables {
    pub fn read(path: &Path, layout: &Layout, row_bytes: u64) -> Result<Self> {
        let footer = &layout.footer;
        let wrong = |detail: String| Error::damaged(path, "section table", detail);
        let (limit, log2) = (footer.table_at, footer.block_len_log2);
        let mut tables = Tables::default();
        let mut next = 0u64;
        let mut blocks = 0u64;
        let (mut seen, mut ends_with_crcs): (Vec<Tag>, bool) = (Vec::new(), false);
        for line in &layout.sections {
            let end = line.end().filter(|end| *end <= limit);
            let (Some(end), false) = (end, line.offset < next || seen.contains(&line.tag)) else {
                return Err(wrong(format!("section {} is out of order or range", line.name())));
            };
            ends_with_crcs = line.tag == section::CRCS;
            let first_block = if ends_with_crcs { 0 } else { blocks };
            if u64::from(line.first_block) != first_block {
                return Err(wrong(format!("section {} has the wrong first block", line.name())));
            }
            if ends_with_crcs && line.len != blocks * 4 {
                return Err(wrong(format!("expected {blocks} block checksums, found {}", line.len / 4)));
            }
            if !ends_with_crcs {
                blocks += block_count(line.len, log2);
            }
            tables.take(footer, line, row_bytes).map_err(&wrong)?;
            seen.push(line.tag);
            next = end;
        }
        if !ends_with_crcs {
            return Err(wrong("the last section is not CRCS".to_owned()));
        }
        for tag in section::REQUIRED {
            if !seen.contains(&tag) {
                return Err(wrong(format!("section {} is missing", String::from_utf8_lossy(&tag))));
            }
        }
        let scaled = DType::from_code(footer.dtype).is_some_and(DType::has_scales);
        if seen.contains(&section::SCAL) != scaled {
            return Err(wrong("SCAL is there for element types with scales, and only then".to_owned()));
        }
        for (tag, other) in [(section::PAYL, section::PEND), (section::ATTR, section::ATTD)] {
            if seen.contains(&tag) != seen.contains(&other) {
                let [tag, other] = [tag, other].map(|tag| String::from_utf8_lossy(&tag).into_owned());
                return Err(wrong(format!("{tag} and {other} belong together")));
            }
        }
        let kills: u64 = footer.killed.iter().fold(0, |sum, count| sum.saturating_add(*count));
        if (tables.kills.len() / size_of::<Kill>()) as u64 != kills {
            return Err(wrong(format!("the footer counts {kills} kills, the table holds others")));
        }
        let entries: u64 = footer.kinds.iter().fold(0, |sum, count| sum.saturating_add(*count));
        if entries != footer.entries {
            return Err(wrong(format!("expected {} entries, the kinds add up to {entries}", footer.entries)));
        }
        Ok(tables)
    }

    /// Stores a section's range after checking its length against the footer's counts.
    fn take(&mut self, footer: &Footer, line: &Section, row_bytes: u64) -> Result<(), String> {
        let start = usize::try_from(line.offset).map_err(|_| "the file is too large for this machine")?;
        let len = usize::try_from(line.len).map_err(|_| "the file is too large for this machine")?;
        let per_entry = |bytes: u64| footer.entries.checked_mul(bytes);
        let (place, expected) = match line.tag {
            section::HEAD => {
                let right = line.offset == 0 && len == npy::HEADER_LEN;
                return right.then_some(()).ok_or_else(|| "HEAD is not the first page".to_owned());
            }
            section::ROWS if start != npy::HEADER_LEN => {
                return Err("ROWS do not begin at byte 4096".to_owned());
            }
            section::ROWS => (&mut self.rows, footer.rows.checked_mul(row_bytes)),
            section::SCAL => (&mut self.scales, footer.rows.checked_mul(4)),
            section::NORM => (&mut self.norms, footer.rows.checked_mul(4)),
            section::KEYS => (&mut self.keys, Some(line.len)),
            section::KEND => (&mut self.key_ends, per_entry(8)),
            section::KIND => (&mut self.kinds, per_entry(1)),
            section::REND => (&mut self.row_ends, per_entry(8)),
            section::PAYL => (&mut self.payloads, Some(line.len)),
            section::PEND => (&mut self.payload_ends, per_entry(8)),
            section::ATTR => (&mut self.attributes, Some(line.len)),
            section::ATTD => (&mut self.values, Some(line.len)),
            section::HASH => (&mut self.hashes, per_entry(8)),
            section::HENT => (&mut self.hash_entries, per_entry(4)),
            section::KILL => (&mut self.kills, Some(line.len.next_multiple_of(size_of::<Kill>() as u64))),
            section::RUNS => (&mut self.runs, Some(line.len.next_multiple_of(size_of::<Run>() as u64))),
            section::SETT => (&mut self.settings, Some(line.len)),
            // Sections of later minor versions are carried over without being understood.
            _ => {
                let each = match line.unit() {
                    Some(Unit::Entry) => footer.entries,
                    Some(Unit::Row) => footer.rows,
                    _ => return Ok(()),
                };
                let is_whole = line.raw_len.checked_rem(each).unwrap_or(line.raw_len) == 0;
                let detail = || format!("section {} has not as much for each of {each}", line.name());
                return is_whole.then_some(()).ok_or_else(detail);
            }
        };
        if expected != Some(line.len) && !Bug::TrustSection.is_on() {
            let expected = expected.map_or_else(|| "an impossible number of".to_owned(), |n| n.to_string());
            return Err(format!("section {}: expected {expected} bytes, found {}", line.name(), line.len));
        }
        *place = start..start + len;
        Ok(())
    }
}
