//! Runs operations on the real store over a simulated disk, and records which were acknowledged, and when.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vecstore::vfs::Vfs;
use vecstore::{
    BackupOptions, Batch, Error, Fingerprint, MergePolicy, OnDuplicate, OpenOptions, Progress, Snapshot,
    Store, StoreConfig, Ticket,
};

use super::SimFs;
use super::damage::Hit;
use super::oracle::{Change, DIM, State, Value};
use super::world::{Deed, Outcome, Step};

/// Path of the store in these tests.
pub const STORE: &str = "/d/s";
/// Path of its backup: in another directory, which is not flushed for the store's sake.
pub const BACKUP: &str = "/b";
/// Directory of its dated backups.
pub const DATED: &str = "/d/dated";
/// Number of dated backups that are kept.
pub const KEEP: usize = 1;
/// Number of batches that [`Do::Together`] appends.
const TOGETHER: usize = 3;

/// Path of the restored store of this name.
pub fn restored(name: &str) -> String {
    format!("/d/{name}")
}

/// Options for a store on this disk. No handle waits for a lock: the tests that use them have no concurrent
/// processes. Nothing is merged in the background, so that a run is the same each time.
pub fn options(fs: &SimFs) -> OpenOptions {
    OpenOptions::new()
        .vfs(Arc::new(fs.clone()))
        .lock_timeout(Duration::ZERO)
        .merge_policy(MergePolicy::OnDemand)
}

/// The entries of a batch; `None` deletes a key.
type Entries = Vec<(String, Option<Value>)>;

/// The settings and the fingerprint that a commit of this handle carries.
fn settings(store: &Store) -> (BTreeMap<String, String>, Option<u8>) {
    let snapshot = store.snapshot();
    (snapshot.settings().clone(), snapshot.fingerprint().map(|fingerprint| fingerprint.id()[0]))
}

/// A batch of this store with these entries.
fn batch(store: &Store, entries: &[(String, Option<Value>)]) -> Result<Batch, Error> {
    let mut batch = store.batch();
    for (key, value) in entries {
        match value {
            Some(Value::Rows(bits, payload)) => {
                let rows: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
                batch.entry(key).rows(rows.chunks(DIM)).payload(payload).push()?;
            }
            Some(Value::Empty(payload)) => batch.entry(key).payload(payload).push_empty()?,
            Some(Value::Rejected(reason)) => {
                batch.entry(key).payload(reason.as_bytes()).push_rejected(reason)?
            }
            None => batch.delete(key)?,
        }
    }
    Ok(batch)
}

/// Appends a batch with these entries.
pub fn append(
    store: &Store,
    policy: OnDuplicate,
    entries: &[(String, Option<Value>)],
) -> Result<vecstore::Appended, Error> {
    store.append(&mut batch(store, entries)?, policy)
}

/// One operation of a workload, with the number of its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    Create(usize),
    Open(usize),
    /// Appends two new keys.
    Append(usize),
    /// Appends several batches of two new keys at the same time.
    Together(usize),
    /// Replaces the newest key, and appends a new one.
    Replace(usize),
    /// Appends the newest key, which is skipped, and a new one.
    Skip(usize),
    /// Deletes the oldest key.
    Delete(usize),
    Setting(usize),
    Fingerprint(usize),
    Checkpoint(usize),
    /// Looks for commits of other handles.
    Refresh(usize),
    /// Merges segments that fit together.
    Merge(usize),
    /// Merges everything into one file.
    FullMerge(usize),
    /// Makes a version.
    Name(usize),
    /// Removes the oldest version.
    DropName(usize),
    /// Brings the backup up to date.
    Backup(usize),
    /// Makes a dated backup; the previous one is removed.
    Dated(usize),
    /// Restores a store from the backup, and opens it as this handle.
    Restore(usize),
    Close(usize),
    /// The disk damages the store.
    Hit(Hit),
    /// The store is repaired.
    Repair,
}

