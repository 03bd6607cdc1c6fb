//! A simulated disk behind the crate's file-system seam.
//!
//! The disk keeps apart what programs see (the page cache) and what is durable. A flush of a file makes its
//! data durable, but not its name; a flush of a directory makes its names durable, but not the files behind
//! them. Every change is recorded, so that [`crash`] can build the states that a power cut after any of them
//! may leave. Tests can make calls fail and processes die.

#![allow(dead_code, reason = "each test binary uses its part of this module")]

pub mod act;
mod calls;
pub mod check;
pub mod crash;
pub mod crashes;
pub mod damage;
mod disk;
pub mod mistakes;
pub mod moment;
pub mod oracle;
pub mod run;
pub mod start;
pub mod tier;
pub mod trial;
pub mod world;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use disk::Disk;

/// No error number: a call with this [`Fault`] succeeds, but returns fewer bytes than it was asked for.
pub const SHORT: i32 = -1;

/// Number of a file or directory, which does not depend on its names.
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
    Write {
        ino: Ino,
        offset: usize,
        data: Arc<Vec<u8>>,
    },
    Flush {
        ino: Ino,
        ok: bool,
    },
    Add {
        dir: Ino,
        name: OsString,
        ino: Ino,
    },
    Remove {
        dir: Ino,
        name: OsString,
    },
    Rename {
        dir: Ino,
        from: OsString,
        to: OsString,
        ino: Ino,
    },
    FlushDir {
        dir: Ino,
        ok: bool,
    },
    /// The disk by itself replaced a file with a damaged one, or lost it (`None`). This is durable at once.
    Rot {
        dir: Ino,
        name: OsString,
        now: Option<(Ino, Arc<Vec<u8>>)>,
    },
}

/// Which call of a process fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Number of the call, from 0.
    pub at: usize,
    /// Error number of the operating system, or [`SHORT`].
    pub errno: i32,
    /// If true, every later call fails, too.
    pub lasting: bool,
}

/// A call of a process, for messages and for choosing faults.
#[derive(Clone, Debug)]
pub struct Call {
    pub what: &'static str,
    pub path: PathBuf,
}

/// A limit on the space of the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Bytes of all files together.
    pub bytes: u64,
    /// The limit is a quota: the free space that the disk reports does not show it.
    pub is_quota: bool,
    /// Overwriting needs as much space again, because the disk writes the new bytes elsewhere first.
    pub copies: bool,
    /// A full disk refuses new and replaced names, too.
    pub names: bool,
    /// A full disk is noticed when a file is flushed, not when it is written.
    pub late: bool,
}

/// Death of a process, or failure of its calls.
#[derive(Clone, Copy, Debug)]
pub enum Misfortune {
    Dies,
    /// A call fails with this error number; if `true`, every later call, too.
    Fails(i32, bool),
}

/// Number of a call, and the work to run before it.
type Before = (usize, Work);

/// Work of another process, done in the middle of a call.
type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Process {
    calls: Vec<Call>,
    fault: Option<Fault>,
    before: Option<Before>,
    /// A kind of call, a number of calls, and what happens that many calls after the next one of this kind.
    armed: Option<(&'static str, usize, Misfortune)>,
    /// Work to run before the next call of this kind.
    before_kind: Option<(&'static str, Work)>,
    /// The process dies instead of making this call.
    dies_at: Option<usize>,
    /// The process stops instead of dying, and keeps its locks.
    stops: bool,
    dead: bool,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("fault", &self.fault)
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

/// Keeps a process stopped before a call; dropping this lets the process go on.
pub struct Held {
    told: Receiver<()>,
    _go_on: Sender<()>,
}

impl Held {
    /// Waits until the process reaches that call.
    pub fn there(&self) {
        self.told.recv_timeout(HANG).expect("it makes that call");
    }
}

/// The simulated disk as one process sees it.
#[derive(Clone)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
    /// Notified after each call while there are watchers.
    called: Arc<Condvar>,
    process: usize,
}

/// A wait for a call that takes longer than this is a hang.
const HANG: Duration = Duration::from_secs(300);

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFs").field("process", &self.process).finish_non_exhaustive()
    }
}

impl SimFs {
    /// An empty disk with the durable directory `/d`.
    pub fn new() -> Self {
        let root = BTreeMap::from([(OsString::from("d"), 1)]);
        Self::from_image(vec![Node::Dir(root), Node::Dir(BTreeMap::new())])
    }

    /// The disk after a reboot: everything on it is durable, and no process holds a lock.
    pub fn from_image(image: Vec<Node>) -> Self {
        SimFs { disk: Arc::new(Mutex::new(Disk::new(image))), called: Arc::default(), process: 0 }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same disk, as another process uses it.
    pub fn other_process(&self) -> Self {
        let mut disk = self.disk();
        disk.processes.push(Process::default());
        let process = disk.processes.len() - 1;
        SimFs { disk: Arc::clone(&self.disk), called: Arc::clone(&self.called), process }
    }

    /// Makes a call of this process fail; `None` lifts the fault.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.disk().processes[self.process].fault = fault;
    }

    /// Kills this process when it is about to make call number `at`.
    pub fn die_at(&self, at: usize) {
        self.disk().processes[self.process].dies_at = Some(at);
    }

    /// Stops this process for ever when it is about to make call number `at`. It makes no further call, and
    /// keeps its locks.
    pub fn stop_at(&self, at: usize) {
        let mut disk = self.disk();
        let process = &mut disk.processes[self.process];
        (process.dies_at, process.stops) = (Some(at), true);
    }

