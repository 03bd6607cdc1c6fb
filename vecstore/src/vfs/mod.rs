//! The seam to the file system: every file access goes through the trait [`Vfs`].
//!
//! Production code uses [`RealFs`]; tests implement the trait with a simulated disk that knows which bytes
//! and names are durable. The trait is public so that test crates can implement it, and hidden because it is
//! not a stable interface.

mod careful;
mod mapping;
mod real;

use std::ffi::OsString;
use std::fmt::{self, Debug};
use std::io::{self, IoSlice};
use std::path::Path;

pub(crate) use careful::Careful;
pub use mapping::Mapping;
pub use real::RealFs;

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else: symbolic links (never followed), FIFOs, sockets, devices.
    Other,
}

/// Kind and length of a file. Symbolic links are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Kind of the file.
    pub kind: FileKind,
    /// Length in bytes.
    pub len: u64,
}

/// All operations of a store on a file system.
///
/// The durability of a store relies on these contracts:
/// * `create_new` fails if the name exists; `rename_noreplace` then fails with `AlreadyExists`, atomically.
/// * `map`, `copy`, `read` and `open` fail if the path is not a regular file; a symbolic link as the last
///   part of the path is not followed.
/// * `VfsFile::flush` makes the data of a file durable, but not its name; `flush_dir` makes names durable.
pub trait Vfs: Send + Sync + Debug {
    /// Creates a file for writing; the name must not exist.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>>;
    /// Reads a whole regular file of at most `max_len` bytes.
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>>;
    /// Maps a whole regular file for reading.
    fn map(&self, path: &Path) -> io::Result<Mapping>;
    /// Reads a whole regular file into memory, aligned like a mapped file.
    fn copy(&self, path: &Path) -> io::Result<Mapping> {
        Mapping::copied(&self.read(path, u64::MAX)?)
    }
    /// Opens a regular file for reading in pieces.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(self.copy(path)?))
    }
    /// Kind and length of the file with this name.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;
    /// The names in a directory, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Renames a file; fails with `AlreadyExists` if `to` exists.
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file or directory, and replaces `to` if it exists. A directory only replaces an empty one.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; fails if `to` exists.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn flush_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens a lock file. If the file is missing, `create` says whether to create it or to fail.
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>>;
    /// Bytes free for this user on the file system that holds `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
}

/// A file that is read in pieces, so that an unreadable piece does not fail the others.
pub trait ReadAt: Debug + Send + Sync {
    /// Length of the file when it was opened.
    fn byte_len(&self) -> u64;
    /// Fills all of `buf` with the bytes from `offset` on.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A file that is being written. Dropping it closes the file without a flush.
pub trait VfsFile {
    /// Appends all of `data` to the file.
    fn write_all(&mut self, data: &[u8]) -> io::Result<()>;
    /// Appends all of `slices`, in order, to the file, in as few calls as possible.
    fn write_slices(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let data: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.write_all(&data)
    }
    /// Starts sending the written bytes to the disk, so that a later flush is short; makes nothing durable.
    /// With `wait` it returns once all of them are written, else once those of earlier calls are. An error
    /// means the same as a failed flush: bytes may be lost.
    fn write_out(&mut self, _wait: bool) -> io::Result<()> {
        Ok(())
    }
    /// Makes data and length of the file durable.
    fn flush(&mut self) -> io::Result<()>;
    /// Drops the file, which must be flushed, from the page cache, so that the next read comes from the disk.
    fn forget(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Maps the first `len` written bytes, so that a reader in this process need not open the file again.
    /// `None` if this file system cannot do that; the reader then maps the file by its name.
    fn map(&mut self, _len: u64) -> io::Result<Option<Mapping>> {
        Ok(None)
    }
}

/// A file with an advisory lock, and a small record that is written in place and never flushed.
///
/// The lock ends with the process, and when this value is dropped.
pub trait LockFile: Send {
    /// Takes the exclusive lock if it is free.
    fn try_lock(&mut self) -> io::Result<bool>;
    /// Releases the lock.
    fn unlock(&mut self) -> io::Result<()>;
    /// Reads up to `buf.len()` bytes from the start of the file, and returns how many there were.
    fn read_record(&self, buf: &mut [u8]) -> io::Result<usize>;
    /// Overwrites the start of the file.
    fn write_record(&mut self, record: &[u8]) -> io::Result<()>;
    /// True if the file at `path` is still this file. A file system in memory, where no other process moves
    /// directories, need not check.
    fn is_at(&self, _path: &Path) -> io::Result<bool> {
        Ok(true)
    }
    /// Bytes free for this user on the file system of this file; `None` if unknown. On a copy-on-write file
    /// system even a write in place may need space.
    fn free_space(&self) -> Option<u64> {
        None
    }
}

impl Debug for dyn LockFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockFile")
    }
}
