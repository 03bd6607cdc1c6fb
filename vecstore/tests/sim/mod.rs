//! A simulated disk behind the crate's file-system seam.
//!
//! It keeps what a running program sees (the page cache) apart from what is durable: a flush of a file makes its
//! data durable and says nothing of its name, a flush of a directory makes its names durable and says nothing of
//! the files behind them. Every change is recorded, so that [`crash`] can build the states that a power cut after
//! any of them may leave. Calls can be made to fail, and processes to die.

#![allow(dead_code, reason = "each test binary uses its part of this module")]

pub mod crash;
pub mod oracle;
pub mod run;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vecstore::vfs::{FileKind, LockFile, Mapping, Metadata, Vfs, VfsFile};

/// Number of a file or directory, whatever its names.
pub type Ino = usize;

/// A file or directory. Number 0 is the root.
#[derive(Clone, Debug)]
pub enum Node {
    File(Arc<Vec<u8>>),
    Dir(BTreeMap<OsString, Ino>),
}

/// A recorded change.
#[derive(Clone, Debug)]
pub enum Op {
    Write { ino: Ino, offset: usize, data: Arc<Vec<u8>> },
    Flush { ino: Ino, ok: bool },
    Add { dir: Ino, name: OsString, ino: Ino },
    Remove { dir: Ino, name: OsString },
    Rename { dir: Ino, from: OsString, to: OsString, ino: Ino },
    FlushDir { dir: Ino, ok: bool },
}

/// Which call of a process fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Number of the call, from 0.
    pub at: usize,
    /// What the operating system would say.
    pub errno: i32,
    /// Only this call, or every call from it on.
    pub lasting: bool,
}

/// A call of a process, for messages and for choosing faults.
#[derive(Clone, Debug)]
pub struct Call {
    pub what: &'static str,
    pub path: PathBuf,
}

#[derive(Debug, Default)]
struct Process {
    calls: Vec<Call>,
    fault: Option<Fault>,
    /// Dies instead of making this call.
    dies_at: Option<usize>,
    /// It is stopped instead, and keeps its locks.
    stops: bool,
    dead: bool,
}

#[derive(Debug)]
struct Disk {
    /// What was durable at the beginning.
    base: Vec<Node>,
    /// What programs see.
    now: Vec<Node>,
    log: Vec<Op>,
    /// Lock holder: process and handle.
    locks: HashMap<Ino, (usize, u64)>,
    lock_files: HashSet<Ino>,
    handles: u64,
    processes: Vec<Process>,
    flush_takes: Duration,
}

/// The simulated disk as one process sees it.
#[derive(Clone)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
    process: usize,
}

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFs").field("process", &self.process).finish_non_exhaustive()
    }
}

fn error(kind: ErrorKind) -> io::Error {
    kind.into()
}

impl Disk {
    fn find(&self, path: &Path) -> io::Result<Ino> {
        let mut at = 0;
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => match self.now.get(at) {
                    Some(Node::Dir(names)) => at = *names.get(name).ok_or(error(ErrorKind::NotFound))?,
                    _ => return Err(error(ErrorKind::NotADirectory)),
                },
                _ => return Err(error(ErrorKind::Unsupported)),
            }
        }
        Ok(at)
    }

    /// The directory a path's last name is in, and that name.
    fn place(&self, path: &Path) -> io::Result<(Ino, OsString)> {
        let name = path.file_name().ok_or(error(ErrorKind::InvalidInput))?;
        let dir = self.find(path.parent().unwrap_or(Path::new("")))?;
        match self.now.get(dir) {
            Some(Node::Dir(_)) => Ok((dir, name.to_owned())),
            _ => Err(error(ErrorKind::NotADirectory)),
        }
    }

    fn names(&self, dir: Ino) -> &BTreeMap<OsString, Ino> {
        match &self.now[dir] {
            Node::Dir(names) => names,
            Node::File(_) => panic!("{dir} is a file"),
        }
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Vec<u8>>> {
        match &self.now[self.find(path)?] {
            Node::File(bytes) => Ok(Arc::clone(bytes)),
            Node::Dir(_) => Err(io::Error::new(ErrorKind::InvalidInput, "expected a regular file")),
        }
    }

    fn record(&mut self, op: Op) {
        crash::apply(&mut self.now, &op);
        self.log.push(op);
    }

    /// Adds a file or directory under a new name.
    fn add(&mut self, path: &Path, node: Node) -> io::Result<Ino> {
        let (dir, name) = self.place(path)?;
        if self.names(dir).contains_key(&name) {
            return Err(error(ErrorKind::AlreadyExists));
        }
        let ino = self.now.len();
        self.now.push(node);
        self.record(Op::Add { dir, name, ino });
        Ok(ino)
    }

    fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        let (dir, from) = self.place(from)?;
        let (to_dir, to) = self.place(to)?;
        if dir != to_dir {
            return Err(error(ErrorKind::CrossesDevices));
        }
        let ino = *self.names(dir).get(&from).ok_or(error(ErrorKind::NotFound))?;
        if let Some(there) = self.names(dir).get(&to) {
            match (&self.now[*there], &self.now[ino]) {
                _ if !replace => return Err(error(ErrorKind::AlreadyExists)),
                (Node::Dir(names), Node::Dir(_)) if !names.is_empty() => {
                    return Err(error(ErrorKind::DirectoryNotEmpty));
                }
                (Node::Dir(_), Node::File(_)) => return Err(error(ErrorKind::IsADirectory)),
                (Node::File(_), Node::Dir(_)) => return Err(error(ErrorKind::NotADirectory)),
                _ => {}
            }
        }
        self.record(Op::Rename { dir, from, to, ino });
        Ok(())
    }
}

