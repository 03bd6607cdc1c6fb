//! Writes a segment: rows first, then the tables, the block checksums and the footer.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::SegmentName;
use super::norms::Norms;
use crate::base::{DType, Error, Result};
use crate::format::blocks::{BlockHasher, block_count, block_len_log2_for, section_crc};
use crate::format::columns::FreshColumns;
use crate::format::footer::{FOOTER_LEN, Footer, Layout};
use crate::format::records::{Kill, Run, count};
use crate::format::section::{self, LINE_LEN, Section, Tag};
use crate::format::{key_hash, npy};
use crate::types::{Kind, Metric, Value};
use crate::vfs::VfsFile;

/// What is to be written is gathered up to this length, so that a usual batch, or group of batches, costs one write.
const GATHERED_LEN: usize = 1 << 20;
/// What has to be copied for that, up to this length.
const COPIED_LEN: usize = 256 << 10;
/// No more pieces than this at a time: the system takes 1,024.
const GATHERED_PIECES: usize = 1000;

/// Bytes of a usual key, at most, and of the keys that there is room for from the start: a batch of very many short ones
/// must not ask for memory that it does not need.
const USUAL_KEY: usize = 64;
const MOST_KEYS: usize = 1 << 20;

/// What is to be written: parts, one after the other, and the section that each belongs to.
pub(super) type Sections<'a> = Vec<(Tag, Part<'a>)>;

/// Bytes that are still in another file, and are checked when they are read there.
pub(crate) trait Stored {
    /// Gives the bytes of a range to `sink`, one piece after the other.
    fn read(&self, range: Range<usize>, sink: Sink<'_>) -> io::Result<()>;
}

/// Makes bytes, and gives them to where they go, one piece after the other.
type Maker<'a> = Box<dyn Fn(Sink<'_>) -> io::Result<()> + 'a>;

/// Where bytes go.
pub(super) type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> io::Result<()>;

/// Bytes of a section.
pub(super) enum Part<'a> {
    Borrowed(&'a [u8]),
    Bytes(Vec<u8>),
    Shorts(Vec<u32>),
    Longs(Vec<u64>),
    Stored(&'a dyn Stored, Range<usize>),
    /// A number of bytes that are made when they are written.
    Made(u64, Maker<'a>),
    /// The lengths of so many rows, which have been written before.
    Norms(u64),
}

impl<'a> Part<'a> {
    /// A number of bytes that `make` gives.
    pub fn made(len: u64, make: impl Fn(Sink<'_>) -> io::Result<()> + 'a) -> Self {
        Part::Made(len, Box::new(make))
    }

    fn len(&self) -> u64 {
        match self {
            Part::Stored(_, range) => range.len() as u64,
            Part::Made(len, _) => *len,
            Part::Norms(rows) => *rows * 4,
            part => part.bytes().len() as u64,
        }
    }

    /// Bytes in memory.
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Borrowed(bytes) => bytes,
            Part::Bytes(bytes) => bytes,
            Part::Shorts(numbers) => bytemuck::cast_slice(numbers),
            Part::Longs(numbers) => bytemuck::cast_slice(numbers),
            Part::Stored(..) | Part::Made(..) | Part::Norms(_) => &[],
        }
    }
}

/// Collects the entries of one segment. Rows are borrowed until they are written.
#[derive(Default)]
pub(crate) struct SegmentBuilder<'a> {
    rows: Vec<Part<'a>>,
    scales: Vec<f32>,
    row_count: u64,
    keys: Vec<u8>,
    key_ends: Vec<u64>,
    kinds: Vec<u8>,
    row_ends: Vec<u64>,
    payloads: Vec<u8>,
    payload_ends: Vec<u64>,
    columns: FreshColumns,
    hashes: Vec<(u64, u32)>,
    runs: Vec<Run>,
    kills: Vec<Kill>,
}

impl<'a> SegmentBuilder<'a> {
    /// An empty segment with room for a number of entries.
    pub fn new(entries: usize) -> Self {
        SegmentBuilder {
            keys: Vec::with_capacity(entries.saturating_mul(USUAL_KEY).min(MOST_KEYS)),
            key_ends: Vec::with_capacity(entries),
            kinds: Vec::with_capacity(entries),
            row_ends: Vec::with_capacity(entries),
            payload_ends: Vec::with_capacity(entries),
            hashes: Vec::with_capacity(entries),
            ..Self::default()
        }
    }

