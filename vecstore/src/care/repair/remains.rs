//! The remains of a damaged segment: its intact blocks, and what can be read from them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use super::footer::find_layout;
use super::rows::StoredRows;
use crate::base::DType;
use crate::format::blocks::{blocks_of, section_crc};
use crate::format::columns::{Column, Directory};
use crate::format::footer::{Footer, Layout};
use crate::format::records::{Kill, Run};
use crate::format::section::{self, MergeRule, Section, Tag};
use crate::format::{key_hash, rejected, settings};
use crate::segment::{Pieces, SegmentName, block_crcs, body_of, range_of};
use crate::state::SegmentRecord;
use crate::types::{Kind, MAX_KEY_LEN, MAX_PAYLOAD_LEN, Value};
use crate::vfs::Mapping;

/// If the end of a key is lost, lengths up to this one are tried until the key's hash fits.
const LONGEST_SEARCHED: usize = 4096;

/// A damaged segment whose footer can be read.
#[derive(Debug)]
pub(super) struct Remains {
    /// All readable bytes except the rows, each at its place in the file.
    map: Mapping,
    /// The rows, to which the content of an entry refers.
    pub rows: StoredRows,
    pub footer: Footer,
    /// Sections that only a later version of the program knows, and that a merge would not drop.
    pub unknown_sections: Vec<String>,
    parts: HashMap<Tag, Part>,
    runs: Option<Vec<Run>>,
    /// The directory of attributes; `None` if it is damaged.
    directory: Option<Directory>,
    hashes: Vec<Option<u64>>,
    key_ends: Vec<Option<u64>>,
    row_ends: Vec<Option<u64>>,
    kinds: Vec<Option<Kind>>,
}

/// A section: its place in the file, and which of its blocks are intact.
#[derive(Debug)]
struct Part {
    range: Range<usize>,
    /// The checksum of each intact block; `None` for a damaged one.
    sound: Vec<Option<u32>>,
    crc: u32,
}

/// Where an entry was made: its commit, its number in the batch, and the number of its first row in the
/// batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub commit: u64,
    pub entry: u64,
    pub row: u64,
}

/// The readable parts of an entry.
#[derive(Clone, Debug)]
pub(super) struct Remnant<'a> {
    pub key: Option<&'a [u8]>,
    pub kind: Option<Kind>,
    /// Rows, scales and payload, if all of these are intact.
    pub content: Option<Content<'a>>,
}

/// The intact content of an entry.
#[derive(Clone, Debug)]
pub(super) struct Content<'a> {
    /// The entry's number within the segment.
    pub index: usize,
    pub rows: Range<u64>,
    /// The range of the entry's rows in ROWS.
    pub row_bytes: Range<usize>,
    pub scales: &'a [u8],
    pub payload: &'a [u8],
}

impl Content<'_> {
    pub fn row_count(&self) -> u64 {
        self.rows.end - self.rows.start
    }
}

impl Remains {
    /// Reads the remains of a file, if its footer can be found. If the manifest lists the file, `record`
    /// tells which footer is the right one.
    pub fn read(
        path: &Path,
        name: SegmentName,
        mut pieces: Pieces,
        record: Option<&SegmentRecord>,
    ) -> Option<Self> {
        let layout = find_layout(path, name, &mut pieces, record)?;
        let parts = sections(&mut pieces, &layout);
        let footer = layout.footer;
        let rows = parts.get(&section::ROWS);
        let (section, crcs) = rows.map(|part| (part.range.clone(), part.sound.clone())).unwrap_or_default();
        let (map, file) = pieces.into_parts();
        let unknown =
            layout.sections.iter().filter(|line| !line.is_known() && line.rule() != MergeRule::Drop);
        let mut remains = Remains {
            map,
            rows: StoredRows {
                path: path.to_owned(),
                file,
                section,
                block_len: 1 << footer.block_len_log2,
                crcs,
            },
            footer,
            unknown_sections: unknown.map(Section::name).collect(),
            parts,
            runs: None,
            directory: None,
            hashes: Vec::new(),
            key_ends: Vec::new(),
            row_ends: Vec::new(),
            kinds: Vec::new(),
        };
        // Nothing is allocated for entries that the file has no room for.
        let len = |tag| remains.parts.get(&tag).map_or(0, |part| part.range.len());
        let entries = len(section::KIND);
        let fits = [(section::KEND, 8), (section::REND, 8), (section::HASH, 8), (section::HENT, 4)]
            .into_iter()
            .all(|(tag, width)| entries.checked_mul(width) == Some(len(tag)));
        if entries as u64 != footer.entries || !fits {
            return None;
        }
        remains.runs = remains.read_runs();
        remains.directory = remains.read_directory();
        remains.read_tables(entries);
        remains.runs = remains.read_runs().and_then(|runs| remains.fitting(runs));
        Some(remains)
    }

