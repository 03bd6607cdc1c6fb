//! The disk behind all processes: what programs see, what was durable at the beginning, and every change
//! since.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::sync::{Arc, Weak};

use super::mistakes::Notes;
use super::{Ino, Node, Op, Process, Room, crash};

#[derive(Debug)]
pub(super) struct Disk {
    /// What was durable at the beginning.
    pub base: Vec<Node>,
    /// What programs see.
    pub now: Vec<Node>,
    pub log: Vec<Op>,
    /// Holder of each lock: process and handle.
    pub locks: HashMap<Ino, (usize, u64)>,
    pub lock_files: HashSet<Ino>,
    /// Files created for writing; a file counts as open while its handle keeps the strong end.
    pub open: Vec<(Ino, Weak<()>)>,
    pub handles: u64,
    pub processes: Vec<Process>,
    /// Number of calls of all processes.
    pub called: u64,
    /// Number of threads that wait for a call.
    pub watchers: usize,
    pub room: Option<Room>,
    /// State of the simulated mistakes.
    pub notes: Notes,
}

pub(super) fn error(kind: ErrorKind) -> io::Error {
    kind.into()
}

impl Disk {
    /// The disk after a reboot: everything on it is durable, and no process holds a lock.
    pub fn new(image: Vec<Node>) -> Self {
        Disk {
            base: image.clone(),
            now: image,
            log: Vec::new(),
            locks: HashMap::new(),
            lock_files: HashSet::new(),
            open: Vec::new(),
            handles: 0,
            processes: vec![Process::default()],
            called: 0,
            watchers: 0,
            room: None,
            notes: Notes::default(),
        }
    }

    pub fn find(&self, path: &Path) -> io::Result<Ino> {
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

    /// True if a process holds this lock.
    pub fn holds(&self, process: usize, path: &Path) -> bool {
        self.find(path).is_ok_and(|ino| self.locks.get(&ino).is_some_and(|(holder, _)| *holder == process))
    }

    /// The directory that a path's last name is in, and that name.
    pub fn place(&self, path: &Path) -> io::Result<(Ino, OsString)> {
        let name = path.file_name().ok_or(error(ErrorKind::InvalidInput))?;
        let dir = self.find(path.parent().unwrap_or(Path::new("")))?;
        match self.now.get(dir) {
            Some(Node::Dir(_)) => Ok((dir, name.to_owned())),
            _ => Err(error(ErrorKind::NotADirectory)),
        }
    }

    pub fn names(&self, dir: Ino) -> &BTreeMap<OsString, Ino> {
        match &self.now[dir] {
            Node::Dir(names) => names,
            Node::File(_) => panic!("{dir} is a file"),
        }
    }

    pub fn file(&self, path: &Path) -> io::Result<Arc<Vec<u8>>> {
        match &self.now[self.find(path)?] {
            Node::File(bytes) => Ok(Arc::clone(bytes)),
            Node::Dir(_) => Err(io::Error::new(ErrorKind::InvalidInput, "expected a regular file")),
        }
    }

    pub fn record(&mut self, op: Op) {
        crash::apply(&mut self.now, &op);
        self.log.push(op);
    }

    /// Adds a file or directory under a new name.
    pub fn add(&mut self, path: &Path, node: Node) -> io::Result<Ino> {
        let (dir, name) = self.place(path)?;
        if self.names(dir).contains_key(&name) {
            return Err(error(ErrorKind::AlreadyExists));
        }
        let ino = self.now.len();
        self.now.push(node);
        self.record(Op::Add { dir, name, ino });
        Ok(ino)
    }

    pub fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        let (dir, from) = self.place(from)?;
        let (to_dir, to) = self.place(to)?;
        let ino = *self.names(dir).get(&from).ok_or(error(ErrorKind::NotFound))?;
        if let Some(there) = self.names(to_dir).get(&to) {
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
        if dir == to_dir {
            self.record(Op::Rename { dir, from, to, ino });
        } else {
            // The two halves of a rename between directories need not become durable together.
            self.record(Op::Add { dir: to_dir, name: to, ino });
            self.record(Op::Remove { dir, name: from });
        }
        Ok(())
    }

    /// Bytes of all files that have a name, or are open for writing.
    pub fn used(&self) -> u64 {
        let open = self.open.iter().filter(|(_, open)| open.strong_count() > 0).map(|(ino, _)| *ino);
        let mut files: HashSet<Ino> = open.collect();
        let mut bytes = files.iter().map(|ino| self.len(*ino) as u64).sum();
        let mut dirs = vec![0];
        while let Some(dir) = dirs.pop() {
            for ino in self.names(dir).values() {
                match &self.now[*ino] {
                    Node::Dir(_) => dirs.push(*ino),
                    Node::File(data) if files.insert(*ino) => bytes += data.len() as u64,
                    Node::File(_) => {}
                }
            }
        }
        bytes
    }

    /// Bytes that may still be written.
    pub fn room_to_write(&self) -> u64 {
        if self.room.is_some_and(|room| room.late) { 1 << 40 } else { self.room_left() }
    }

    /// Bytes that are free.
    pub fn room_left(&self) -> u64 {
        self.room.map_or(1 << 40, |room| room.bytes.saturating_sub(self.used()))
    }

    /// The error of a write that does not fit.
    pub fn no_room(&self) -> io::Error {
        let quota = self.room.is_some_and(|room| room.is_quota);
        error(if quota { ErrorKind::QuotaExceeded } else { ErrorKind::StorageFull })
    }

    /// Fails if the disk is full and notices that only at a flush.
    pub fn room_to_flush(&self) -> io::Result<()> {
        let fits = self.room.is_none_or(|room| !room.late || self.used() <= room.bytes);
        fits.then_some(()).ok_or_else(|| self.no_room())
    }

    /// Fails if the disk is full and refuses new or replaced names.
    pub fn room_for_name(&self) -> io::Result<()> {
        let fits = self.room.is_none_or(|room| !room.names) || self.room_left() > 0;
        fits.then_some(()).ok_or_else(|| self.no_room())
    }

    pub fn len(&self, ino: Ino) -> usize {
        match &self.now[ino] {
            Node::File(bytes) => bytes.len(),
            Node::Dir(_) => 0,
        }
    }

    /// Free space as `statvfs` reports it: of the disk, not of the quota.
    pub fn free_space(&self) -> u64 {
        if self.room.is_some_and(|room| room.is_quota) { 1 << 40 } else { self.room_left() }
    }
}
