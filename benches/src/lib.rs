//! What the benchmarks share: batches that look like real ones, and the raw file operations that a durable commit
//! cannot do without.
//!
//! `cargo bench -p vecstore-benches` runs the benchmarks; `cargo run --release -p vecstore-benches --bin commit_ratio`
//! prints how a commit compares with the raw operations. Both work in the folder that `VECSTORE_BENCH_DIR` names, or
//! in the system's temporary folder: what is measured is mostly the disk under it, and a folder in memory (tmpfs)
//! measures nothing.

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
/// When it cannot be made.
pub fn folder() -> io::Result<TempDir> {
    match std::env::var_os("VECSTORE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
}

/// Numbers that look random and are the same each time, between -1 and 1.
pub struct Numbers(u64);

impl Numbers {
    /// Begins anew; the same seed gives the same numbers.
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

/// What any durable commit of a new file must do: write a temporary file, flush it, rename it, flush the directory. Written
/// in pieces of 1 MiB, which takes a tenth of the time where the system would take pages of 2 MiB for larger ones.
///
/// # Errors
/// Whatever the disk says.
pub fn raw_commit(dir: &Path, number: usize, bytes: &[u8]) -> io::Result<()> {
    let tmp = dir.join("tmp");
    let mut file = File::create_new(&tmp)?;
    bytes.chunks(1 << 20).try_for_each(|piece| file.write_all(piece))?;
    file.sync_data()?;
    drop(file);
    fs::rename(&tmp, dir.join(format!("{number:010}")))?;
    File::open(dir)?.sync_all()
}

/// Begins to write what was written so far, and waits for what was begun before: for copies that keep the disk busy.
///
/// # Errors
/// Whatever the disk says.
#[cfg(target_os = "linux")]
pub fn write_out(file: &File) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the call touches no memory of this process.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, how) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Elsewhere the flush at the end does all of it.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn write_out(_: &File) -> io::Result<()> {
    Ok(())
}