    pub fn entry_count(&self) -> usize {
        self.kinds.len()
    }

    /// True if the entries' addresses are known.
    pub fn has_addresses(&self) -> bool {
        self.runs.is_some() || self.entry_count() == 0
    }

    /// Number of entries that are not intact.
    pub fn lost(&self) -> u64 {
        let entries = (0..self.entry_count()).map(|index| self.entry(index));
        entries.filter(|entry| entry.key.is_none() || entry.content.is_none()).count() as u64
    }

    /// The readable parts of the entry of this number.
    pub fn entry(&self, index: usize) -> Remnant<'_> {
        let kind = known(&self.kinds, index);
        let key = self.key_span(index).filter(|span| (1..=MAX_KEY_LEN).contains(&span.len()));
        let key = key.and_then(|span| self.intact(section::KEYS, span));
        Remnant { key, kind, content: kind.and_then(|kind| self.content(index, kind)) }
    }

    fn key_span(&self, index: usize) -> Option<Range<usize>> {
        span(index, |index| known(&self.key_ends, index))
    }

    /// Number of entries whose key has a length that no key may have.
    pub fn impossible_keys(&self) -> usize {
        let spans = (0..self.entry_count()).filter_map(|index| self.key_span(index));
        spans.filter(|span| !(1..=MAX_KEY_LEN).contains(&span.len())).count()
    }

    fn content(&self, index: usize, kind: Kind) -> Option<Content<'_>> {
        let rows = span(index, |index| known(&self.row_ends, index))?;
        if rows.is_empty() == (kind == Kind::Rows) {
            return None;
        }
        let dtype_len = DType::from_code(self.footer.dtype).map_or(1, DType::size);
        let bytes = |width: usize| Some(rows.start.checked_mul(width)?..rows.end.checked_mul(width)?);
        let row_bytes = bytes(self.footer.dim as usize * dtype_len)?;
        self.is_intact(section::ROWS, &row_bytes)?;
        let scales = match self.parts.contains_key(&section::SCAL) {
            true => self.intact(section::SCAL, bytes(4)?)?,
            false => &[],
        };
        let payload = match self.parts.contains_key(&section::PAYL) {
            true => self.intact(section::PAYL, span(index, |index| self.number(section::PEND, index))?)?,
            false => &[],
        };
        let is_reason = kind != Kind::Rejected || rejected::decode(payload).is_some();
        // The payload of a rejected entry begins with the length of the reason.
        let longest = MAX_PAYLOAD_LEN + if kind == Kind::Rejected { size_of::<u32>() } else { 0 };
        if payload.len() > longest || !is_reason {
            return None;
        }
        Some(Content { index, rows: rows.start as u64..rows.end as u64, row_bytes, scales, payload })
    }

    /// The attributes of the file; none if their directory is damaged.
    pub fn columns(&self) -> &[Column] {
        self.directory.as_ref().map_or(&[], Directory::columns)
    }

    /// The intact attributes of an entry, and whether these are all that it may have.
    pub fn attributes(&self, index: usize) -> (Vec<(&Column, Value<'_>)>, bool) {
        let attd = self.parts.get(&section::ATTD).and_then(|part| self.map.get(part.range.clone()));
        let is_sound = |range: Range<usize>| self.is_intact(section::ATTD, &range).is_some();
        let (mut found, mut is_all) = (Vec::new(), self.directory.is_some());
        for column in self.columns() {
            match column.sound_value(attd.unwrap_or_default(), index, is_sound) {
                Ok(value) => found.extend(value.map(|value| (column, value))),
                Err(_) => is_all = false,
            }
        }
        (found, is_all)
    }

    fn read_directory(&self) -> Option<Directory> {
        let len = |tag| self.parts.get(&tag).map(|part| part.range.len());
        let Some(attr) = len(section::ATTR) else { return Some(Directory::default()) };
        let attr = self.intact(section::ATTR, 0..attr)?;
        Directory::parse(attr, self.footer.entries, len(section::ATTD)? as u64).ok()
    }

    /// False if the index tells that the entry has a key of another hash.
    pub fn may_have(&self, index: usize, key_hash: u64) -> bool {
        known(&self.hashes, index).is_none_or(|hash| hash == key_hash)
    }

    /// Where an entry was made; `None` if RUNS is damaged. `first_row`: its first row within the segment.
    pub fn origin(&self, index: usize, first_row: Option<u64>) -> Option<Origin> {
        let runs = self.runs.as_ref()?;
        let after = runs.partition_point(|run| run.segment_entry <= index as u64);
        let run = runs.get(after.checked_sub(1)?)?;
        let row = first_row.map_or(0, |row| row.saturating_sub(run.segment_row));
        Some(Origin {
            commit: run.commit,
            entry: run.entry + (index as u64 - run.segment_entry),
            row: run.row.saturating_add(row),
        })
    }

    /// Kills in intact blocks, and whether these are all kills.
    pub fn kills(&self) -> (Vec<Kill>, bool) {
        let count = self.parts.get(&section::KILL).map_or(0, |part| part.range.len() / size_of::<Kill>());
        let read = |number: usize| {
            let start = number * size_of::<Kill>();
            let bytes = self.intact(section::KILL, start..start + size_of::<Kill>())?;
            bytemuck::try_pod_read_unaligned::<Kill>(bytes).ok()
        };
        let kills: Vec<Kill> = (0..count).filter_map(read).collect();
        let all = kills.len() == count;
        (kills, all)
    }

    /// The settings in the file, if they are intact.
    pub fn settings(&self) -> Option<BTreeMap<String, String>> {
        let len = self.parts.get(&section::SETT)?.range.len();
        settings::decode(self.intact(section::SETT, 0..len)?)
    }

    /// Bytes of a section, if all blocks that they lie in are intact.
    fn intact(&self, tag: Tag, range: Range<usize>) -> Option<&[u8]> {
        let start = self.is_intact(tag, &range)?;
        self.map.get(start + range.start..start + range.end)
    }

    /// The start of a section, if all blocks that `range` lies in are intact.
    fn is_intact(&self, tag: Tag, range: &Range<usize>) -> Option<usize> {
        let part = self.parts.get(&tag)?;
        if range.start > range.end || range.end > part.range.len() {
            return None;
        }
        let blocks = range.start / self.rows.block_len..range.end.div_ceil(self.rows.block_len);
        let sound = range.is_empty() || part.sound.get(blocks)?.iter().all(Option::is_some);
        sound.then_some(part.range.start)
    }

    fn number(&self, tag: Tag, index: usize) -> Option<u64> {
        let start = index.checked_mul(8)?;
        let bytes = self.intact(tag, start..start.checked_add(8)?)?;
        bytes.try_into().ok().map(u64::from_le_bytes)
    }

    fn read_runs(&self) -> Option<Vec<Run>> {
        let part = self.parts.get(&section::RUNS)?;
        let len = part.range.len();
        let name = (self.footer.first, self.footer.last);
        let runs: Vec<Run> = match self.intact(section::RUNS, 0..len) {
            Some(bytes) => bytes
                .chunks_exact(size_of::<Run>())
                .filter_map(|bytes| bytemuck::try_pod_read_unaligned(bytes).ok())
                .collect(),
            // A segment of one batch that was never merged has one run; the checksum tells whether it is this
            // one.
            None => {
                let run = Run { commit: name.0, entry: 0, row: 0, segment_entry: 0, segment_row: 0 };
                let crc = section_crc(&[crc32fast::hash(bytemuck::bytes_of(&run))]);
                if crc != part.crc || len != size_of::<Run>() {
                    return None;
                }
                vec![run]
            }
        };
        // Room is left for numbers that a repair gives after the existing ones.
        let is_possible = |run: &Run| run.entry.max(run.row) <= Run::MOST / 2;
        let in_range = |run: &Run| (name.0..=name.1).contains(&run.commit) && is_possible(run);
        let begins = runs.first().is_some_and(|run| run.segment_entry == 0 && run.segment_row == 0);
        (begins && runs.iter().all(in_range)).then_some(runs)
    }

    /// The runs, each with the first row of its first entry, which is taken from the table of rows if that is
    /// intact. `None` if runs overlap.
    fn fitting(&self, mut runs: Vec<Run>) -> Option<Vec<Run>> {
        for run in runs.iter_mut().skip(1) {
            let entry = usize::try_from(run.segment_entry).ok()?;
            let begins = entry.checked_sub(1).map_or(Some(0), |before| known(&self.row_ends, before));
            run.segment_row = begins.unwrap_or(run.segment_row);
        }
        let follow = runs.iter().zip(runs.iter().skip(1)).all(|(run, next)| run.may_precede(next));
        follow.then_some(runs)
    }

    /// Reads the tables of ends and kinds. A damaged value in one table often follows from the others.
    fn read_tables(&mut self, entries: usize) {
        self.hashes = self.read_hashes(entries);
        self.key_ends = self.read_key_ends(entries);
        self.row_ends = (0..entries).map(|index| self.number(section::REND, index)).collect();
        let kind = |index| Kind::from_code(*self.intact(section::KIND, index..index + 1)?.first()?);
        self.kinds = (0..entries).map(kind).collect();
        // If every entry with rows has one row, the kinds tell the ends of rows.
        if self.footer.kinds.first() == Some(&self.footer.rows) {
            let mut rows = Some(0u64);
            for (end, kind) in self.row_ends.iter_mut().zip(&self.kinds) {
                let counted = rows.zip(*kind);
                let counted = counted.map(|(rows, kind)| rows.saturating_add(u64::from(kind == Kind::Rows)));
                *end = end.or(counted);
                rows = *end;
            }
        }
        // An entry has rows exactly if its kind is `Rows`. If the footer counts only one other kind, all
        // other entries are of it.
        let mut bare = [Kind::Empty, Kind::Rejected, Kind::Tombstone]
            .into_iter()
            .filter(|kind| self.footer.kinds.get(usize::from(kind.code())).is_some_and(|count| *count > 0));
        let only = bare.next().filter(|_| bare.next().is_none());
        for (index, kind) in self.kinds.iter_mut().enumerate().filter(|(_, kind)| kind.is_none()) {
            let rows = span(index, |index| known(&self.row_ends, index));
            *kind = rows.and_then(|rows| if rows.is_empty() { only } else { Some(Kind::Rows) });
        }
    }

    /// Hashes of the keys, by entry, as far as the index is intact.
    fn read_hashes(&self, entries: usize) -> Vec<Option<u64>> {
        let mut hashes: Vec<Option<u64>> = vec![None; entries];
        for position in 0..entries {
            let start = position * 4;
            let entry = self.intact(section::HENT, start..start + 4).and_then(|bytes| bytes.try_into().ok());
            let entry = entry.map(u32::from_le_bytes).and_then(|entry| usize::try_from(entry).ok());
            let place = entry.and_then(|entry| hashes.get_mut(entry));
            if let (Some(hash), Some(place)) = (self.number(section::HASH, position), place) {
                *place = Some(hash);
            }
        }
        hashes
    }

    /// Ends of the keys. A damaged end is found by the key's hash, which the index has.
    fn read_key_ends(&self, entries: usize) -> Vec<Option<u64>> {
        let all = self.parts.get(&section::KEYS).map_or(0, |part| part.range.len());
        let mut start = Some(0usize);
        let end = |index| {
            let end = self.number(section::KEND, index).or_else(|| {
                let (start, hash) = start.zip(known(&self.hashes, index))?;
                let is_key = |end: &usize| {
                    self.intact(section::KEYS, start..*end).is_some_and(|key| key_hash(key) == hash)
                };
                let longest = LONGEST_SEARCHED.min(all.saturating_sub(start));
                (1..=longest).map(|len| start + len).find(is_key).map(|end| end as u64)
            });
            start = end.and_then(|end| usize::try_from(end).ok());
            end
        };
        (0..entries).map(end).collect()
    }
}