/// A run of operations, their outcomes, and every error.
#[derive(Debug)]
pub struct Run {
    pub fs: SimFs,
    pub steps: Vec<Step>,
    pub errors: Vec<(Do, Error)>,
    pub stores: BTreeMap<usize, Store>,
    /// Name of the restored store that a handle is open on; other handles are open on the store itself.
    places: BTreeMap<usize, String>,
    /// Versions that the run may remove, oldest first.
    named: Vec<String>,
    /// Snapshots, each with the state that it showed when it was taken.
    held: Vec<(Snapshot, State)>,
    keys: u32,
    values: u32,
    oldest: u32,
    /// Settings and fingerprint that the last commit carries.
    pub(super) told: (BTreeMap<String, String>, Option<u8>),
    /// The disk has damaged the store: operations may fail with an error that reports the damage.
    pub(super) is_hurt: bool,
}

impl Run {
    /// A new run on this disk.
    pub fn new(fs: SimFs) -> Self {
        Run {
            fs,
            steps: Vec::new(),
            errors: Vec::new(),
            stores: BTreeMap::new(),
            places: BTreeMap::new(),
            named: Vec::new(),
            held: Vec::new(),
            keys: 0,
            values: 0,
            oldest: 0,
            told: Default::default(),
            is_hurt: false,
        }
    }

    /// Numbers keys, values and names from `number` on, apart from those of an earlier run on the same disk.
    pub fn skip_keys(&mut self, number: u32) {
        (self.keys, self.values, self.oldest) = (number, number, number);
    }

    /// Continues the run as another process, without open handles.
    pub fn into_process(self, fs: SimFs) -> Self {
        let Run { steps, errors, named, keys, values, oldest, told, .. } = self;
        Run { steps, errors, named, keys, values, oldest, told, ..Run::new(fs) }
    }

    fn fresh(&mut self) -> (String, Option<Value>) {
        self.keys += 1;
        self.values += 1;
        (format!("key {}", self.keys), Some(Value::number(self.values)))
    }

    fn fresh_name(&mut self, what: &str) -> String {
        self.values += 1;
        format!("{what}{}", self.values)
    }

    fn entries(&mut self, what: Do) -> (OnDuplicate, Entries) {
        match what {
            Do::Replace(_) | Do::Skip(_) => {
                self.keys = self.keys.max(1);
                let again = format!("key {}", self.keys);
                self.values += 1;
                let again = (again, Some(Value::number(self.values)));
                let policy =
                    if matches!(what, Do::Skip(_)) { OnDuplicate::Skip } else { OnDuplicate::Replace };
                (policy, vec![again, self.fresh()])
            }
            Do::Delete(_) => {
                self.oldest += 1;
                (OnDuplicate::Skip, vec![(format!("key {}", self.oldest), None)])
            }
            _ => (OnDuplicate::Error, vec![self.fresh(), self.fresh()]),
        }
    }

    /// A change of the store that the handle is open on.
    fn deed(&self, handle: usize, change: Change) -> Deed {
        match self.places.get(&handle) {
            Some(name) => Deed::Restored(name.clone(), change),
            None => Deed::Store(change),
        }
    }