    /// Lets `what` happen at the call that is `after` calls after the next one of this kind (0: at that one).
    pub fn arm(&self, kind: &'static str, after: usize, what: Misfortune) {
        self.disk().processes[self.process].armed = Some((kind, after, what));
    }

    /// Runs `work`, of another process, when this process is about to make call number `at`.
    pub fn before(&self, at: usize, work: impl FnOnce() + Send + 'static) {
        self.disk().processes[self.process].before = Some((at, Box::new(work)));
    }

    /// Drops the work of [`SimFs::before`] if its call was not made.
    pub fn never_mind(&self) {
        self.disk().processes[self.process].before = None;
    }

    /// Runs `work` when this process is about to make its next call of this kind.
    pub fn before_next(&self, kind: &'static str, work: impl FnOnce() + Send + 'static) {
        self.disk().processes[self.process].before_kind = Some((kind, Box::new(work)));
    }

    /// Limits how much fits on the disk; `None` lifts the limit.
    pub fn set_room(&self, room: Option<Room>) {
        self.disk().room = room;
    }

    /// Bytes of all files that have a name, or are open for writing.
    pub fn used(&self) -> u64 {
        self.disk().used()
    }

    /// True when this process was killed or stopped.
    pub fn is_dead(&self) -> bool {
        self.disk().processes[self.process].dead
    }

    /// The calls this process has made.
    pub fn calls(&self) -> Vec<Call> {
        self.disk().processes[self.process].calls.clone()
    }

    /// Number of calls this process has made.
    pub fn call_count(&self) -> usize {
        self.disk().processes[self.process].calls.len()
    }

    /// The calls this process has made from number `first` on.
    pub fn calls_from(&self, first: usize) -> Vec<Call> {
        self.disk().processes[self.process].calls.get(first..).unwrap_or_default().to_vec()
    }

    /// Waits until `is_so` returns true, and asks it again after each call of any process.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        self.disk().watchers += 1;
        loop {
            let seen = self.disk().called;
            if is_so() {
                break;
            }
            let disk = self.disk();
            let waited = self.called.wait_timeout_while(disk, HANG, |disk| disk.called == seen);
            let (disk, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            drop(disk);
            assert!(!timeout.timed_out(), "{what}");
        }
        self.disk().watchers -= 1;
    }

    /// Stops this process before its next call of this kind, until the returned value is dropped.
    pub fn hold_next(&self, kind: &'static str) -> Held {
        let ((tell, told), (go_on, may)) = (channel(), channel::<()>());
        self.before_next(kind, move || {
            // The receiver may be gone.
            let _ = tell.send(());
            let _ = may.recv();
        });
        Held { told, _go_on: go_on }
    }

    /// Number of changes recorded so far.
    pub fn changes(&self) -> usize {
        self.disk().log.len()
    }

    /// The image that programs see now; a disk can start from it.
    pub fn image(&self) -> Vec<Node> {
        self.disk().now.clone()
    }

    /// The recorded changes, to build crash states from.
    pub fn history(&self) -> crash::History {
        let disk = self.disk();
        crash::History::new(disk.base.clone(), &disk.now, disk.log.clone(), disk.lock_files.clone())
    }

    /// True if a file or directory has this path.
    pub fn exists(&self, path: &str) -> bool {
        self.disk().find(Path::new(path)).is_ok()
    }

    /// Names in a directory.
    pub fn names(&self, path: &str) -> Vec<String> {
        let disk = self.disk();
        let Ok(dir) = disk.find(Path::new(path)) else { return Vec::new() };
        disk.names(dir).keys().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// Counts a call; returns an error if the call must fail.
    fn call<'a>(&'a self, what: &'static str, path: &Path) -> (MutexGuard<'a, Disk>, io::Result<()>) {
        let mut disk = self.disk();
        let now = disk.processes[self.process].calls.len();
        let before = &mut disk.processes[self.process].before;
        if let Some((_, work)) = before.take_if(|(at, _)| *at == now) {
            drop(disk);
            work();
            disk = self.disk();
        }
        let before = &mut disk.processes[self.process].before_kind;
        if let Some((_, work)) = before.take_if(|(kind, _)| *kind == what) {
            drop(disk);
            work();
            disk = self.disk();
        }
        let process = &mut disk.processes[self.process];
        let number = process.calls.len();
        if let Some((_, after, misfortune)) = process.armed.take_if(|(kind, ..)| *kind == what) {
            match misfortune {
                Misfortune::Dies => process.dies_at = Some(number + after),
                Misfortune::Fails(errno, lasting) => {
                    process.fault = Some(Fault { at: number + after, errno, lasting });
                }
            }
        }
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
        disk.called += 1;
        if disk.watchers > 0 {
            self.called.notify_all();
        }
        let process = &disk.processes[self.process];
        let hit = |fault: &Fault| fault.at == number || fault.lasting && fault.at < number;
        // Only reads of a lock's record can be short: other reads are whole or fail.
        let fits = |fault: &Fault| fault.errno != SHORT || what == "read record";
        let failed = process.fault.filter(|fault| hit(fault) && fits(fault));
        let result = failed.map_or(Ok(()), |fault| Err(io::Error::from_raw_os_error(fault.errno)));
        (disk, result)
    }
}

/// True for the name of a temporary file, which later gets its final name.
pub fn is_temporary(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("tmp-")
}