fn known<T: Copy>(table: &[Option<T>], index: usize) -> Option<T> {
    table.get(index).copied().flatten()
}

/// The range between an end in a table and the end before it.
fn span(index: usize, end: impl Fn(usize) -> Option<u64>) -> Option<Range<usize>> {
    let start = index.checked_sub(1).map_or(Some(0), &end)?;
    let span = usize::try_from(start).ok()?..usize::try_from(end(index)?).ok()?;
    (span.start <= span.end).then_some(span)
}

/// The sections that lie within the file. Each block is compared with CRCS, and all blocks together with the
/// checksum in the section table. Unreadable bytes are not intact.
fn sections(pieces: &mut Pieces, layout: &Layout) -> HashMap<Tag, Part> {
    let crcs = block_crcs(pieces, layout);
    let mut parts = HashMap::new();
    for line in &layout.sections {
        let Some(range) = range_of(line, body_of(layout)) else { continue };
        let mut found: Vec<Option<u32>> = Vec::new();
        for block in blocks_of(range.clone(), layout.footer.block_len_log2) {
            let bytes = match line.tag {
                section::ROWS | section::CRCS => pieces.read(block),
                _ => pieces.load(block),
            };
            found.push(bytes.ok().map(crc32fast::hash));
        }
        let all: Option<Vec<u32>> = found.iter().copied().collect();
        let whole = all.is_some_and(|all| section_crc(&all) == line.crc);
        let first = line.first_block as usize;
        let sound = found
            .iter()
            .enumerate()
            .map(|(block, crc)| crc.filter(|crc| whole || crcs.get(first + block) == Some(&Some(*crc))));
        parts.insert(line.tag, Part { range, sound: sound.collect(), crc: line.crc });
    }
    parts
}