    /// Does an operation; nothing happens if its handle is missing.
    pub fn act(&mut self, what: Do) {
        let started = self.fs.changes();
        let (deed, result) = match what {
            Do::Create(handle) => {
                let created = options(&self.fs).create(STORE, StoreConfig::new(DIM));
                (Some(Deed::Store(Change::Create)), created.map(|store| self.keep(handle, store)))
            }
            Do::Open(handle) => {
                let opened = options(&self.fs).open(STORE).map(|store| self.keep(handle, store));
                (None, opened)
            }
            Do::Restore(handle) => return self.restore(handle, started),
            Do::Together(handle) => return self.append_together(handle, TOGETHER),
            Do::Hit(what) => return self.hit(what),
            Do::Repair => return self.repair(),
            Do::Close(handle) => {
                let Some(store) = self.stores.remove(&handle) else { return };
                self.places.remove(&handle);
                (None, store.close())
            }
            Do::Append(handle) | Do::Replace(handle) | Do::Skip(handle) | Do::Delete(handle) => {
                let (policy, entries) = self.entries(what);
                let Some(store) = self.stores.get(&handle) else { return };
                let result = append(store, policy, &entries);
                if result.as_ref().is_ok_and(|said| said.commit.is_some())
                    && !self.places.contains_key(&handle)
                {
                    self.told = settings(store);
                }
                (Some(self.deed(handle, Change::Append(policy, entries))), result.map(drop))
            }
            Do::Setting(handle) => {
                let value = self.fresh_name("value ");
                let Some(store) = self.stores.get(&handle) else { return };
                let result = store.set_setting("root", &value);
                (Some(self.deed(handle, Change::Setting("root".to_owned(), value))), result)
            }
            Do::Fingerprint(handle) => {
                let Some(store) = self.stores.get(&handle) else { return };
                let result = store.set_fingerprint(&Fingerprint::new([7; 32], "a model"));
                (Some(self.deed(handle, Change::Fingerprint(7))), result)
            }
            Do::Name(handle) => {
                let name = self.fresh_name("v");
                let Some(store) = self.stores.get(&handle) else { return };
                let result = store.create_version(&name).map(drop);
                self.named.extend(result.is_ok().then(|| name.clone()));
                (Some(Deed::Name(name)), result)
            }
            Do::DropName(handle) => {
                let Some(store) = self.stores.get(&handle).filter(|_| !self.named.is_empty()) else { return };
                let name = self.named.remove(0);
                let result = store.remove_version(&name);
                (Some(Deed::DropName(name)), result)
            }
            Do::Checkpoint(handle)
            | Do::Refresh(handle)
            | Do::Merge(handle)
            | Do::FullMerge(handle)
            | Do::Backup(handle)
            | Do::Dated(handle) => {
                let Some(store) = self.stores.get(&handle) else { return };
                match what {
                    Do::Checkpoint(_) => (None, store.checkpoint()),
                    Do::Refresh(_) => (None, store.refresh().map(drop)),
                    Do::Merge(_) => (None, store.compact().map(drop)),
                    Do::FullMerge(_) => (None, store.compact_full().map(drop)),
                    Do::Backup(_) => (Some(Deed::Backup), store.backup(BACKUP).map(drop)),
                    _ => {
                        let newest =
                            self.fs.names(DATED).iter().filter_map(|name| name.parse::<u32>().ok()).max();
                        let name = format!("{:04}", newest.map_or(1, |newest| newest + 1));
                        let dest = Path::new(DATED).join(&name);
                        // Every other one may also link files of the store.
                        let link = newest.is_some_and(|newest| newest % 2 == 1);
                        let options = BackupOptions::new().keep(KEEP).link(link);
                        (Some(Deed::Dated(KEEP)), store.backup_with(dest, options).map(drop))
                    }
                }
            }
        };
        self.note(what, deed, started, result);
    }

    /// Records the outcome of an operation.
    pub(super) fn note(&mut self, what: Do, deed: Option<Deed>, started: usize, result: Result<(), Error>) {
        let outcome = match (&result, &deed) {
            (Ok(()), _) => Outcome::Acknowledged(self.fs.changes()),
            (Err(_), _) if self.fs.is_dead() => Outcome::Unknown,
            // A failed append says whether its outcome is known. A failed operation of another kind may have
            // replaced its one file.
            (Err(Error::OutcomeUnknown { .. }), _) => Outcome::Unknown,
            (Err(_), Some(Deed::Store(Change::Append(..)) | Deed::Restored(_, Change::Append(..)))) => {
                Outcome::Refused
            }
            (Err(_), _) => Outcome::Unknown,
        };
        self.steps.extend(deed.map(|deed| Step::Deed { deed, started, outcome }));
        let says_so = |error: &Error| matches!(error, Error::Damaged { .. } | Error::ManifestMissing { .. });
        let error = result.err().filter(|error| !(self.is_hurt && what != Do::Repair && says_so(error)));
        self.errors.extend(error.map(|error| (what, error)));
    }

