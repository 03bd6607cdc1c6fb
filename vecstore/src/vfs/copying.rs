//! Files read into memory instead of being mapped.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::path::Path;

use super::{LockFile, Mapping, Metadata, ReadAt, Vfs, VfsFile};

/// Another file system, whose files are copied into memory where they would be mapped: an unreadable sector, or
/// a file that another program truncates, is an error then, not the end of the process.
#[derive(Clone, Debug)]
pub(crate) struct Copying<V>(pub V);

impl<V> Vfs for Copying<V>
where
    V: Deref + Debug + Send + Sync,
    V::Target: Vfs,
{
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        self.0.copy(path)
    }
    fn copy(&self, path: &Path) -> io::Result<Mapping> {
        self.0.copy(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        self.0.open(path)
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        Ok(Box::new(Unmapped(self.0.create_new(path)?)))
    }
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        self.0.read(path, max_len)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.0.metadata(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.0.list(path)
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename_noreplace(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.replace(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }
    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        self.0.flush_dir(path)
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        self.0.open_lock(path, create)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.0.free_space(path)
    }
}

/// A file that is written and not mapped: a reader opens it by its name.
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
