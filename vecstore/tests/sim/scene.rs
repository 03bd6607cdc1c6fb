//! A store that several processes append to at once, and who waits for whom there: for tests of processes that commit for each
//! other.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use vecstore::{Appended, Batch, OnDuplicate, OpenOptions, Store, StoreConfig};

use super::run::STORE;
use super::{Call, Misfortune, SimFs};

/// Errors of a disk, from linux/errno.h.
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// Options for a store that several processes write to.
pub fn options(fs: &SimFs) -> OpenOptions {
    super::run::options(fs).lock_timeout(Duration::from_secs(60))
}

pub fn batch(keys: &[&str], value: f32) -> Batch {
    let mut batch = Batch::new(1, vecstore::DType::F32);
    keys.iter().for_each(|key| batch.push(key, &[value]).unwrap());
    batch
}

/// A process that has a store open.
pub struct Process {
    pub fs: SimFs,
    pub store: Arc<Store>,
}

pub type Outcome = JoinHandle<vecstore::Result<Appended>>;

impl Process {
    pub fn new(fs: &SimFs, options: impl Fn(&SimFs) -> OpenOptions) -> Self {
        let fs = fs.other_process();
        let store = Arc::new(options(&fs).open(STORE).unwrap());
        Process { fs, store }
    }

    pub fn letters(&self) -> usize {
        self.fs.calls().iter().filter(|call| call.what == "write letter").count()
    }

    pub fn tries(&self) -> usize {
        let is_lock = |path: &Path| path.ends_with("LOCK");
        self.fs.calls().iter().filter(|call| call.what == "lock" && is_lock(&call.path)).count()
    }

    /// Begins an append that will have to wait, and has offered its batch when this returns.
    pub fn offers(&self, batch: Batch, policy: OnDuplicate) -> Outcome {
        let (before, store) = (self.letters(), Arc::clone(&self.store));
        let outcome = std::thread::spawn(move || store.append(batch, policy));
        self.fs.until("an offer", || self.letters() >= before + 2);
        outcome
    }

    /// It cannot try the lock for once, which is as good as a patience that is at an end, but does not depend on time. It has
    /// withdrawn its offer when this returns.
    pub fn gives_up(&self) {
        let before = self.fs.call_count();
        self.fs.arm("lock", 0, Misfortune::Fails(EIO, false));
        let withdraws = |call: &Call| {
            call.what == "unlock" && !call.path.ends_with("LOCK") && !call.path.ends_with("LOCK.turn")
        };
        self.fs.until("it gives up", || self.fs.calls_from(before).iter().any(withdraws));
    }

    /// The same, and it has the turn at the lock, so that nobody gets it before.
    pub fn offers_next(&self, batch: Batch, policy: OnDuplicate) -> Outcome {
        let outcome = self.offers(batch, policy);
        // It has tried once before it offered.
        let tries = self.tries();
        self.fs.until("a turn", || self.tries() > tries);
        outcome
    }
}

/// A store whose commit lock a third process holds, in the middle of a commit, until it is told to go on.
pub struct Scene {
    pub fs: SimFs,
    pub holder: Outcome,
    pub go_on: Sender<()>,
}

impl Scene {
    pub fn new() -> Self {
        let fs = SimFs::new();
        drop(options(&fs).create(STORE, StoreConfig::new(1)).unwrap());
        Self::on(&fs)
    }

    pub fn on(fs: &SimFs) -> Self {
        let process = Process::new(fs, options);
        let before = process.fs.calls().len();
        process.store.append(batch(&["first"], 0.0), OnDuplicate::Skip).unwrap();
        let calls = process.fs.calls();
        let of_rename = calls[before..].iter().position(|call| call.what == "rename").unwrap();
        // The second append takes the lock as the first one did, or with less looking around.
        let (wait, held) = channel();
        let (go_on, may) = channel::<()>();
        let at = calls.len() + of_rename.min(8);
        process.fs.before(at, move || {
            wait.send(()).unwrap();
            may.recv().unwrap();
        });
        let holder =
            std::thread::spawn(move || process.store.append(batch(&["second"], 0.0), OnDuplicate::Skip));
        held.recv().unwrap();
        Scene { fs: fs.clone(), holder, go_on }
    }

    /// Lets the holder finish.
    pub fn go_on(self) -> SimFs {
        self.go_on.send(()).unwrap();
        self.holder.join().unwrap().unwrap();
        self.fs
    }
}

/// A waits next to the lock, B behind it; both have offered their batches.
pub fn two(
    scene: &Scene,
    for_a: Batch,
    for_b: Batch,
    policy: OnDuplicate,
) -> ((Process, Outcome), (Process, Outcome)) {
    let a = Process::new(&scene.fs, options);
    let of_a = a.offers_next(for_a, OnDuplicate::Skip);
    let b = Process::new(&scene.fs, options);
    let of_b = b.offers(for_b, policy);
    ((a, of_a), (b, of_b))
}

/// The value of a key, and the commit it is in.
pub fn value(store: &Store, key: &str) -> Option<(f32, u64)> {
    let snapshot = store.snapshot();
    let entry = snapshot.get(key).unwrap()?;
    Some((entry.to_f32().unwrap()[0], entry.address().commit))
}

pub fn assert_whole(fs: &SimFs) -> Store {
    let process = Process::new(fs, options);
    let report = vecstore::verify_with(&process.fs, Path::new(STORE), |_| {}).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
    Arc::try_unwrap(process.store).unwrap()
}
