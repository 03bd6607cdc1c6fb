//! Writes of a merge: cut where huge pages begin, and handed to the disk at the merge's pace.
//!
//! Linux keeps the data of one write in one piece of memory where it can, and maps a file that lies in the
//! page cache in pieces of 2 MiB with huge pages, without being asked. A reader of rows in random order waits
//! as long for the page tables of small pages as for the rows. So writes end where such a piece ends,
//! whatever the sections of the file are.
//!
//! One flush of a gigabyte at the end would hold up every commit's flush: so data goes to the disk every few
//! MiB.

use std::io::{self, IoSlice};

use super::pace::{Pacer, SHORT_STEP};
use crate::vfs::VfsFile;

/// Size of a huge page on all processors that this was made for. Where huge pages are larger, nothing is
/// lost.
const PIECE: usize = 2 << 20;

/// A new file, written from its start in whole pieces. [`Throttled::finish`] writes the rest, which is less
/// than a piece.
pub(super) struct Throttled<'f, 'p> {
    file: &'f mut dyn VfsFile,
    pacer: &'f Pacer<'p>,
    /// Bytes since the last boundary, less than a piece.
    begun: Vec<u8>,
    /// Bytes written to the file and not yet handed to the disk.
    pending: usize,
}

impl<'f, 'p> Throttled<'f, 'p> {
    pub fn new(file: &'f mut dyn VfsFile, pacer: &'f Pacer<'p>) -> Self {
        Throttled { file, pacer, begun: Vec::new(), pending: 0 }
    }

    /// Writes the last bytes, which are less than a piece.
    pub fn finish(mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.begun);
        self.write_piece(&rest)
    }

    fn write_piece(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut rest = piece;
        while !rest.is_empty() {
            // A whole piece, unless commits would have to wait for it. Commits begin and end during this
            // loop.
            let len = if self.pacer.is_gentle() { SHORT_STEP } else { PIECE };
            let (data, after) = rest.split_at(rest.len().min(len));
            if self.pacer.is_stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.file.write_all(data)?;
            self.pending += data.len();
            if self.pending >= self.pacer.step() {
                self.pending = 0;
                // Before a rest, waits until the disk is done, so that it is free for commits. Without rests,
                // the disk writes while the next piece is made.
                self.file.write_out(self.pacer.is_gentle())?;
            }
            self.pacer.worked(data.len());
            rest = after;
        }
        Ok(())
    }
}

impl VfsFile for Throttled<'_, '_> {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        let mut data = data;
        if !self.begun.is_empty() {
            let (fills, rest) = data.split_at(data.len().min(PIECE - self.begun.len()));
            self.begun.extend_from_slice(fills);
            data = rest;
            if self.begun.len() < PIECE {
                return Ok(());
            }
            let mut piece = std::mem::take(&mut self.begun);
            self.write_piece(&piece)?;
            piece.clear();
            self.begun = piece;
        }
        // Whole pieces need not be copied.
        let mut pieces = data.chunks_exact(PIECE);
        self.begun.extend_from_slice(pieces.remainder());
        pieces.try_for_each(|piece| self.write_piece(piece))
    }

    /// Written one by one: gathering would copy them, and the slices of a merge may be large.
    fn write_slices(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        slices.iter().try_for_each(|slice| self.write_all(slice))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::lock::{Lock, Watch};
    use crate::merge::pace::{LONG_STEP, Pace};
    use crate::vfs::RealFs;

    /// Records every write, and calls `written` with the number of writes.
    struct Noting<F> {
        writes: Vec<Vec<u8>>,
        written: F,
    }

    impl<F: FnMut(usize)> VfsFile for Noting<F> {
        fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
            assert!(!data.is_empty());
            self.writes.push(data.to_vec());
            (self.written)(self.writes.len());
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
        let pace = Pace::full_speed();
        let pacer = Pacer::new(&pace);
        for lengths in lengths {
            let total: usize = lengths.iter().sum();
            let expected: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
            let mut noting = Noting { writes: Vec::new(), written: |_| () };
            let mut throttled = Throttled::new(&mut noting, &pacer);
            let mut rest = expected.as_slice();
            for len in lengths {
                let (data, after) = rest.split_at(*len);
                throttled.write_all(data).unwrap();
                rest = after;
            }
            throttled.finish().unwrap();
            assert!(noting.writes.concat() == expected, "{lengths:?}");
            let (_, whole) = noting.writes.split_last().unzip();
            let is_whole = |write: &Vec<u8>| write.len() == PIECE;
            assert!(whole.into_iter().flatten().all(is_whole), "{lengths:?}");
        }
    }

    #[test]
    fn pieces_become_smaller_in_the_middle_of_a_write_when_a_commit_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let mut lock = Lock::open(&RealFs, &path, "commit").unwrap();
        lock.prepare().unwrap();
        let watch = Rc::new(Watch::open(&RealFs, &path));
        // `recent` is at its maximum: only the test decides when the last commit is long ago.
        let pace = Pace { rest: 1e-9, commits: Some(watch), recent: Duration::MAX, ..Pace::full_speed() };
        let pacer = Pacer::new(&pace);
        let first = LONG_STEP / PIECE;
        let past_at = first + 3;
        let written = |count| {
            if count == 2 {
                lock.raise();
                lock.release();
            } else if count == past_at {
                pacer.commit.set(None);
            }
        };
        let mut noting = Noting { writes: Vec::new(), written };
        Throttled::new(&mut noting, &pacer).write_all(&vec![0; 4 * LONG_STEP]).unwrap();
        let sizes: Vec<usize> = noting.writes.iter().map(Vec::len).collect();
        assert_eq!(sizes[..first], vec![PIECE; first], "until it is noticed");
        assert_eq!(sizes[first..past_at], [SHORT_STEP; 3]);
        // Pieces end again where huge pages do.
        assert_eq!(sizes[past_at], PIECE - SHORT_STEP);
        assert!(sizes[past_at + 1..].iter().all(|size| *size == PIECE), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 4 * LONG_STEP);
    }
}