impl SimFs {
    /// An empty disk with the durable directory `/d`.
    pub fn new() -> Self {
        let root = BTreeMap::from([(OsString::from("d"), 1)]);
        Self::from_image(vec![Node::Dir(root), Node::Dir(BTreeMap::new())])
    }

    /// A disk after a start of the machine: everything there is durable, nobody holds a lock.
    pub fn from_image(image: Vec<Node>) -> Self {
        let disk = Disk {
            base: image.clone(),
            now: image,
            log: Vec::new(),
            locks: HashMap::new(),
            lock_files: HashSet::new(),
            handles: 0,
            processes: vec![Process::default()],
            flush_takes: Duration::ZERO,
        };
        SimFs { disk: Arc::new(Mutex::new(disk)), process: 0 }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same disk for another process.
    pub fn other_process(&self) -> Self {
        let mut disk = self.disk();
        disk.processes.push(Process::default());
        SimFs { disk: Arc::clone(&self.disk), process: disk.processes.len() - 1 }
    }

    /// Makes a call of this process fail; `None` lifts the fault.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.disk().processes[self.process].fault = fault;
    }

    /// This process is killed when it is about to make call number `at`.
    pub fn die_at(&self, at: usize) {
        self.disk().processes[self.process].dies_at = Some(at);
    }

    /// This process stops for ever when it is about to make call number `at`: it makes no call any more, and keeps
    /// the locks it has.
    pub fn stop_at(&self, at: usize) {
        let mut disk = self.disk();
        let process = &mut disk.processes[self.process];
        (process.dies_at, process.stops) = (Some(at), true);
    }

    /// True when this process was killed or stopped.
    pub fn is_dead(&self) -> bool {
        self.disk().processes[self.process].dead
    }

    /// The calls this process has made.
    pub fn calls(&self) -> Vec<Call> {
        self.disk().processes[self.process].calls.clone()
    }

    /// Makes flushes of files slow, so that threads meet at the commit lock.
    pub fn slow_flushes(&self, takes: Duration) {
        self.disk().flush_takes = takes;
    }

    /// Number of changes recorded so far.
    pub fn changes(&self) -> usize {
        self.disk().log.len()
    }

    /// Everything that was recorded, to build crash states from.
    pub fn history(&self) -> crash::History {
        let disk = self.disk();
        crash::History::new(disk.base.clone(), &disk.now, disk.log.clone(), disk.lock_files.clone())
    }

    /// Names in a directory.
    pub fn names(&self, path: &str) -> Vec<String> {
        let disk = self.disk();
        let Ok(dir) = disk.find(Path::new(path)) else { return Vec::new() };
        disk.names(dir).keys().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// Counts a call and says whether it may happen.
    fn call<'a>(&'a self, what: &'static str, path: &Path) -> (MutexGuard<'a, Disk>, io::Result<()>) {
        let mut disk = self.disk();
        let process = &mut disk.processes[self.process];
        let number = process.calls.len();
        if process.dies_at == Some(number) {
            process.dead = true;
        }
        if process.dead {
            if !process.stops {
                disk.locks.retain(|_, (holder, _)| *holder != self.process);
            }
            return (disk, Err(io::Error::other("this process was killed")));
        }
        process.calls.push(Call { what, path: path.to_owned() });
        let failed = process.fault.filter(|fault| fault.at == number || fault.lasting && fault.at < number);
        let result = failed.map_or(Ok(()), |fault| Err(io::Error::from_raw_os_error(fault.errno)));
        (disk, result)
    }
}