    /// Appends these entries; returns what the store returned.
    pub fn write(
        &mut self,
        handle: usize,
        policy: OnDuplicate,
        entries: &[(String, Option<Value>)],
    ) -> Option<vecstore::Appended> {
        let started = self.fs.changes();
        let (said, result) = match append(self.stores.get(&handle)?, policy, entries) {
            Ok(said) => (Some(said), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let deed = self.deed(handle, Change::Append(policy, entries.to_vec()));
        self.note(Do::Append(handle), Some(deed), started, result);
        said
    }

    /// Versions that the run may remove, oldest first.
    pub fn named(&mut self) -> &mut Vec<String> {
        &mut self.named
    }

    /// The restored store that this handle is open on; `None`: the store itself.
    pub fn place(&self, handle: usize) -> Option<&str> {
        self.places.get(&handle).map(String::as_str)
    }

    fn keep(&mut self, handle: usize, store: Store) {
        self.places.remove(&handle);
        self.stores.insert(handle, store);
    }

    fn restore(&mut self, handle: usize, started: usize) {
        if !self.fs.exists(BACKUP) {
            return;
        }
        let mut name = self.fresh_name("r");
        while self.fs.exists(&restored(&name)) {
            name = self.fresh_name("r");
        }
        let path = restored(&name);
        // The name of an interrupted backup may vanish although a store restored from it stays. The worlds
        // know a restored store only beside its backup, so the backup's name is flushed first.
        self.fs.other_process().flush_dir(Path::new("/")).expect("nothing happens to this process");
        let done =
            vecstore::restore_on(&self.fs, Path::new(BACKUP), Path::new(&path), &Progress::new()).map(drop);
        let is_there = done.is_ok();
        self.note(Do::Restore(handle), Some(Deed::Restore(name.clone())), started, done);
        if is_there {
            match options(&self.fs).open(&path) {
                Ok(store) => {
                    self.keep(handle, store);
                    self.places.insert(handle, name);
                }
                Err(error) => self.errors.push((Do::Restore(handle), error)),
            }
        }
    }

    /// Records the state that this handle shows of the store: no power cut may take it away.
    pub fn show(&mut self, handle: usize) -> Result<(), String> {
        if let Some(store) = self.stores.get(&handle)
            && !self.places.contains_key(&handle)
        {
            self.steps.push(Step::Shown { at: self.fs.changes(), state: State::read(&store.snapshot())? });
        }
        Ok(())
    }

    /// Takes a snapshot and keeps it.
    pub fn hold(&mut self, handle: usize) -> Result<(), String> {
        if let Some(store) = self.stores.get(&handle) {
            let snapshot = store.snapshot();
            let state = State::read(&snapshot)?;
            self.held.push((snapshot, state));
        }
        Ok(())
    }

    /// Drops the snapshots that were kept; fails if one of them no longer shows its first state.
    pub fn let_go(&mut self) -> Result<(), String> {
        for (snapshot, state) in self.held.drain(..) {
            if State::read(&snapshot)? != state {
                return Err(format!("a snapshot of {} commits changed", state.commits));
            }
        }
        Ok(())
    }

    /// Appends several batches at once. The first one is held in the middle of its commit until the others
    /// wait in the queue, so that these share the next file.
    pub fn append_together(&mut self, handle: usize, count: usize) {
        let batches: Vec<Entries> = (0..count).map(|_| vec![self.fresh(), self.fresh()]).collect();
        let Some(store) = self.stores.get(&handle) else { return };
        let fs = &self.fs;
        let started = fs.changes();
        let held = fs.hold_next("create");
        let appended: Vec<(Entries, Result<(), Error>, usize)> = std::thread::scope(|scope| {
            let mut batches = batches.into_iter();
            let first = batches.next().map(|entries| {
                scope.spawn(move || {
                    let result = append(store, OnDuplicate::Error, &entries).map(drop);
                    (entries, result, fs.changes())
                })
            });
            held.there();
            // The others do not commit before the time of the first acknowledgement is noted.
            let second = fs.hold_next("create");
            let others: Vec<(Entries, Result<Ticket, Error>)> = batches
                .map(|entries| {
                    let batch = batch(store, &entries);
                    let ticket = batch.and_then(|batch| store.submit(batch, OnDuplicate::Error));
                    (entries, ticket)
                })
                .collect();
            drop(held);
            let first = first.map(|first| first.join().expect("no panic"));
            drop(second);
            let others = others.into_iter().map(|(entries, ticket)| {
                let result = ticket.and_then(Ticket::wait).map(drop);
                (entries, result, fs.changes())
            });
            first.into_iter().chain(others).collect()
        });
        for (entries, result, at) in appended {
            let deed = self.deed(handle, Change::Append(OnDuplicate::Error, entries));
            self.note(Do::Together(handle), Some(deed), started, result);
            // `note` recorded the end of all batches; this one was acknowledged earlier.
            if let Some(Step::Deed { outcome: Outcome::Acknowledged(when), .. }) = self.steps.last_mut() {
                *when = at;
            }
        }
        if let Some(store) = self.stores.get(&handle).filter(|_| !self.places.contains_key(&handle)) {
            self.told = settings(store);
        }
    }
}
