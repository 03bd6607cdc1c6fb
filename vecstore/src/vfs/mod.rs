//! The narrow seam through which all file access goes.
//!
//! Production code uses [`RealFs`]; tests put a simulated disk behind the same trait, one that knows which
//! bytes and names are durable. The seam is public so that test crates can implement it, and hidden because
//! it is not a stable interface.

mod copying;
mod mapping;
mod real;

use std::ffi::OsString;
use std::fmt::{self, Debug};
use std::io::{self, IoSlice};
use std::path::Path;

pub(crate) use copying::Copying;
pub use mapping::Mapping;
pub use real::RealFs;

/// What kind of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else: symbolic links (never followed), FIFOs, sockets, devices.
    Other,
}

/// Kind and length of a file, without following symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Kind of the file.
    pub kind: FileKind,
    /// Length in bytes.
    pub len: u64,
}

/// Everything the store asks of a file system.
///
/// Contracts that the rules of the store rest on:
/// * `create_new` fails when the name exists; `rename_noreplace` fails with `AlreadyExists`, atomically.
/// * `map`, `read` and `open` refuse what is not a regular file, a symbolic link in the last place included.
/// * `VfsFile::flush` makes the data of a file durable, not its name; `flush_dir` makes names durable.
pub trait Vfs: Send + Sync + Debug {
    /// Creates a file for writing; the name must not exist.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>>;
    /// Reads a whole regular file of at most `max_len` bytes.
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>>;
    /// Maps a whole regular file for reading.
    fn map(&self, path: &Path) -> io::Result<Mapping>;
    /// Reads a whole regular file into memory, aligned as a mapped one is.
    fn copy(&self, path: &Path) -> io::Result<Mapping> {
        Mapping::copied(&self.read(path, u64::MAX)?)
    }
    /// Opens a regular file that is to be read in pieces.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(self.copy(path)?))
    }
    /// Kind and length of the file with this name.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// The names in a directory, in no particular order.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Renames a file; fails with `AlreadyExists` when `to` exists.
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file or directory over what is there (for a directory: an empty one or nothing).
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; fails when that exists.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn flush_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens a lock file, creating it when `create` says so and it is missing.
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>>;
    /// Bytes free for this user on the file system that holds `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
}

/// A file that is read in pieces, so that a piece that cannot be read is an error of its own.
pub trait ReadAt: Debug + Send + Sync {
    /// Length of the file when it was opened.
    fn byte_len(&self) -> u64;
    /// Fills all of `buf` with the bytes from `offset` on.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A file being written. Dropping it closes it; nothing is flushed by that.
pub trait VfsFile {
    /// Writes all of `data` at the end of what was written.
    fn write_all(&mut self, data: &[u8]) -> io::Result<()>;
    /// Writes all of `slices`, in order, at the end of what was written, in as few calls as possible.
    fn write_slices(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let data: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write_all(&data)
    }
    /// Sends what was written so far on its way to the disk, so that a later flush is short; does not make it
    /// durable. With `wait` it returns once all of that is written, else once all that was sent before is. An
    /// error means what the error of a flush means: something may be lost.
    fn write_out(&mut self, _wait: bool) -> io::Result<()> {
        Ok(())
    }
    /// Makes the data and length durable.
    fn flush(&mut self) -> io::Result<()>;
    /// Drops the file, once it was flushed, from the cache in memory, so that it is read from the disk next.
    fn forget(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Maps the first `len` bytes of what was written, for a reader in this process, which then need not open
    /// the file again. `None` where that cannot be done; the file is mapped by its name then.
    fn map(&mut self, _len: u64) -> io::Result<Option<Mapping>> {
        Ok(None)
    }
}

/// A file that carries an advisory lock and a small record that is written in place and never flushed.
///
/// The lock goes away with the process, and with the value.
pub trait LockFile: Send {
    /// Takes the exclusive lock if it is free.
    fn try_lock(&mut self) -> io::Result<bool>;
    /// Gives the lock back.
    fn unlock(&mut self) -> io::Result<()>;
    /// Reads up to `buf.len()` bytes from the start of the file; says how many there were.
    fn read_record(&self, buf: &mut [u8]) -> io::Result<usize>;
    /// Overwrites the start of the file.
    fn write_record(&mut self, record: &[u8]) -> io::Result<()>;
    /// True when this very file is (still) the one at `path`. File systems in memory, where no other process
    /// moves directories, need not look.
    fn is_at(&self, _path: &Path) -> io::Result<bool> {
        Ok(true)
    }
    /// Bytes free for this user where the file is; `None` where that is not known. On file systems that copy
    /// on write even a file that is overwritten in place may need room.
    fn free_space(&self) -> Option<u64> {
        None
    }
}

impl Debug for dyn LockFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockFile")
    }
}
