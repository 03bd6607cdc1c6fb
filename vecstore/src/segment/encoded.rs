//! A segment that is laid out, and how its bytes reach its file: gathered, checksummed, written once.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::SegmentName;
use super::norms::Norms;
use crate::base::{DType, Error, Result};
use crate::format::blocks::{BlockHasher, block_count, block_len_log2_for, section_crc};
use crate::format::footer::{FOOTER_LEN, Footer, Layout, MAX_SECTIONS};
use crate::format::npy;
use crate::format::section::{self, LINE_LEN, Section, Tag};
use crate::vfs::VfsFile;

/// Bytes that are gathered before they are written, so that a usual batch, or group of batches, costs one
/// write.
const GATHERED_LEN: usize = 1 << 20;
/// Most bytes that are copied for gathering; longer pieces are written directly.
const COPIED_LEN: usize = 256 << 10;
/// Most pieces per write: the system takes 1,024.
const GATHERED_PIECES: usize = 1000;

/// The parts of a file in the order in which they are written, each with the section that it belongs to.
pub(super) type Sections<'a> = Vec<(Tag, Part<'a>)>;

/// Bytes that still lie in another file and are checked when they are read there.
pub(crate) trait Stored {
    /// Passes the bytes of a range to `sink`, piece by piece.
    fn read(&self, range: Range<usize>, sink: Sink<'_>) -> io::Result<()>;
}

/// Produces bytes and passes them to a sink, piece by piece.
type Maker<'a> = Box<dyn Fn(Sink<'_>) -> io::Result<()> + 'a>;

/// Receives bytes on their way to the file.
pub(super) type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> io::Result<()>;

/// A part of a section.
pub(super) enum Part<'a> {
    Borrowed(&'a [u8]),
    Bytes(Vec<u8>),
    Shorts(Vec<u32>),
    Longs(Vec<u64>),
    Stored(&'a dyn Stored, Range<usize>),
    /// A number of bytes, and the function that produces them while they are written.
    Made(u64, Maker<'a>),
    /// The lengths of this many rows. Computed while the rows are written, so the rows come first.
    Norms(u64),
}

impl<'a> Part<'a> {
    /// A part of `len` bytes that `make` produces.
    pub fn made(len: u64, make: impl Fn(Sink<'_>) -> io::Result<()> + 'a) -> Self {
        Part::Made(len, Box::new(make))
    }

    pub fn len(&self) -> u64 {
        match self {
            Part::Stored(_, range) => range.len() as u64,
            Part::Made(len, _) => *len,
            Part::Norms(rows) => *rows * 4,
            part => part.bytes().len() as u64,
        }
    }

    /// The bytes of a part that is in memory; empty for all other parts.
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

/// Groups the parts by section.
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
    /// Lays out these sections, in their order, between the NumPy header and the settings. Leaves out scales,
    /// lengths, payloads, attributes and kills if there are none. `carried` has the section table's lines of
    /// sections that this version does not know.
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
            let first_block =
                u32::try_from(blocks).map_err(|_| Error::internal("a segment of 2^32 blocks or more"))?;
            let tag = parts.first().map(|(tag, _)| *tag).unwrap_or_default();
            let known = Section::new(tag, offset, len, first_block);
            let line = carried.iter().find(|line| line.tag == tag).map_or(known, |line| line.moved(known));
            table.push(line);
            blocks += block_count(len, log2);
            offset = align_up(line.offset + len);
        }
        table.push(Section::new(section::CRCS, offset, blocks * 4, 0));
        footer.block_len_log2 = log2;
        let count = u32::try_from(table.len()).ok().filter(|count| *count <= MAX_SECTIONS);
        footer.section_count = count.ok_or(Error::internal("more sections than a file may have"))?;
        footer.table_at = align_up(offset + blocks * 4);
        footer.file_len = footer.table_at + (table.len() * LINE_LEN + FOOTER_LEN) as u64;
        Ok(EncodedSegment { layout: Layout { footer, sections: table }, dtype, sections })
    }

    /// The name that the file is to get.
    pub fn name(&self) -> SegmentName {
        let Footer { first, last, generation, .. } = self.layout.footer;
        SegmentName { first, last, generation }
    }

    /// Length that the file will have.
    pub fn file_len(&self) -> u64 {
        self.layout.footer.file_len
    }

    /// Writes the file without flushing it. Returns its end: the section table and the sealed footer.
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

/// A gathered piece of the file.
enum Piece<'a> {
    /// Borrowed bytes, which stay in place until they are written.
    There(&'a [u8]),
    /// A range of the copied bytes.
    Copied(Range<usize>),
}

/// Gathers pieces of a file and writes many of them at once.
struct Gathering<'a, 'f> {
    file: &'f mut dyn VfsFile,
    pieces: Vec<Piece<'a>>,
    /// Total length of the gathered pieces.
    pending: usize,
    /// Copies of bytes whose source does not stay in place until the write.
    copied: Vec<u8>,
    written: u64,
}

impl<'a> Gathering<'a, '_> {
    fn add(&mut self, data: &'a [u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.pieces.push(Piece::There(data));
        self.added(data.len())
    }

    fn add_copied(&mut self, data: &[u8]) -> io::Result<()> {
        if self.copied.len() + data.len() > COPIED_LEN {
            self.finish()?;
        }
        if data.len() >= COPIED_LEN {
            self.finish()?;
            self.written += data.len() as u64;
            return self.file.write_all(data);
        }
        let start = self.copied.len();
        self.copied.extend_from_slice(data);
        match self.pieces.last_mut() {
            Some(Piece::Copied(range)) => range.end = self.copied.len(),
            _ => self.pieces.push(Piece::Copied(start..self.copied.len())),
        }
        self.added(data.len())
    }

    fn added(&mut self, len: usize) -> io::Result<()> {
        self.written += len as u64;
        self.pending += len;
        match self.pending >= GATHERED_LEN || self.pieces.len() >= GATHERED_PIECES {
            true => self.finish(),
            false => Ok(()),
        }
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
        let bytes = |piece: &Piece<'a>| match piece {
            Piece::There(bytes) => IoSlice::new(bytes),
            Piece::Copied(range) => IoSlice::new(self.copied.get(range.clone()).unwrap_or_default()),
        };
        let mut slices: Vec<IoSlice<'_>> = self.pieces.iter().map(bytes).collect();
        if !slices.is_empty() {
            self.file.write_slices(&mut slices)?;
        }
        self.pieces.clear();
        self.copied.clear();
        self.pending = 0;
        Ok(())
    }
}
