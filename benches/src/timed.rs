//! The real file system, which says how long this thread has been in it: what is left of an append is the store's own work.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::Path;
use std::time::{Duration, Instant};

use vecstore::vfs::{LockFile, Mapping, Metadata, RealFs, Vfs, VfsFile};

/// Time in calls of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Which calls.
    pub what: &'static str,
    /// How many.
    pub calls: u64,
    /// How long all of them took.
    pub time: Duration,
}

thread_local! {
    static SPENT: RefCell<Vec<Spent>> = const { RefCell::new(Vec::new()) };
}

/// What this thread has spent in calls since the last time.
pub fn spent() -> Vec<Spent> {
    SPENT.take()
}

fn timed<T>(what: &'static str, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    let time = start.elapsed();
    SPENT.with_borrow_mut(|all| match all.iter_mut().find(|spent| spent.what == what) {
        Some(spent) => {
            spent.calls += 1;
            spent.time += time;
        }
        None => all.push(Spent { what, calls: 1, time }),
    });
    result
}

/// The real file system with a clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimedFs;

impl Vfs for TimedFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        timed("create", || Ok(Box::new(TimedFile(Some(RealFs.create_new(path)?))) as Box<dyn VfsFile>))
    }
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        timed("read", || RealFs.read(path, max_len))
    }
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        timed("map", || RealFs.map(path))
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        timed("metadata", || RealFs.metadata(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        timed("list", || RealFs.list(path))
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        timed("rename", || RealFs.rename_noreplace(from, to))
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        timed("replace", || RealFs.replace(from, to))
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        timed("link", || RealFs.link(from, to))
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        timed("remove", || RealFs.remove_file(path))
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        timed("remove directory", || RealFs.remove_dir(path))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        timed("create directory", || RealFs.create_dir(path))
    }
    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        timed("flush directory", || RealFs.flush_dir(path))
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        timed("open lock", || Ok(Box::new(TimedLock(RealFs.open_lock(path, create)?)) as Box<dyn LockFile>))
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        timed("free space", || RealFs.free_space(path))
    }
}

/// Closing a file is a call, too.
struct TimedFile(Option<Box<dyn VfsFile>>);

impl TimedFile {
    fn file(&mut self) -> io::Result<&mut Box<dyn VfsFile>> {
        self.0.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl VfsFile for TimedFile {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        timed("write", || self.file()?.write_all(data))
    }
    fn write_slices(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        timed("write", || self.file()?.write_slices(slices))
    }
    fn write_out(&mut self, wait: bool) -> io::Result<()> {
        timed("write out", || self.file()?.write_out(wait))
    }
    fn flush(&mut self) -> io::Result<()> {
        timed("flush", || self.file()?.flush())
    }
}

impl Drop for TimedFile {
    fn drop(&mut self) {
        timed("close", || self.0 = None);
    }
}

struct TimedLock(Box<dyn LockFile>);

impl LockFile for TimedLock {
    fn try_lock(&mut self) -> io::Result<bool> {
        timed("lock and unlock", || self.0.try_lock())
    }
    fn unlock(&mut self) -> io::Result<()> {
        timed("lock and unlock", || self.0.unlock())
    }
    fn read_record(&self, buf: &mut [u8]) -> io::Result<usize> {
        timed("read record", || self.0.read_record(buf))
    }
    fn write_record(&mut self, record: &[u8]) -> io::Result<()> {
        timed("write record", || self.0.write_record(record))
    }
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        timed("look at lock", || self.0.is_at(path))
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        timed("read offer", || self.0.read_at(offset, buf))
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        timed("write offer", || self.0.write_at(offset, data))
    }
    fn free_space(&self) -> Option<u64> {
        self.0.free_space()
    }
}
