//! A mapped segment and its tables.
//!
//! Opening takes the same time for a segment of any size: it checks the footer, the section table, runs and
//! settings. Kills are checked when they are replayed. Keys, rows and the other tables are only
//! bounds-checked on use; `verify` checks them fully.

mod attributes;
mod blocks;
mod keys;
mod places;
mod unknown;

use crate::format::COMPAT_LOST;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use self::blocks::Checked;
use super::SegmentName;
use super::search::Index;
use super::tables::Tables;
use crate::base::{Bug, DType, Error, IoContext, Result, unless};
use crate::format::blocks::section_crc;
use crate::format::columns::Directory;
use crate::format::footer::{Footer, Layout};
use crate::format::records::{Kill, Run};
use crate::format::section::{self, Tag};
use crate::format::settings;
use crate::types::Kind;
use crate::vfs::{Mapping, Vfs};

/// A mapped segment.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    name: SegmentName,
    map: Mapping,
    layout: Layout,
    dtype: DType,
    row_bytes: usize,
    tables: Tables,
    index: Index,
    directory: OnceLock<Result<Directory>>,
    /// In a handle that compares the checksums of what it reads: what of them was compared.
    checked: Option<Checked>,
    /// True if every entry has one row: by the footer's counts there are no kinds but rows, and as many rows
    /// as entries.
    is_plain: bool,
    /// Length of every key if all have the same length, which their total length only allows, not proves;
    /// else 0.
    key_len: usize,
}

fn name_of(footer: &Footer) -> SegmentName {
    SegmentName { first: footer.first, last: footer.last, generation: footer.generation }
}

impl Segment {
    /// Maps a segment and checks the layout that [`Layout::parse`] reads, the section table and the small
    /// tables.
    pub fn open(vfs: &dyn Vfs, path: &Path, name: SegmentName) -> Result<Self> {
        let map = vfs.map(path).map_err(|source| Error::io(path, "map the segment", source))?;
        Self::from_mapping(path, name, map)
    }

    /// A segment that this process has just written with this layout; maps it unless the caller passes a
    /// mapping. Reads none of its bytes: that would fetch the pages of its end one by one while a commit
    /// waits. `hashes` are the hashes of its keys.
    pub fn written(
        vfs: &dyn Vfs,
        path: &Path,
        layout: Layout,
        map: Option<Mapping>,
        hashes: &[u64],
    ) -> Result<Self> {
        let map = map.map_or_else(|| vfs.map(path).at(path, "map the segment"), Ok)?;
        if map.len() as u64 != layout.footer.file_len {
            let detail = format!("expected a file of {} bytes, found {}", layout.footer.file_len, map.len());
            return Err(Error::damaged(path, "footer", detail));
        }
        let segment = Self::with_layout(path, map, layout)?;
        segment.index.remember(hashes);
        Ok(segment)
    }

    /// As [`Segment::open`], for bytes that are already mapped.
    pub fn from_mapping(path: &Path, name: SegmentName, map: Mapping) -> Result<Self> {
        let layout = Layout::parse(path, &map)?;
        let found = name_of(&layout.footer);
        if found != name {
            return Err(Error::ForeignSegment {
                path: path.to_owned(),
                detail: format!("its footer says that it is {found}"),
            });
        }
        let segment = Self::with_layout(path, map, layout)?;
        segment.check_small_tables()?;
        Ok(segment)
    }

    fn with_layout(path: &Path, map: Mapping, layout: Layout) -> Result<Self> {
        let footer = &layout.footer;
        let name = name_of(footer);
        let dtype = DType::from_code(footer.dtype).unwrap_or(DType::F32);
        let row_bytes = footer.dim as usize * dtype.size();
        let tables = Tables::read(path, &layout, row_bytes as u64)?;
        let is_plain = footer.rows == footer.entries && footer.kinds == [footer.entries, 0, 0, 0];
        let (index, directory) = (Index::default(), OnceLock::new());
        let (keys, entries) = (tables.keys.len(), tables.kinds.len().max(1));
        let key_len = if keys % entries == 0 { keys / entries } else { 0 };
        let path = path.to_owned();
        let has_checks = map.has_checks();
        let checked = None;
        let segment = Segment {
            path,
            name,
            map,
            layout,
            dtype,
            row_bytes,
            tables,
            index,
            directory,
            checked,
            is_plain,
            key_len,
        };
        Ok(if has_checks { segment.checked() } else { segment })
    }

