//! A segment file that is read block by block, for callers that must survive unreadable sectors: a failed
//! read is an error, a failed access to mapped memory ends the process.

use crate::base::Unreadable;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::check::{body_of, range_of};
use super::{Segment, SegmentName};
use crate::base::{IoContext, Result};
use crate::format::blocks::{BLOCK_LEN, BLOCK_LEN_LOG2, blocks_of};
use crate::format::footer::{FOOTER_LEN, Footer, Layout, TAIL_LEN};
use crate::format::section::Tag;
use crate::vfs::{Mapping, ReadAt, Vfs};

/// Length of the pieces that are read one by one after a block could not be read.
const PIECE: usize = 4096;

/// A file of which only requested ranges are read, and only loaded ranges stay in memory.
#[derive(Debug)]
pub(crate) struct Pieces {
    file: Box<dyn ReadAt>,
    len: usize,
    /// As long as the file; zero except for the loaded ranges.
    kept: Mapping,
    buffer: Vec<u8>,
    /// True once any part of the file could be read.
    read_some: bool,
}

/// Opens a segment by reading only its end and these tables. Nothing is mapped, and all other bytes are zero.
pub(crate) fn open_unmapped(
    vfs: &dyn Vfs,
    path: &Path,
    name: SegmentName,
    tables: &[Tag],
) -> Result<Segment> {
    let mut pieces = Pieces::open(vfs, path).at(path, "open the segment")?;
    pieces.load_end(path).map_err(|unreadable| unreadable.at(path))?;
    let layout = Layout::parse(path, pieces.kept())?;
    let wanted = layout.sections.iter().filter(|line| tables.contains(&line.tag));
    for range in wanted.filter_map(|line| range_of(line, body_of(&layout))) {
        for block in blocks_of(range, BLOCK_LEN_LOG2) {
            pieces.load(block).map_err(|unreadable| unreadable.at(path))?;
        }
    }
    Segment::from_mapping(path, name, pieces.into_parts().0)
}

impl Pieces {
    /// Opens a file without reading it.
    pub fn open(vfs: &dyn Vfs, path: &Path) -> io::Result<Self> {
        Self::of(vfs.open(path)?)
    }

    /// The pieces of an open file.
    pub fn of(file: Box<dyn ReadAt>) -> io::Result<Self> {
        let len = usize::try_from(file.byte_len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let kept = Mapping::blank(len)?;
        Ok(Pieces { file, len, kept, buffer: Vec::new(), read_some: false })
    }

    /// Length of the file.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no block of the file can be read (the disk is gone, for example). Reads blocks until one
    /// succeeds.
    pub fn is_lost(&mut self) -> bool {
        let mut start = 0;
        while start < self.len && !self.read_some {
            let end = self.len.min(start + BLOCK_LEN);
            let _ = self.read(start..end);
            start = end;
        }
        !self.read_some
    }

    /// Reads a range. Bytes outside the file count as unreadable.
    pub fn read(&mut self, range: Range<usize>) -> Result<&[u8], Unreadable> {
        self.buffer.resize(range.len(), 0);
        let Err(error) = self.file.read_at(&mut self.buffer, range.start as u64) else {
            self.read_some |= !range.is_empty();
            return Ok(&self.buffer);
        };
        // Finds the unreadable pieces. Pieces are aligned in the file, as the sectors of a disk are.
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let end = (start / PIECE + 1).saturating_mul(PIECE).min(range.end);
            let piece = self.buffer.get_mut(start - range.start..end - range.start).unwrap_or_default();
            if self.file.read_at(piece, start as u64).is_ok() {
                self.read_some = true;
            } else {
                match ranges.last_mut().filter(|last| last.end == start) {
                    Some(last) => last.end = end,
                    None => ranges.push(start..end),
                }
            }
            start = end;
        }
        if ranges.is_empty() {
            // The second read of every piece succeeded.
            return Ok(&self.buffer);
        }
        Err(Unreadable { ranges, error })
    }

    /// Reads a range and keeps its bytes.
    pub fn load(&mut self, range: Range<usize>) -> Result<&[u8], Unreadable> {
        self.read(range.clone())?;
        self.kept.put(range.start, &self.buffer);
        Ok(&self.buffer)
    }

    /// Reads and keeps the footer and the section table, as far as the file says where they lie.
    pub fn load_end(&mut self, path: &Path) -> Result<(), Unreadable> {
        self.load(self.len.saturating_sub(FOOTER_LEN)..self.len)?;
        let tail = self.kept.get(self.len.saturating_sub(TAIL_LEN)..).unwrap_or_default();
        if let Ok(len) = Footer::len_of(path, tail).map(|len| len.min(self.len))
            && len > FOOTER_LEN
        {
            self.load(self.len - len..self.len)?;
        }
        let table = Footer::parse(path, &self.kept).ok().and_then(|footer| footer.table());
        table.map_or(Ok(()), |table| self.load(table).map(drop))
    }

    /// The loaded bytes, each at its place in the file; all other bytes are zero.
    pub fn kept(&self) -> &Mapping {
        &self.kept
    }

    /// The loaded bytes, and the open file.
    pub fn into_parts(self) -> (Mapping, Box<dyn ReadAt>) {
        (self.kept, self.file)
    }
}