    /// The entries pushed from here on belong to `commit`, and begin with these numbers within its batch.
    pub fn begin_run(&mut self, commit: u64, entry: u64, row: u64) {
        self.runs.push(Run {
            commit,
            entry,
            row,
            segment_entry: self.kinds.len() as u64,
            segment_row: self.row_count,
        });
    }

    /// Adds an entry that has `rows` rows; their bytes come with [`SegmentBuilder::add_rows`].
    pub fn push(&mut self, key: &[u8], kind: Kind, rows: u64, payload: &[u8]) {
        self.push_hashed(key_hash(key), key, kind, rows, payload);
    }

    /// The same for a key whose hash is known.
    pub fn push_hashed(&mut self, hash: u64, key: &[u8], kind: Kind, rows: u64, payload: &[u8]) {
        // Checked when the segment is laid out: beyond this number it is not.
        self.hashes.push((hash, u32::try_from(self.kinds.len()).unwrap_or(u32::MAX)));
        self.keys.extend_from_slice(key);
        self.key_ends.push(self.keys.len() as u64);
        self.kinds.push(kind.code());
        self.row_count += rows;
        self.row_ends.push(self.row_count);
        self.payloads.extend_from_slice(payload);
        self.payload_ends.push(self.payloads.len() as u64);
    }

    /// Adds an attribute of the entry that was added last.
    ///
    /// # Errors
    /// It has that already, or an earlier one has it with another type.
    pub fn add_attribute(&mut self, name: &str, value: &Value<'_>) -> Result<()> {
        let added = self.columns.add(self.kinds.len().saturating_sub(1), name, value);
        added.map_err(|_| Error::Internal { what: "an attribute of two types, or twice in an entry" })
    }

    /// Adds the bytes of rows, in the order of the entries they belong to, and their scales where the element type has
    /// them.
    pub fn add_rows(&mut self, bytes: &'a [u8], scales: &[f32]) {
        self.scales.extend_from_slice(scales);
        if !bytes.is_empty() {
            self.rows.push(Part::Borrowed(bytes));
        }
    }

    /// The same for rows that are read when the segment is written. All of them lie in the same file.
    pub fn add_stored_rows(&mut self, stored: &'a dyn Stored, range: Range<usize>, scales: &[f32]) {
        self.scales.extend_from_slice(scales);
        match self.rows.last_mut() {
            Some(Part::Stored(_, last)) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.rows.push(Part::Stored(stored, range)),
        }
    }

    /// Records that an older entry is replaced or deleted.
    pub fn kill(&mut self, kill: Kill) {
        self.kills.push(kill);
    }