    /// Drops keys, their index, ends of payloads and attributes, for a caller that only follows links. Frees
    /// their memory if the segment was not mapped.
    pub fn without_keys(self) -> Self {
        self.with_tables(|_| [])
    }

    /// Drops the values of attributes, if there are any; keeps keys and the directory of attributes.
    pub fn without_values(self) -> Self {
        if self.tables.values.is_empty() {
            return self;
        }
        self.with_tables(|of| [&of.keys, &of.key_ends, &of.hashes, &of.hash_entries, &of.attributes])
    }

    /// Keeps only the tables that say how segments follow each other, and the tables that `more` names.
    fn with_tables<const N: usize>(self, more: fn(&Tables) -> [&Range<usize>; N]) -> Self {
        let Segment { map, tables, .. } = &self;
        let kept = [&tables.kinds, &tables.row_ends, &tables.kills, &tables.runs, &tables.settings];
        let Ok(mut less) = Mapping::blank(map.len()) else { return self };
        for range in kept.into_iter().chain(more(tables)) {
            less.put(range.start, map.get(range.clone()).unwrap_or_default());
        }
        Segment { map: less, checked: None, ..self }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> SegmentName {
        self.name
    }

    pub fn footer(&self) -> &Footer {
        &self.layout.footer
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Length of the blocks that have checksums.
    pub fn block_len(&self) -> usize {
        1 << self.layout.footer.block_len_log2
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// True if entries are missing in the file: a repair wrote it, or it was merged from such a file.
    pub fn is_lossy(&self) -> bool {
        self.layout.footer.compat & COMPAT_LOST != 0
    }

    /// The whole file, for callers that read it in pieces.
    pub fn mapping(&self) -> &Mapping {
        &self.map
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    #[inline]
    pub fn entry_count(&self) -> usize {
        self.kinds().len()
    }

    pub fn row_count(&self) -> usize {
        self.tables.rows.len() / self.row_bytes
    }

    #[inline]
    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.map.get(range.clone()).unwrap_or_default()
    }

    #[inline]
    fn records<T: bytemuck::AnyBitPattern>(&self, range: &Range<usize>) -> &[T] {
        bytemuck::try_cast_slice(self.slice(range)).unwrap_or_default()
    }

    #[inline]
    pub fn kinds(&self) -> &[u8] {
        self.slice(&self.tables.kinds)
    }

    /// The sorted key hashes.
    #[inline]
    pub fn hashes(&self) -> &[u64] {
        self.records(&self.tables.hashes)
    }

    /// The entry that the hash at `position` belongs to.
    #[inline]
    pub fn hash_entry(&self, position: usize) -> Option<usize> {
        let entries: &[u32] = self.records(&self.tables.hash_entries);
        entries.get(position).map(|entry| *entry as usize)
    }

    /// The kills of this segment, without a comparison of their checksum: see [`Segment::checked_kills`].
    pub fn kills(&self) -> &[Kill] {
        self.records(&self.tables.kills)
    }

    /// The kills of this segment, after comparing their checksum. Opening does not compare it, so kills that
    /// a checkpoint's bitmaps contain are never read.
    pub fn checked_kills(&self) -> Result<&[Kill]> {
        unless(Bug::TrustKills, || self.check_section(section::KILL, &self.tables.kills))?;
        Ok(self.kills())
    }

    pub fn runs(&self) -> &[Run] {
        self.records(&self.tables.runs)
    }

    /// The bytes of all rows.
    #[inline]
    pub fn rows(&self) -> &[u8] {
        self.slice(&self.tables.rows)
    }

    /// The settings that this segment carries.
    pub fn settings(&self) -> Result<std::collections::BTreeMap<String, String>> {
        settings::decode(self.slice(&self.tables.settings))
            .ok_or_else(|| Error::damaged(&self.path, "SETT", "settings that cannot be read"))
    }

    #[cold]
    fn damaged(&self, section: &str, index: usize) -> Error {
        Error::damaged(&self.path, section, format!("entry {index} points outside the file's tables"))
    }

    /// Key of an entry.
    #[inline]
    pub fn key(&self, index: usize) -> Result<&[u8]> {
        self.check_tables()?;
        if let Some(span) = self.key_span(index) {
            self.check_bytes(section::KEYS, span)?;
        }
        self.key_span(index)
            .and_then(|range| self.slice(&self.tables.keys).get(range))
            .ok_or_else(|| self.damaged("KEND", index))
    }

    /// The ends of all keys in KEYS, if every entry has one row and no entry has a payload.
    pub fn simple_key_ends(&self) -> Option<&[u64]> {
        let is_simple = self.is_plain && self.tables.payload_ends.is_empty() && self.checked.is_none();
        is_simple.then(|| self.records(&self.tables.key_ends))
    }

    /// The bytes of all keys.
    #[inline]
    pub fn all_keys(&self) -> &[u8] {
        self.slice(&self.tables.keys)
    }

    /// Range of an entry's key in KEYS.
    #[inline]
    pub fn key_span(&self, index: usize) -> Option<Range<usize>> {
        span(self.records(&self.tables.key_ends), index)
    }

    /// The bytes of all payloads.
    pub fn all_payloads(&self) -> &[u8] {
        self.slice(&self.tables.payloads)
    }

    /// True if the segment has a table of payloads.
    pub fn has_payloads(&self) -> bool {
        !self.tables.payload_ends.is_empty()
    }

    /// Kind of an entry.
    #[inline]
    pub fn kind(&self, index: usize) -> Result<Kind> {
        self.check_tables()?;
        self.kinds()
            .get(index)
            .and_then(|code| Kind::from_code(*code))
            .ok_or_else(|| self.damaged("KIND", index))
    }

    /// The rows of an entry, as row numbers within the segment.
    #[inline]
    pub fn row_span(&self, index: usize) -> Result<Range<usize>> {
        self.check_tables()?;
        span(self.records(&self.tables.row_ends), index)
            .filter(|range| range.end <= self.row_count())
            .ok_or_else(|| self.damaged("REND", index))
    }

    /// Kind and rows of an entry. If every entry has one row, the tables are not read, which spares a lookup
    /// two waits for memory.
    #[inline]
    pub fn kind_and_rows(&self, index: usize) -> Result<(Kind, Range<usize>)> {
        if self.is_plain && index < self.entry_count() {
            return Ok((Kind::Rows, index..index + 1));
        }
        Ok((self.kind(index)?, self.row_span(index)?))
    }

    /// The entry that a row belongs to.
    pub fn entry_of_row(&self, row: usize) -> usize {
        let ends: &[u64] = self.records(&self.tables.row_ends);
        ends.partition_point(|end| *end <= row as u64)
    }

    /// Bytes of a range of rows.
    #[inline]
    pub fn row_bytes(&self, rows: Range<usize>) -> Result<&[u8]> {
        let start = rows.start.checked_mul(self.row_bytes);
        let end = rows.end.checked_mul(self.row_bytes);
        if let Some((start, end)) = start.zip(end) {
            self.check_bytes(section::ROWS, start..end)?;
        }
        start
            .zip(end)
            .and_then(|(start, end)| self.rows().get(start..end))
            .ok_or_else(|| Error::damaged(&self.path, "ROWS", format!("rows {rows:?} are not in the file")))
    }

    /// The Euclidean length of each row; empty if the file does not have them.
    pub fn norms(&self) -> &[f32] {
        self.records(&self.tables.norms)
    }

    /// True if the file has the length of each row.
    pub fn has_norms(&self) -> bool {
        self.norms().len() == self.row_count()
    }

    /// Scales of a range of rows; empty if the element type has no scales.
    pub fn row_scales(&self, rows: Range<usize>) -> &[f32] {
        self.records(&self.tables.scales).get(rows).unwrap_or_default()
    }

    /// A range of rows as `f32`.
    pub fn rows_f32(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        self.check_tables()?;
        let bytes = self.row_bytes(rows.clone())?;
        Ok(crate::base::dtype::widen_bytes(
            self.dtype,
            self.layout.footer.dim as usize,
            bytes,
            self.row_scales(rows),
        ))
    }

    /// Payload of an entry; empty if it has none.
    #[inline]
    pub fn payload(&self, index: usize) -> Result<&[u8]> {
        if self.tables.payload_ends.is_empty() {
            return Ok(&[]);
        }
        self.check_tables()?;
        if let Some(span) = self.payload_span(index) {
            self.check_bytes(section::PAYL, span)?;
        }
        self.payload_span(index)
            .and_then(|range| self.slice(&self.tables.payloads).get(range))
            .ok_or_else(|| self.damaged("PEND", index))
    }

    /// Range of an entry's payload in PAYL.
    #[inline]
    pub fn payload_span(&self, index: usize) -> Option<Range<usize>> {
        span(self.records(&self.tables.payload_ends), index)
    }

    /// Compares the checksum of a section. Reads all of it, so the section should be small, or be needed as a
    /// whole.
    fn check_section(&self, tag: Tag, range: &Range<usize>) -> Result<()> {
        let crcs: Vec<u32> = self.slice(range).chunks(self.block_len()).map(crc32fast::hash).collect();
        let expected = self.layout.sections.iter().find(|line| line.tag == tag).map(|line| line.crc);
        if expected.is_some_and(|expected| expected != section_crc(&crcs)) {
            let name = String::from_utf8_lossy(&tag).into_owned();
            return Err(Error::damaged(&self.path, name, "its checksum does not match"));
        }
        Ok(())
    }

    /// Checks the tables that opening relies on: their checksums, and that runs ascend and stay within the
    /// file.
    fn check_small_tables(&self) -> Result<()> {
        unless(Bug::TrustTables, || {
            self.check_section(section::RUNS, &self.tables.runs)?;
            self.check_section(section::SETT, &self.tables.settings)
        })?;
        let (mut last, mut entry, mut row) = (None, 0, 0);
        for (number, run) in self.runs().iter().enumerate() {
            let sound = run.commit >= self.name.first
                && run.commit <= self.name.last
                && last.is_none_or(|last| last < (run.commit, run.entry))
                && run.segment_entry >= entry
                && run.segment_row >= row
                && run.segment_entry <= self.layout.footer.entries
                && run.segment_row <= self.layout.footer.rows
                && run.entry.checked_add(self.layout.footer.entries).is_some()
                && run.row.checked_add(self.layout.footer.rows).is_some()
                && (number > 0 || run.segment_entry == 0 && run.segment_row == 0);
            if !sound {
                return Err(Error::damaged(
                    &self.path,
                    "RUNS",
                    format!("run {number} is out of order or range"),
                ));
            }
            (last, entry, row) = (Some((run.commit, run.entry)), run.segment_entry, run.segment_row);
        }
        if self.runs().is_empty() && self.layout.footer.entries > 0 {
            return Err(Error::damaged(&self.path, "RUNS", "there are entries, but no run"));
        }
        Ok(())
    }
}

/// The span of element `index` in a table of ends.
#[inline]
fn span(ends: &[u64], index: usize) -> Option<Range<usize>> {
    let end = usize::try_from(*ends.get(index)?).ok()?;
    let start = match index.checked_sub(1) {
        Some(before) => usize::try_from(*ends.get(before)?).ok()?,
        None => 0,
    };
    (start <= end).then_some(start..end)
}
