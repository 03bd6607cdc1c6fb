//! The real file system, with a hook for its calls.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vecstore::vfs::{LockFile, Mapping, Metadata, ReadAt, RealFs, Vfs, VfsFile};

/// Function that gets the kind and the path of a call.
type Hook = Arc<dyn Fn(&str, &Path) + Send + Sync>;

/// The hook runs before these calls: `create`, `read`, `write`, `flush`, `forget`, `rename`, `replace`,
/// `link` and `remove`; and after a lock was `taken`, `refused` or `released`.
#[derive(Clone)]
pub struct Hooked(Hook);

impl Hooked {
    pub fn new(hook: impl Fn(&str, &Path) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Hooked(Arc::new(hook)))
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooked").finish_non_exhaustive()
    }
}

impl Vfs for Hooked {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        (self.0)("create", path);
        let file = RealFs.create_new(path)?;
        Ok(Box::new(HookedFile { file, path: path.to_owned(), hook: Arc::clone(&self.0) }))
    }
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        (self.0)("read", path);
        RealFs.read(path, max_len)
    }
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        RealFs.map(path)
    }
    fn copy(&self, path: &Path) -> io::Result<Mapping> {
        RealFs.copy(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        RealFs.open(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        RealFs.metadata(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        RealFs.list(path)
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.0)("rename", to);
        RealFs.rename_noreplace(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.0)("replace", to);
        RealFs.replace(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.0)("link", to);
        RealFs.link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        (self.0)("remove", path);
        RealFs.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir(path)
    }
    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        (self.0)("flush", path);
        RealFs.flush_dir(path)
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        let lock = RealFs.open_lock(path, create)?;
        Ok(Box::new(HookedLock { lock, path: path.to_owned(), hook: Arc::clone(&self.0) }))
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        RealFs.free_space(path)
    }
}

struct HookedFile {
    file: Box<dyn VfsFile>,
    path: PathBuf,
    hook: Hook,
}

impl VfsFile for HookedFile {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        (self.hook)("write", &self.path);
        self.file.write_all(data)
    }
    fn write_out(&mut self, wait: bool) -> io::Result<()> {
        self.file.write_out(wait)
    }
    fn flush(&mut self) -> io::Result<()> {
        (self.hook)("flush", &self.path);
        self.file.flush()
    }
    fn forget(&mut self) -> io::Result<()> {
        (self.hook)("forget", &self.path);
        self.file.forget()
    }
    fn map(&mut self, len: u64) -> io::Result<Option<Mapping>> {
        self.file.map(len)
    }
}

struct HookedLock {
    lock: Box<dyn LockFile>,
    path: PathBuf,
    hook: Hook,
}

impl LockFile for HookedLock {
    fn try_lock(&mut self) -> io::Result<bool> {
        let taken = self.lock.try_lock()?;
        (self.hook)(if taken { "taken" } else { "refused" }, &self.path);
        Ok(taken)
    }
    fn unlock(&mut self) -> io::Result<()> {
        self.lock.unlock()?;
        (self.hook)("released", &self.path);
        Ok(())
    }
    fn read_record(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.lock.read_record(buf)
    }
    fn write_record(&mut self, record: &[u8]) -> io::Result<()> {
        self.lock.write_record(record)
    }
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.lock.is_at(path)
    }
    fn free_space(&self) -> Option<u64> {
        self.lock.free_space()
    }
}