    /// What was collected must fit together: a contradiction is never written under a fresh checksum.
    fn check(&self, row_bytes: usize, has_scales: bool) -> Result<()> {
        let is = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(Error::Internal { what }) };
        is(u32::try_from(self.kinds.len() + 1).is_ok(), "a segment of 2^32 entries or more")?;
        let (mut key, mut row, mut payload) = (0, 0, 0);
        let ends = self.key_ends.iter().zip(&self.row_ends).zip(&self.payload_ends);
        for (kind, ((key_end, row_end), payload_end)) in self.kinds.iter().zip(ends) {
            is(*key_end > key, "an entry without a key")?;
            is((*row_end > row) == (*kind == Kind::Rows.code()), "an entry whose kind and rows disagree")?;
            is(*payload_end >= payload, "a payload that ends before it begins")?;
            (key, row, payload) = (*key_end, *row_end, *payload_end);
        }
        is(
            key == self.keys.len() as u64 && payload == self.payloads.len() as u64,
            "keys or payloads of no entry",
        )?;
        let rows: u64 = self.rows.iter().map(Part::len).sum();
        is(Some(rows) == row.checked_mul(row_bytes as u64), "rows that are not those of the entries")?;
        is(!has_scales || self.scales.len() as u64 == row, "scales that are not those of the rows")?;
        let begins = self.runs.first().map_or(self.kinds.is_empty(), |run| run.segment_entry == 0);
        is(begins && self.runs.is_sorted_by_key(|run| run.segment_entry), "entries of no commit")
    }

    /// Lays the segment out. `identity` has everything that does not follow from the entries.
    ///
    /// # Errors
    /// What was collected does not fit together.
    pub fn finish(mut self, identity: Footer, dtype: DType, settings: Vec<u8>) -> Result<EncodedSegment<'a>> {
        self.check(identity.dim as usize * dtype.size(), dtype.has_scales())?;
        let mut footer = Footer { entries: self.kinds.len() as u64, rows: self.row_count, ..identity };
        self.kinds.iter().for_each(|kind| count(&mut footer.kinds, *kind));
        self.kills.iter().for_each(|kill| count_kill(&mut footer, kill));
        let has_norms = identity.metric == Metric::Cosine.code();
        self.kills.sort_by_key(Kill::victim);
        self.hashes.sort_unstable();
        let hashes: Vec<u64> = self.hashes.iter().map(|(hash, _)| *hash).collect();
        let hash_entries: Vec<u32> = self.hashes.iter().map(|(_, entry)| *entry).collect();
        let columns = self.columns.finish(self.kinds.len());
        let (attr, attd) =
            columns.map_err(|_| Error::Internal { what: "attributes that cannot be laid out" })?;

        // A section without parts is one all the same.
        let mut sections: Sections<'a> = vec![(section::ROWS, Part::Borrowed(&[]))];
        sections.extend(self.rows.into_iter().map(|rows| (section::ROWS, rows)));
        sections.extend([
            (section::SCAL, Part::Shorts(self.scales.into_iter().map(f32::to_bits).collect())),
            (section::NORM, Part::Norms(if has_norms { self.row_count } else { 0 })),
            (section::KEYS, Part::Bytes(self.keys)),
            (section::KEND, Part::Longs(self.key_ends)),
            (section::KIND, Part::Bytes(self.kinds)),
            (section::REND, Part::Longs(self.row_ends)),
            (section::PAYL, Part::Bytes(self.payloads)),
            (section::PEND, Part::Longs(self.payload_ends)),
            (section::ATTR, Part::Bytes(attr)),
            (section::ATTD, Part::Bytes(attd)),
            (section::HASH, Part::Longs(hashes)),
            (section::HENT, Part::Shorts(hash_entries)),
            (section::KILL, bytes_of(&self.kills)),
            (section::RUNS, bytes_of(&self.runs)),
        ]);
        EncodedSegment::lay_out(footer, dtype, settings, sections, &[])
    }
}

/// Counts a kill and its rows.
pub(super) fn count_kill(footer: &mut Footer, kill: &Kill) {
    count(&mut footer.killed, kill.kind);
    footer.killed_rows += u64::from(kill.rows);
}

fn bytes_of<'a, T: bytemuck::NoUninit>(records: &[T]) -> Part<'a> {
    Part::Bytes(bytemuck::cast_slice(records).to_vec())
}

/// The parts of each section.
fn by_section<'a, 's>(sections: &'s Sections<'a>) -> impl Iterator<Item = &'s [(Tag, Part<'a>)]> {
    sections.chunk_by(|(one, _), (next, _)| one == next)
}

/// A segment whose layout is fixed, ready to be written.
pub(crate) struct EncodedSegment<'a> {
    layout: Layout,
    dtype: DType,
    sections: Sections<'a>,
}

