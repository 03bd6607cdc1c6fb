//! Shared by the benchmarks: batches that look like real ones, and the raw file operations that no durable
//! commit can do without.
//!
//! `cargo bench -p vecstore-benches` runs the benchmarks;
//! `cargo run --release -p vecstore-benches --bin commit_ratio` prints how a commit compares with the raw
//! operations. Both work in the folder that
//! `VECSTORE_BENCH_DIR` names, or in the system's temporary folder. They measure mostly the disk under it, so
//! that a folder in memory (tmpfs) measures nothing.

pub mod timed;
pub mod watched;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tempfile::TempDir;
use vecstore::{Batch, DType};

/// Rows of a usual batch.
pub const ROWS: usize = 32;
/// Elements of a usual row.
pub const DIM: usize = 512;

/// A fresh folder on the disk that is to be measured.
///
/// # Errors
/// If the folder cannot be created.
pub fn folder() -> io::Result<TempDir> {
    match std::env::var_os("VECSTORE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
}

/// Numbers between -1 and 1 that look random and are the same in each run.
pub struct Numbers(u64);

impl Numbers {
    /// Starts a sequence; the same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// The next `count` numbers.
    pub fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| {
                self.0 =
                    self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
            })
            .collect()
    }
}

/// Batch number `number` of `rows` rows of `dim` elements; keys look like paths of photographs.
///
/// # Errors
/// None in practice: the batch's limits are far away.
pub fn batch(number: usize, rows: usize, dim: usize) -> vecstore::Result<Batch> {
    let mut numbers = Numbers::new(number as u64);
    let mut batch = Batch::new(dim, DType::F32);
    for row in 0..rows {
        batch.push(key(number * rows + row), &numbers.take(dim))?;
    }
    Ok(batch)
}

/// Key number `number`.
pub fn key(number: usize) -> String {
    format!("photos/{:04}/IMG_{number:08}.jpg", number / 1000)
}

/// The file operations of any durable commit of a new file: write a temporary file, flush it, rename it,
/// flush the directory. Writing in pieces of 1 MiB takes a tenth of the time of larger pieces, for which the
/// system would take pages of 2 MiB.
///
/// # Errors
/// The disk's error.
pub fn raw_commit(dir: &Path, number: usize, bytes: &[u8]) -> io::Result<()> {
    let tmp = dir.join("tmp");
    let mut file = File::create_new(&tmp)?;
    bytes.chunks(1 << 20).try_for_each(|piece| file.write_all(piece))?;
    file.sync_data()?;
    drop(file);
    fs::rename(&tmp, dir.join(format!("{number:010}")))?;
    File::open(dir)?.sync_all()
}

/// Starts writing out the data written so far, and waits for the part started before: keeps the disk busy
/// during a copy.
///
/// # Errors
/// The disk's error.
#[cfg(target_os = "linux")]
pub fn write_out(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the call touches no memory of this
    // process.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, how) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// On other systems, the flush at the end does all of the work.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn write_out(_: &File) -> io::Result<()> {
    Ok(())
}
