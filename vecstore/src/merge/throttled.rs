//! Writes of a merge: cut where huge pages begin, and handed to the disk at the merge's pace.
//!
//! Linux keeps what one write brings in one piece of memory where it can, and maps a file that lies in the page
//! cache in pieces of 2 MiB with huge pages, without being asked. A reader of rows in random order waits as long
//! for the page tables of small pages as for the rows. So writes end where such a piece does, whatever the
//! sections of the file are. And one flush of a gigabyte at the end would hold up every commit's flush: so what is
//! written goes to the disk every few MiB.

use std::io::{self, IoSlice};

use super::pace::{Pacer, SHORT_STEP, STOPPED};
use crate::vfs::VfsFile;

/// A huge page of all processors that this was made for. (Where they are larger, nothing is lost.)
const PIECE: usize = 2 << 20;

/// A new file, written from its start in whole pieces. The rest, which is no whole piece, only goes with
/// [`Throttled::finish`].
pub(super) struct Throttled<'f, 'p> {
    file: &'f mut dyn VfsFile,
    pacer: &'f Pacer<'p>,
    /// What lies before the next boundary, less than a piece.
    begun: Vec<u8>,
    /// Bytes that the disk was not handed yet.
    pending: usize,
}

impl<'f, 'p> Throttled<'f, 'p> {
    pub fn new(file: &'f mut dyn VfsFile, pacer: &'f Pacer<'p>) -> Self {
        Throttled { file, pacer, begun: Vec::new(), pending: 0 }
    }

    /// Writes the rest.
    pub fn finish(mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.begun);
        self.write_piece(&rest)
    }

    fn write_piece(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut rest = piece;
        while !rest.is_empty() {
            // A whole piece, unless commits would have to wait for it. They begin and end meanwhile.
            let len = if self.pacer.is_gentle() { SHORT_STEP } else { PIECE };
            let (data, after) = rest.split_at(rest.len().min(len));
            if self.pacer.is_stopped() {
                return Err(io::Error::other(STOPPED));
            }
            self.file.write_all(data)?;
            self.pending += data.len();
            if self.pending >= self.pacer.step() {
                self.pending = 0;
                // Before a rest the disk is to be done, so that it is free for commits. Without any it writes
                // while the next piece is made.
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

    /// Not gathered: what a merge writes may be large.
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
        let pace = Pace::full_speed();
        let pacer = Pacer::new(&pace);
        for lengths in lengths {
            let total: usize = lengths.iter().sum();
            let expected: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
            let mut noted = Noted::default();
            let mut throttled = Throttled::new(&mut noted, &pacer);
            let mut rest = expected.as_slice();
            for len in lengths {
                let (data, after) = rest.split_at(*len);
                throttled.write_all(data).unwrap();
                rest = after;
            }
            throttled.finish().unwrap();
            assert!(noted.bytes == expected, "{lengths:?}");
            assert!(noted.starts.iter().all(|start| start % PIECE == 0), "{lengths:?}: {:?}", noted.starts);
        }
    }

    /// Notes how much is written at once; a commit comes at some call, and is long ago at a later one.
    struct Noting<'a> {
        sizes: Vec<usize>,
        commits_at: usize,
        past_at: usize,
        lock: &'a mut Lock,
        pacer: &'a Pacer<'a>,
    }

    impl VfsFile for Noting<'_> {
        fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
            self.sizes.push(data.len());
            if self.sizes.len() == self.commits_at {
                self.lock.raise();
                self.lock.release();
            }
            if self.sizes.len() == self.past_at {
                self.pacer.commit.set(None);
            }
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pieces_become_smaller_in_the_middle_of_a_write_when_a_commit_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let mut lock = Lock::open(&RealFs, &path, "commit").unwrap();
        lock.prepare().unwrap();
        let watch = Rc::new(Watch::open(&RealFs, &path));
        // Only the double says when the commit is long ago.
        let pace = Pace { rest: 1e-9, commits: Some(watch), recent: Duration::MAX, ..Pace::full_speed() };
        let pacer = Pacer::new(&pace);
        let first = LONG_STEP / PIECE;
        let (commits_at, past_at) = (2, first + 3);
        let mut noting = Noting { sizes: Vec::new(), commits_at, past_at, lock: &mut lock, pacer: &pacer };
        Throttled::new(&mut noting, &pacer).write_all(&vec![0; 4 * LONG_STEP]).unwrap();
        assert_eq!(noting.sizes[..first], vec![PIECE; first], "until it is noticed");
        assert_eq!(noting.sizes[first..past_at], [SHORT_STEP; 3]);
        // Pieces end again where huge pages do.
        assert_eq!(noting.sizes[past_at], PIECE - SHORT_STEP);
        assert!(noting.sizes[past_at + 1..].iter().all(|size| *size == PIECE), "{:?}", noting.sizes);
        assert_eq!(noting.sizes.iter().sum::<usize>(), 4 * LONG_STEP);
    }
}
