//! The simulated disk under the scheduler: before every call another thread may run.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use vecstore::vfs::{LockFile, Mapping, Metadata, Vfs, VfsFile};

use super::sim::{Node, SimFs};

/// Payload of the panic of a thread that dies in the middle of a call.
pub const PANIC: &str = "this call panics, as the test wants";

/// A disk that knows which names are durable.
#[derive(Clone, Debug)]
pub struct Disk {
    pub sim: SimFs,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// A point at which the scheduler may choose another thread; the number is not used.
    calls: AtomicUsize,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    /// Files that were in segments/ when the directory was flushed.
    durable: BTreeSet<PathBuf>,
    /// Files with bytes that were not flushed.
    dirty: BTreeSet<PathBuf>,
    /// Number of calls before the call that panics.
    panics_in: Option<usize>,
}

impl Disk {
    /// The disk after a reboot.
    pub fn new(image: Vec<Node>) -> Self {
        let disk = Disk { sim: SimFs::from_image(image), shared: Arc::default() };
        let names = disk.segments();
        disk.names().durable.extend(names);
        disk
    }

    /// The same disk, as another process uses it.
    pub fn other_process(&self) -> Self {
        Disk { sim: self.sim.other_process(), shared: Arc::clone(&self.shared) }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.shared.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> Vec<PathBuf> {
        let folder = Path::new("/d/s/segments");
        self.sim.names("/d/s/segments").into_iter().map(|name| folder.join(name)).collect()
    }

    /// True if a power cut can no longer take this name away.
    pub fn is_durable(&self, path: &Path) -> bool {
        self.names().durable.contains(path)
    }

    /// The call after this number of calls panics in its thread; `None`: no call panics.
    pub fn panic_in(&self, calls: Option<usize>) {
        self.names().panics_in = calls;
    }

    /// Lets another thread run first.
    fn step(&self) {
        self.shared.calls.fetch_add(1, Ordering::SeqCst);
        let mut names = self.names();
        // A panic in a destructor would abort the test if its thread panics already.
        match names.panics_in {
            Some(0) if !std::thread::panicking() => {
                names.panics_in = None;
                drop(names);
                // Unlike `panic!`, this prints no message.
                std::panic::resume_unwind(Box::new(PANIC));
            }
            Some(calls) => names.panics_in = Some(calls.saturating_sub(1)),
            None => {}
        }
    }

    fn named(&self, from: &Path, to: &Path) {
        let dirty = self.names().dirty.remove(from);
        assert!(!dirty, "{} got its name before it was flushed", to.display());
    }
}

impl Vfs for Disk {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        self.step();
        let file = self.sim.create_new(path)?;
        self.names().dirty.insert(path.to_owned());
        Ok(Box::new(Watched { file, path: path.to_owned(), disk: self.clone() }))
    }
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        self.step();
        self.sim.read(path, max_len)
    }
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        self.step();
        self.sim.map(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.step();
        self.sim.metadata(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.step();
        self.sim.list(path)
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step();
        self.named(from, to);
        self.sim.rename_noreplace(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step();
        self.named(from, to);
        self.sim.replace(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step();
        self.sim.link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.sim.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.sim.remove_dir(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.sim.create_dir(path)
    }
    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        self.step();
        self.sim.flush_dir(path)?;
        if path.ends_with("segments") {
            let durable = self.segments();
            self.names().durable.extend(durable);
        }
        Ok(())
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        self.step();
        Ok(Box::new(WatchedLock { file: self.sim.open_lock(path, create)?, disk: self.clone() }))
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.step();
        self.sim.free_space(path)
    }
}

struct Watched {
    file: Box<dyn VfsFile>,
    path: PathBuf,
    disk: Disk,
}

impl VfsFile for Watched {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.disk.step();
        self.disk.names().dirty.insert(self.path.clone());
        self.file.write_all(data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.disk.step();
        self.file.flush()?;
        self.disk.names().dirty.remove(&self.path);
        Ok(())
    }
}

struct WatchedLock {
    file: Box<dyn LockFile>,
    disk: Disk,
}

impl LockFile for WatchedLock {
    fn try_lock(&mut self) -> io::Result<bool> {
        self.disk.step();
        self.file.try_lock()
    }
    fn unlock(&mut self) -> io::Result<()> {
        self.disk.step();
        self.file.unlock()
    }
    fn read_record(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.disk.step();
        self.file.read_record(buf)
    }
    fn write_record(&mut self, record: &[u8]) -> io::Result<()> {
        self.disk.step();
        self.file.write_record(record)
    }
}
