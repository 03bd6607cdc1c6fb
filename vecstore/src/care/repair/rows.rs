//! Rows of a damaged segment: read once to find the intact blocks, and again when they are rewritten.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::segment::Stored;
use crate::vfs::ReadAt;

/// The rows of a damaged segment.
#[derive(Debug)]
pub(super) struct StoredRows {
    pub path: PathBuf,
    pub file: Box<dyn ReadAt>,
    /// The range of ROWS in the file.
    pub section: Range<usize>,
    /// Length of a block.
    pub block_len: usize,
    /// Checksum of each intact block when it was first read.
    pub crcs: Vec<Option<u32>>,
}

impl Stored for StoredRows {
    /// Reads whole blocks and compares their checksums again: a failing disk must not have wrong bytes sealed
    /// with a new checksum.
    fn read(&self, range: Range<usize>, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let block = start / self.block_len;
            let first = block * self.block_len;
            let end = (first + self.block_len).min(self.section.len());
            buffer.resize(end.saturating_sub(first), 0);
            let offset = self.section.start + first;
            let told = |detail: String| {
                let place =
                    format!("{}: bytes {offset} to {}", self.path.display(), offset + end - first - 1);
                io::Error::new(io::ErrorKind::InvalidData, format!("{place} {detail}; repair again"))
            };
            self.file
                .read_at(&mut buffer, offset as u64)
                .map_err(|error| told(format!("can no longer be read: {error}")))?;
            if self.crcs.get(block).copied().flatten() != Some(crc32fast::hash(&buffer)) {
                return Err(told("are not what they were a moment ago".to_owned()));
            }
            let wanted = start - first..range.end.min(end) - first;
            sink(buffer.get(wanted).unwrap_or_default())?;
            start = end;
        }
        Ok(())
    }
}
