//! Writes of a merge, cut where huge pages begin.
//!
//! Linux keeps what one write brings in one piece of memory where it can, and maps a file that lies in the page cache in pieces
//! of 2 MiB with huge pages, without being asked. A reader of rows in random order waits as long for the page tables of
//! small pages as for the rows. So writes end where such a piece does, whatever the sections of the file are.

use std::io::{self, IoSlice};

use crate::vfs::VfsFile;

/// A huge page of all processors that this was made for. (Where they are larger, nothing is lost.)
pub(super) const PIECE: usize = 2 << 20;

/// Passes writes on in whole pieces. The rest, which is no whole piece, only goes with [`Aligned::finish`].
pub(super) struct Aligned<'f> {
    file: &'f mut dyn VfsFile,
    /// What lies before the next boundary, less than a piece.
    pending: Vec<u8>,
}

impl<'f> Aligned<'f> {
    /// Begins at the start of a new file.
    pub fn new(file: &'f mut dyn VfsFile) -> Self {
        Aligned { file, pending: Vec::new() }
    }

    /// Writes the rest.
    pub fn finish(self) -> io::Result<()> {
        if self.pending.is_empty() { Ok(()) } else { self.file.write_all(&self.pending) }
    }
}

impl VfsFile for Aligned<'_> {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        let mut data = data;
        if !self.pending.is_empty() {
            let (fills, rest) = data.split_at(data.len().min(PIECE - self.pending.len()));
            self.pending.extend_from_slice(fills);
            data = rest;
            if self.pending.len() < PIECE {
                return Ok(());
            }
            self.file.write_all(&self.pending)?;
            self.pending.clear();
        }
        // Whole pieces need not be copied.
        let (whole, rest) = data.split_at(data.len() / PIECE * PIECE);
        if !whole.is_empty() {
            self.file.write_all(whole)?;
        }
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    /// Not gathered: what a merge writes may be large.
    fn write_slices(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        slices.iter().try_for_each(|slice| self.write_all(slice))
    }

    fn write_out(&mut self, wait: bool) -> io::Result<()> {
        self.file.write_out(wait)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what was written, and where each write began.
    #[derive(Default)]
    struct Noted {
        bytes: Vec<u8>,
        starts: Vec<usize>,
    }

    impl VfsFile for Noted {
        fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
            assert!(!data.is_empty());
            self.starts.push(self.bytes.len());
            self.bytes.extend_from_slice(data);
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn writes_begin_at_boundaries_and_lose_nothing() {
        let lengths: [&[usize]; 8] = [
            &[],
            &[0],
            &[10],
            &[4096, PIECE - 4096],
            &[4096, PIECE, 100],
            &[PIECE * 3],
            &[1, PIECE - 1, PIECE * 2 + 5, 7],
            &[100, PIECE * 2, 3, 0, PIECE - 3, PIECE],
        ];
        for lengths in lengths {
            let total: usize = lengths.iter().sum();
            let expected: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
            let mut noted = Noted::default();
            let mut aligned = Aligned::new(&mut noted);
            let mut rest = expected.as_slice();
            for len in lengths {
                let (data, after) = rest.split_at(*len);
                aligned.write_all(data).unwrap();
                rest = after;
            }
            aligned.finish().unwrap();
            assert!(noted.bytes == expected, "{lengths:?}");
            assert!(noted.starts.iter().all(|start| start % PIECE == 0), "{lengths:?}: {:?}", noted.starts);
        }
    }
}
