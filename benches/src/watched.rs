//! The real file system with a watcher that sees every call: to count, time or record calls.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use vecstore::vfs::{LockFile, Mapping, Metadata, ReadAt, RealFs, Vfs, VfsFile};

/// A call that passes the seam.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Name of the call.
    pub what: &'static str,
    /// Path of the file or directory.
    pub path: &'a Path,
    /// Bytes to write or read; 0 for calls that do neither.
    pub bytes: usize,
}

/// Sees every call, and makes it.
pub trait Watcher: Clone + Debug + Send + Sync + 'static {
    /// Makes a call.
    fn call<T>(&self, call: Call<'_>, make: impl FnOnce() -> T) -> T;
}

/// The real file system, watched.
#[derive(Clone, Debug, Default)]
pub struct Watched<W>(pub W);

impl<W: Watcher> Watched<W> {
    fn call<T>(&self, what: &'static str, path: &Path, make: impl FnOnce() -> T) -> T {
        self.0.call(Call { what, path, bytes: 0 }, make)
    }
}

impl<W: Watcher> Vfs for Watched<W> {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        self.call("create", path, || {
            let file = Some(RealFs.create_new(path)?);
            Ok(Box::new(WatchedFile { file, path: path.to_owned(), watcher: self.0.clone() }) as _)
        })
    }
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        self.call("read", path, || RealFs.read(path, max_len))
    }
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        self.call("map", path, || RealFs.map(path))
    }
    fn copy(&self, path: &Path) -> io::Result<Mapping> {
        self.call("copy", path, || RealFs.copy(path))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        self.call("open", path, || RealFs.open(path))
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.call("metadata", path, || RealFs.metadata(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.call("list", path, || RealFs.list(path))
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename", to, || RealFs.rename_noreplace(from, to))
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("replace", to, || RealFs.replace(from, to))
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("link", to, || RealFs.link(from, to))
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call("remove", path, || RealFs.remove_file(path))
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call("remove directory", path, || RealFs.remove_dir(path))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call("create directory", path, || RealFs.create_dir(path))
    }
    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        self.call("flush directory", path, || RealFs.flush_dir(path))
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        self.call("open lock", path, || {
            let lock = RealFs.open_lock(path, create)?;
            Ok(Box::new(WatchedLock { lock, path: path.to_owned(), watcher: self.0.clone() }) as _)
        })
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.call("free space", path, || RealFs.free_space(path))
    }
}

struct WatchedFile<W: Watcher> {
    /// Closing the file is a call, too.
    file: Option<Box<dyn VfsFile>>,
    path: PathBuf,
    watcher: W,
}

impl<W: Watcher> WatchedFile<W> {
    fn call<T>(
        &mut self,
        what: &'static str,
        bytes: usize,
        make: impl FnOnce(&mut dyn VfsFile) -> io::Result<T>,
    ) -> io::Result<T> {
        let file = self.file.as_deref_mut().ok_or(io::ErrorKind::NotFound)?;
        self.watcher.call(Call { what, path: &self.path, bytes }, || make(file))
    }
}

impl<W: Watcher> VfsFile for WatchedFile<W> {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.call("write", data.len(), |file| file.write_all(data))
    }
    fn write_slices(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.call("write", bytes, |file| file.write_slices(slices))
    }
    fn write_out(&mut self, wait: bool) -> io::Result<()> {
        self.call("write out", 0, |file| file.write_out(wait))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.call("flush", 0, |file| file.flush())
    }
    fn map(&mut self, len: u64) -> io::Result<Option<Mapping>> {
        self.call("map", 0, |file| file.map(len))
    }
}

impl<W: Watcher> Drop for WatchedFile<W> {
    fn drop(&mut self) {
        let file = self.file.take();
        self.watcher.call(Call { what: "close", path: &self.path, bytes: 0 }, || drop(file));
    }
}

struct WatchedLock<W> {
    lock: Box<dyn LockFile>,
    path: PathBuf,
    watcher: W,
}

impl<W: Watcher> LockFile for WatchedLock<W> {
    fn try_lock(&mut self) -> io::Result<bool> {
        self.watcher.call(Call { what: "lock", path: &self.path, bytes: 0 }, || self.lock.try_lock())
    }
    fn unlock(&mut self) -> io::Result<()> {
        self.watcher.call(Call { what: "unlock", path: &self.path, bytes: 0 }, || self.lock.unlock())
    }
    fn read_record(&self, buf: &mut [u8]) -> io::Result<usize> {
        let call = Call { what: "read record", path: &self.path, bytes: buf.len() };
        self.watcher.call(call, || self.lock.read_record(buf))
    }
    fn write_record(&mut self, record: &[u8]) -> io::Result<()> {
        let call = Call { what: "write record", path: &self.path, bytes: record.len() };
        self.watcher.call(call, || self.lock.write_record(record))
    }
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.watcher.call(Call { what: "look at lock", path, bytes: 0 }, || self.lock.is_at(path))
    }
    fn free_space(&self) -> Option<u64> {
        self.lock.free_space()
    }
}