impl Vfs for SimFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        let (mut disk, may) = self.call("create", path);
        may?;
        let ino = disk.add(path, Node::File(Arc::default()))?;
        Ok(Box::new(SimFile { fs: self.clone(), path: path.to_owned(), ino, written: 0 }))
    }

    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        let (disk, may) = self.call("read", path);
        may?;
        let bytes = disk.file(path)?;
        if bytes.len() as u64 > max_len {
            return Err(io::Error::new(ErrorKind::InvalidData, "longer than allowed"));
        }
        Ok(bytes.to_vec())
    }

    fn map(&self, path: &Path) -> io::Result<Mapping> {
        let (disk, may) = self.call("map", path);
        may?;
        Ok(Mapping::heap(&disk.file(path)?))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let (disk, may) = self.call("metadata", path);
        may?;
        Ok(match &disk.now[disk.find(path)?] {
            Node::File(bytes) => Metadata { kind: FileKind::File, len: bytes.len() as u64 },
            Node::Dir(_) => Metadata { kind: FileKind::Dir, len: 0 },
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let (disk, may) = self.call("list", path);
        may?;
        match &disk.now[disk.find(path)?] {
            Node::Dir(names) => Ok(names.keys().cloned().collect()),
            Node::File(_) => Err(error(ErrorKind::NotADirectory)),
        }
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("rename", to);
        may?;
        disk.rename(from, to, false)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("replace", to);
        may?;
        disk.rename(from, to, true)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("link", to);
        may?;
        let ino = disk.find(from)?;
        let (dir, name) = disk.place(to)?;
        if disk.names(dir).contains_key(&name) {
            return Err(error(ErrorKind::AlreadyExists));
        }
        disk.record(Op::Add { dir, name, ino });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("remove", path);
        may?;
        disk.file(path)?;
        let (dir, name) = disk.place(path)?;
        disk.record(Op::Remove { dir, name });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("remove directory", path);
        may?;
        match &disk.now[disk.find(path)?] {
            Node::Dir(names) if names.is_empty() => {}
            Node::Dir(_) => return Err(error(ErrorKind::DirectoryNotEmpty)),
            Node::File(_) => return Err(error(ErrorKind::NotADirectory)),
        }
        let (dir, name) = disk.place(path)?;
        disk.record(Op::Remove { dir, name });
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("create directory", path);
        may?;
        disk.add(path, Node::Dir(BTreeMap::new())).map(|_| ())
    }

    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("flush directory", path);
        let dir = disk.find(path)?;
        if !disk.processes[self.process].dead {
            disk.record(Op::FlushDir { dir, ok: may.is_ok() });
        }
        may
    }

    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        let (mut disk, may) = self.call("open lock", path);
        may?;
        let ino = match disk.find(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && create => {
                disk.add(path, Node::File(Arc::default()))?
            }
            found => found?,
        };
        disk.file(path)?;
        disk.lock_files.insert(ino);
        disk.handles += 1;
        Ok(Box::new(SimLock { fs: self.clone(), path: path.to_owned(), ino, handle: disk.handles }))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let (_disk, may) = self.call("free space", path);
        may.map(|()| 1 << 40)
    }
}

struct SimFile {
    fs: SimFs,
    path: PathBuf,
    ino: Ino,
    written: usize,
}

impl VfsFile for SimFile {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        let (mut disk, may) = self.fs.call("write", &self.path);
        if disk.processes[self.fs.process].dead {
            return may;
        }
        // A write that fails may have written a part: a full disk does that.
        let data = if may.is_ok() { data } else { &data[..data.len() / 2] };
        let offset = self.written;
        self.written += data.len();
        disk.record(Op::Write { ino: self.ino, offset, data: Arc::new(data.to_vec()) });
        may
    }

    fn flush(&mut self) -> io::Result<()> {
        let (mut disk, may) = self.fs.call("flush", &self.path);
        if disk.processes[self.fs.process].dead {
            return may;
        }
        let takes = disk.flush_takes;
        disk.record(Op::Flush { ino: self.ino, ok: may.is_ok() });
        drop(disk);
        std::thread::sleep(takes);
        may
    }
}

struct SimLock {
    fs: SimFs,
    path: PathBuf,
    ino: Ino,
    handle: u64,
}

impl LockFile for SimLock {
    fn try_lock(&mut self) -> io::Result<bool> {
        let (mut disk, may) = self.fs.call("lock", &self.path);
        may?;
        let holder = (self.fs.process, self.handle);
        Ok(*disk.locks.entry(self.ino).or_insert(holder) == holder)
    }

    fn unlock(&mut self) -> io::Result<()> {
        let (mut disk, may) = self.fs.call("unlock", &self.path);
        may?;
        disk.locks.remove(&self.ino);
        Ok(())
    }

    fn read_record(&self, buf: &mut [u8]) -> io::Result<usize> {
        let (disk, may) = self.fs.call("read record", &self.path);
        may?;
        let Node::File(bytes) = &disk.now[self.ino] else { return Ok(0) };
        let len = bytes.len().min(buf.len());
        buf[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn write_record(&mut self, record: &[u8]) -> io::Result<()> {
        let (mut disk, may) = self.fs.call("write record", &self.path);
        may?;
        disk.record(Op::Write { ino: self.ino, offset: 0, data: Arc::new(record.to_vec()) });
        Ok(())
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let holder = (self.fs.process, self.handle);
        let mut disk = self.fs.disk();
        if disk.processes[self.fs.process].stops {
            return;
        }
        if disk.locks.get(&self.ino) == Some(&holder) {
            disk.locks.remove(&self.ino);
        }
    }
}

/// True for the names of files that are written before they get their final name.
pub fn is_temporary(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("tmp-")
}
