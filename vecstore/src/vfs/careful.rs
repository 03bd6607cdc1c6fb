//! A file system that copies or checks files instead of trusting them.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::path::Path;

use super::{LockFile, Mapping, Metadata, ReadAt, Vfs, VfsFile};

/// Wraps a file system whose files are not trusted: copies files into memory, or makes readers check them.
#[derive(Clone, Debug)]
pub(crate) struct Careful<V> {
    inner: V,
    /// Files are read into memory instead of being mapped. An unreadable sector, or a file that another
    /// program truncates, is then an error, and does not end the process.
    copies: bool,
    /// Readers of a mapping compare checksums when they read a block for the first time.
    checks: bool,
}

impl<V> Careful<V> {
    /// Reads files into memory, for callers that compare all checksums themselves.
    pub fn copying(inner: V) -> Self {
        Careful { inner, copies: true, checks: false }
    }

    /// Makes readers compare checksums, of mapped files or (if `copies` is true) of files in memory.
    pub fn checking(inner: V, copies: bool) -> Self {
        Careful { inner, copies, checks: true }
    }

    fn flagged(&self, mapping: Mapping) -> Mapping {
        if self.checks { mapping.with_checks() } else { mapping }
    }
}

impl<V> Vfs for Careful<V>
where
    V: Deref + Debug + Send + Sync,
    V::Target: Vfs,
{
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        let mapping = if self.copies { self.inner.copy(path) } else { self.inner.map(path) };
        mapping.map(|mapping| self.flagged(mapping))
    }
    fn copy(&self, path: &Path) -> io::Result<Mapping> {
        self.inner.copy(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        self.inner.open(path)
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        Ok(Box::new(Unmapped(self.inner.create_new(path)?)))
    }
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        self.inner.read(path, max_len)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(path)
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename_noreplace(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.replace(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.flush_dir(path)
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        self.inner.open_lock(path, create)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_space(path)
    }
}

/// A file for writing that cannot be mapped: readers open it by its name, through this file system.
struct Unmapped(Box<dyn VfsFile>);

impl VfsFile for Unmapped {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)
    }
    fn write_slices(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.0.write_slices(slices)
    }
    fn write_out(&mut self, wait: bool) -> io::Result<()> {
        self.0.write_out(wait)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
    fn forget(&mut self) -> io::Result<()> {
        self.0.forget()
    }
}