impl<'a> EncodedSegment<'a> {
    /// Lays out what these sections hold, in their order, between the header of the rows and the settings. Scales, lengths,
    /// payloads, attributes and kills are left out where there are none. `carried` are the lines of those that this
    /// version does not know.
    pub(super) fn lay_out(
        mut footer: Footer,
        dtype: DType,
        settings: Vec<u8>,
        mut sections: Sections<'a>,
        carried: &[Section],
    ) -> Result<Self> {
        let has = |tag| sections.iter().any(|(of, part)| *of == tag && part.len() > 0);
        let (norms, payloads, kills) = (has(section::NORM), has(section::PAYL), has(section::KILL));
        let attributes = has(section::ATTR);
        sections.retain(|(tag, _)| match *tag {
            section::SCAL => dtype.has_scales(),
            section::NORM => norms,
            section::PAYL | section::PEND => payloads,
            section::ATTR | section::ATTD => attributes,
            section::KILL => kills,
            _ => true,
        });
        let header = npy::header(dtype, footer.rows, footer.dim as usize);
        sections.insert(0, (section::HEAD, Part::Bytes(header)));
        sections.push((section::SETT, Part::Bytes(settings)));
        let log2 = block_len_log2_for(sections.iter().map(|(_, part)| part.len()).sum());
        let (mut offset, mut blocks, mut table) = (0, 0, Vec::new());
        for parts in by_section(&sections) {
            let len: u64 = parts.iter().map(|(_, part)| part.len()).sum();
            let first_block = u32::try_from(blocks)
                .map_err(|_| Error::Internal { what: "a segment of 2^32 blocks or more" })?;
            let tag = parts.first().map(|(tag, _)| *tag).unwrap_or_default();
            let known = Section::new(tag, offset, len, first_block);
            let line = carried.iter().find(|line| line.tag == tag).map_or(known, |line| line.moved(known));
            table.push(line);
            blocks += block_count(len, log2);
            offset = align_up(line.offset + len);
        }
        table.push(Section::new(section::CRCS, offset, blocks * 4, 0));
        footer.block_len_log2 = log2;
        footer.section_count =
            u32::try_from(table.len()).map_err(|_| Error::Internal { what: "2^32 sections or more" })?;
        footer.table_at = align_up(offset + blocks * 4);
        footer.file_len = footer.table_at + (table.len() * LINE_LEN + FOOTER_LEN) as u64;
        Ok(EncodedSegment { layout: Layout { footer, sections: table }, dtype, sections })
    }

    /// The name it is to get.
    pub fn name(&self) -> SegmentName {
        let Footer { first, last, generation, .. } = self.layout.footer;
        SegmentName { first, last, generation }
    }

    /// Length of the file to be.
    pub fn file_len(&self) -> u64 {
        self.layout.footer.file_len
    }

    /// Writes everything; returns the end of the file, sealed. Nothing is flushed.
    pub fn write(self, file: &mut dyn VfsFile) -> io::Result<Layout> {
        let EncodedSegment { layout: Layout { mut footer, sections: mut table }, dtype, sections } = self;
        let has_norms = sections.iter().any(|(_, part)| matches!(part, Part::Norms(_)));
        let mut norms = has_norms.then(|| Norms::new(dtype, footer.dim as usize));
        let mut scales: &[f32] = &[];
        let pieces = Vec::with_capacity(GATHERED_PIECES.min(2 * sections.len() + 4));
        let mut out = Gathering { file, pieces, pending: 0, copied: Vec::new(), written: 0 };
        let mut hasher = BlockHasher::new(footer.block_len_log2);
        let mut all_crcs: Vec<u32> = Vec::with_capacity(table.len());
        let mut lines = table.iter_mut();
        for parts in by_section(&sections) {
            let Some(line) = lines.next() else { break };
            out.pad_to(line.offset)?;
            let begins = out.written;
            for (tag, part) in parts {
                let mut see = |bytes: &[u8]| {
                    hasher.update(bytes);
                    if let Some(norms) = norms.as_mut().filter(|_| *tag == section::ROWS) {
                        norms.update(bytes);
                    }
                };
                let mut copy = |bytes: &[u8]| {
                    see(bytes);
                    out.add_copied(bytes)
                };
                match part {
                    Part::Stored(stored, range) => stored.read(range.clone(), &mut copy)?,
                    Part::Made(_, make) => make(&mut copy)?,
                    Part::Norms(_) => {
                        let norms = norms.take().map(|norms| norms.finish(scales)).unwrap_or_default();
                        hasher.update(bytemuck::cast_slice(&norms));
                        out.add_copied(bytemuck::cast_slice(&norms))?;
                    }
                    part => {
                        see(part.bytes());
                        out.add(part.bytes())?;
                    }
                }
                if *tag == section::SCAL {
                    scales = bytemuck::try_cast_slice(part.bytes()).unwrap_or_default();
                }
            }
            if out.written - begins != line.len {
                return Err(io::Error::other("a section has not the length that it was to have"));
            }
            let crcs = hasher.finish();
            line.crc = section_crc(&crcs);
            all_crcs.extend_from_slice(&crcs);
        }
        let crc_bytes: &[u8] = bytemuck::cast_slice(&all_crcs);
        if let Some(line) = lines.next() {
            line.crc = crc32fast::hash(crc_bytes);
            out.pad_to(line.offset)?;
            out.add(crc_bytes)?;
        }
        out.pad_to(footer.table_at)?;
        footer.table_crc = crc32fast::hash(bytemuck::cast_slice(&table));
        footer.seal();
        out.add(bytemuck::cast_slice(&table))?;
        out.add(footer.bytes())?;
        out.finish()?;
        Ok(Layout { footer, sections: table })
    }
}

