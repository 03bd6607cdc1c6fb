//! A segment file that is read block by block, for callers that survive a sector that cannot be read.

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

/// Where a block cannot be read, pieces of this length are tried by themselves.
const PIECE: usize = 4096;

/// A file of which only what is asked for comes into memory, and only what is wanted stays there.
#[derive(Debug)]
pub(crate) struct Pieces {
    file: Box<dyn ReadAt>,
    len: usize,
    /// As long as the file; zero but for what was kept.
    kept: Mapping,
    buffer: Vec<u8>,
    /// Some of it could be read.
    read_some: bool,
}

/// A segment of which only these tables are read, and nothing is mapped; the rest of it is zeros.
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
    /// Opens a file; reads nothing yet.
    pub fn open(vfs: &dyn Vfs, path: &Path) -> io::Result<Self> {
        let file = vfs.open(path)?;
        let len = usize::try_from(file.byte_len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let kept = Mapping::blank(len)?;
        Ok(Pieces { file, len, kept, buffer: Vec::new(), read_some: false })
    }

    /// Length of the file.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing of the file can be read: the disk is gone, say. Reads until something can.
    pub fn is_lost(&mut self) -> bool {
        let mut start = 0;
        while start < self.len && !self.read_some {
            let end = self.len.min(start + BLOCK_LEN);
            let _ = self.read(start..end);
            start = end;
        }
        !self.read_some
    }

    /// Reads a range; what lies outside the file counts as unreadable.
    pub fn read(&mut self, range: Range<usize>) -> Result<&[u8], Unreadable> {
        self.buffer.resize(range.len(), 0);
        let Err(error) = self.file.read_at(&mut self.buffer, range.start as u64) else {
            self.read_some |= !range.is_empty();
            return Ok(&self.buffer);
        };
        // Which part of it? Pieces are aligned in the file, as the sectors of a disk are.
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
            // It could be read the second time.
            return Ok(&self.buffer);
        }
        Err(Unreadable { ranges, error })
    }

    /// Reads a range and keeps it.
    pub fn load(&mut self, range: Range<usize>) -> Result<&[u8], Unreadable> {
        self.read(range.clone())?;
        self.kept.put(range.start, &self.buffer);
        Ok(&self.buffer)
    }

    /// Reads footer and section table and keeps them, as far as the file says where they lie.
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

    /// What was kept, at its place in the file; everything else is zero.
    pub fn kept(&self) -> &Mapping {
        &self.kept
    }

    /// What was kept, and the file.
    pub fn into_parts(self) -> (Mapping, Box<dyn ReadAt>) {
        (self.kept, self.file)
    }
}
