//! A file whose writer leaves disk and processor to others.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Pace;
use crate::vfs::VfsFile;

/// Bytes between two flushes and rests.
const STEP: usize = 4 << 20;

/// Passes writes on, flushing every few MiB (one flush of a gigabyte at the end would hold up every commit's flush) and
/// resting as long as the step took times `rest`.
pub(crate) struct Throttled<'f> {
    file: &'f mut dyn VfsFile,
    pace: &'f Pace,
    pending: usize,
    since: Instant,
}

impl<'f> Throttled<'f> {
    /// Writes to `file` at a pace.
    pub fn new(file: &'f mut dyn VfsFile, pace: &'f Pace) -> Self {
        Throttled { file, pace, pending: 0, since: Instant::now() }
    }

    fn step(&mut self) -> io::Result<()> {
        self.pending = 0;
        self.file.flush()?;
        let worked = self.since.elapsed();
        let rest = worked.mul_f64(self.pace.rest).min(Duration::from_millis(500));
        let hurry = self.pace.stop.load(Ordering::Relaxed) || self.pace.hurry.load(Ordering::Relaxed);
        if !rest.is_zero() && !hurry {
            std::thread::sleep(rest);
        }
        self.since = Instant::now();
        Ok(())
    }
}

impl VfsFile for Throttled<'_> {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        for piece in data.chunks(STEP) {
            if self.pace.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("the merge was stopped because the store is being closed"));
            }
            self.file.write_all(piece)?;
            self.pending += piece.len();
            if self.pending >= STEP {
                self.step()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