fn align_up(offset: u64) -> u64 {
    offset.next_multiple_of(section::ALIGN)
}

/// Gathers pieces of a file where they are, and writes many of them at once.
struct Gathering<'a, 'f> {
    file: &'f mut dyn VfsFile,
    pieces: Vec<IoSlice<'a>>,
    /// Length of all pieces.
    pending: usize,
    /// Bytes that come after the pieces and do not stay where they are.
    copied: Vec<u8>,
    written: u64,
}

impl<'a> Gathering<'a, '_> {
    fn add(&mut self, data: &'a [u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if !self.copied.is_empty() {
            self.finish()?;
        }
        self.written += data.len() as u64;
        self.pending += data.len();
        self.pieces.push(IoSlice::new(data));
        if self.pending >= GATHERED_LEN || self.pieces.len() >= GATHERED_PIECES {
            self.finish()
        } else {
            Ok(())
        }
    }

    fn add_copied(&mut self, data: &[u8]) -> io::Result<()> {
        self.written += data.len() as u64;
        if self.copied.len() + data.len() > COPIED_LEN {
            self.finish()?;
        }
        if data.len() >= COPIED_LEN {
            self.finish()?;
            return self.file.write_all(data);
        }
        self.copied.extend_from_slice(data);
        Ok(())
    }

    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        static ZEROS: [u8; 64] = [0; 64];
        while self.written < offset {
            let gap = usize::try_from(offset - self.written).unwrap_or(usize::MAX).min(ZEROS.len());
            self.add(ZEROS.get(..gap).unwrap_or_default())?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.pieces.is_empty() {
            self.file.write_slices(&mut self.pieces)?;
            self.pieces.clear();
            self.pending = 0;
        }
        if !self.copied.is_empty() {
            self.file.write_all(&self.copied)?;
            self.copied.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: [u8; 4] = [0; 4];

    /// A builder with an entry of one row in commit 1, changed.
    fn finish(change: impl FnOnce(&mut SegmentBuilder<'_>)) -> Result<()> {
        let mut builder = SegmentBuilder::new(1);
        builder.begin_run(1, 0, 0);
        builder.push(b"key", Kind::Rows, 1, b"payload");
        builder.add_rows(&ROW, &[]);
        change(&mut builder);
        let identity = Footer { dim: 1, ..Footer::empty() };
        builder.finish(identity, DType::F32, Vec::new()).map(drop)
    }

    type Mistake = fn(&mut SegmentBuilder<'_>);

    #[test]
    fn a_contradiction_is_never_laid_out() {
        finish(|_| ()).unwrap();
        let mistakes: [(&str, Mistake); 7] = [
            ("without a key", |builder| builder.push(b"", Kind::Empty, 0, b"")),
            ("kind and rows", |builder| builder.push(b"k", Kind::Empty, 1, b"")),
            ("kind and rows", |builder| builder.push(b"k", Kind::Rows, 0, b"")),
            ("rows that are not", |builder| builder.push(b"k", Kind::Rows, 1, b"")),
            ("rows that are not", |builder| builder.add_rows(&ROW, &[])),
            ("of no commit", |builder| builder.runs.clear()),
            ("of no entry", |builder| builder.keys.push(b'x')),
        ];
        for (what, mistake) in mistakes {
            let error = finish(mistake).unwrap_err();
            assert!(
                matches!(&error, Error::Internal { .. }) && error.to_string().contains(what),
                "{what}: {error}"
            );
        }
    }
}
