//! Runs operations on the real store over a simulated disk and writes down what was acknowledged when.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use vecstore::{Error, Fingerprint, Merging, OnDuplicate, OpenOptions, Store, StoreConfig};

use super::SimFs;
use super::oracle::{Change, DIM, Outcome, State, Step, Value, difference, right_states};

/// Where the store of these tests lies.
pub const STORE: &str = "/d/s";

/// Options for a store on this disk. Nobody waits for a lock: the tests that use them have no concurrent processes.
/// Nothing is merged in the background, so that a run is the same each time.
pub fn options(fs: &SimFs) -> OpenOptions {
    OpenOptions::new().vfs(Arc::new(fs.clone())).lock_timeout(Duration::ZERO).merging(Merging::OnDemand)
}

/// Adds entries to a batch of this store and appends it.
pub fn append(
    store: &Store,
    policy: OnDuplicate,
    entries: &[(String, Option<Value>)],
) -> Result<vecstore::Appended, Error> {
    let mut batch = store.batch();
    for (key, value) in entries {
        match value {
            Some(Value::Rows(bits, payload)) => {
                let rows: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
                batch.push_with_payload(key, &rows, payload)?;
            }
            Some(Value::Empty(payload)) => batch.push_empty(key, payload)?,
            Some(Value::Rejected(reason)) => batch.push_rejected(key, reason)?,
            None => batch.delete(key)?,
        }
    }
    store.append(batch, policy)
}

/// One operation of a workload; the number is the handle's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    Create(usize),
    Open(usize),
    /// Two keys nobody has used.
    Append(usize),
    /// The newest key again, and one nobody has used.
    Replace(usize),
    /// The same, keeping what is stored.
    Skip(usize),
    /// The oldest key.
    Delete(usize),
    Setting(usize),
    Fingerprint(usize),
    Checkpoint(usize),
    /// Merges everything into one file.
    Merge(usize),
    Close(usize),
}

/// A run of operations, what came of them, and every error.
#[derive(Debug)]
pub struct Run {
    pub fs: SimFs,
    pub steps: Vec<Step>,
    pub errors: Vec<(Do, Error)>,
    pub stores: BTreeMap<usize, Store>,
    keys: u32,
    values: u32,
    oldest: u32,
}

impl Run {
    /// Begins on this disk. Keys begin with a number, so that two runs on one disk can be told apart.
    pub fn new(fs: SimFs) -> Self {
        let (steps, errors) = (Vec::new(), Vec::new());
        Run { fs, steps, errors, stores: BTreeMap::new(), keys: 0, values: 0, oldest: 0 }
    }

    /// Numbers its keys and values from here on, away from those of an earlier run on the same disk.
    pub fn skip_keys(&mut self, number: u32) {
        (self.keys, self.values, self.oldest) = (number, number, number);
    }

    /// Goes on as another process.
    pub fn into_process(self, fs: SimFs) -> Self {
        let Run { steps, errors, stores, keys, values, oldest, .. } = self;
        drop(stores);
        Run { fs, steps, errors, stores: BTreeMap::new(), keys, values, oldest }
    }

    fn fresh(&mut self) -> (String, Option<Value>) {
        self.keys += 1;
        self.values += 1;
        (format!("key {}", self.keys), Some(Value::number(self.values)))
    }

    fn entries(&mut self, what: Do) -> (OnDuplicate, Vec<(String, Option<Value>)>) {
        match what {
            Do::Replace(_) | Do::Skip(_) => {
                let again = format!("key {}", self.keys.max(1));
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

    /// Does it, on a handle that may be missing (then nothing happens).
    pub fn act(&mut self, what: Do) {
        let started = self.fs.changes();
        let (change, result) = match what {
            Do::Create(handle) => {
                let created = options(&self.fs).create(STORE, StoreConfig::new(DIM));
                (Some(Change::Create), created.map(|store| self.keep(handle, store)))
            }
            Do::Open(handle) => {
                let opened = options(&self.fs).open(STORE).map(|store| self.keep(handle, store));
                (None, opened)
            }
            Do::Append(handle) | Do::Replace(handle) | Do::Skip(handle) | Do::Delete(handle) => {
                let (policy, entries) = self.entries(what);
                let Some(store) = self.stores.get(&handle) else { return };
                let result = append(store, policy, &entries).map(|_| ());
                (Some(Change::Append(policy, entries)), result)
            }
            Do::Setting(handle) => {
                let Some(store) = self.stores.get(&handle) else { return };
                self.values += 1;
                let value = self.values.to_string();
                let result = store.set_setting("root", &value);
                (Some(Change::Setting("root".to_owned(), value)), result)
            }
            Do::Fingerprint(handle) => {
                let Some(store) = self.stores.get(&handle) else { return };
                (Some(Change::Fingerprint(7)), store.set_fingerprint(&Fingerprint::new([7; 32], "a model")))
            }
            Do::Checkpoint(handle) => {
                let Some(store) = self.stores.get(&handle) else { return };
                (None, store.checkpoint())
            }
            Do::Merge(handle) => {
                let Some(store) = self.stores.get(&handle) else { return };
                (None, store.compact_full().map(|_| ()))
            }
            Do::Close(handle) => {
                let Some(store) = self.stores.remove(&handle) else { return };
                (None, store.close())
            }
        };
        let outcome = match (&result, what) {
            (Ok(()), _) => Outcome::Acknowledged(self.fs.changes()),
            (Err(_), _) if self.fs.is_dead() => Outcome::Unknown,
            // An append says what it leaves behind; the others replace one file, and may have done so.
            (Err(Error::OutcomeUnknown { .. }), _) => Outcome::Unknown,
            (Err(_), Do::Append(_) | Do::Replace(_) | Do::Skip(_) | Do::Delete(_)) => Outcome::Refused,
            (Err(_), _) => Outcome::Unknown,
        };
        if let Some(change) = change {
            self.steps.push(Step::Change { change, started, outcome });
        }
        if let Err(error) = result {
            self.errors.push((what, error));
        }
    }

    fn keep(&mut self, handle: usize, store: Store) {
        self.stores.insert(handle, store);
    }

    /// Writes down what this handle shows: it must never be lost again.
    pub fn show(&mut self, handle: usize) -> Result<(), String> {
        let Some(store) = self.stores.get(&handle) else { return Ok(()) };
        self.steps.push(Step::Shown { at: self.fs.changes(), state: State::read(store)? });
        Ok(())
    }

    /// Appends from several threads at once.
    pub fn append_together(&mut self, handle: usize, threads: usize) {
        let batches: Vec<Vec<(String, Option<Value>)>> =
            (0..threads).map(|_| vec![self.fresh(), self.fresh()]).collect();
        let Some(store) = self.stores.get(&handle) else { return };
        let fs = &self.fs;
        let started = fs.changes();
        let start = Barrier::new(threads);
        let start = &start;
        let acknowledged: Vec<usize> = std::thread::scope(|scope| {
            let appends: Vec<_> = batches
                .iter()
                .map(|entries| {
                    scope.spawn(move || {
                        start.wait();
                        append(store, OnDuplicate::Error, entries).expect("nothing fails here");
                        fs.changes()
                    })
                })
                .collect();
            appends.into_iter().map(|append| append.join().expect("no panic")).collect()
        });
        let mut steps: Vec<Step> = batches
            .into_iter()
            .zip(acknowledged)
            .map(|(entries, at)| Step::Change {
                change: Change::Append(OnDuplicate::Error, entries),
                started,
                outcome: Outcome::Acknowledged(at),
            })
            .collect();
        self.steps.append(&mut steps);
    }
}

/// Opens the store as after a start of the machine, holds it against what is right, verifies it, appends to it and
/// reads it again. `steps` gets what this run did, so that it can be crashed in turn.
pub fn check(fs: &SimFs, right: &BTreeSet<State>) -> Result<Vec<Step>, String> {
    let mut run = Run::new(fs.clone());
    run.skip_keys(1_000_000);
    match options(fs).open(STORE) {
        Ok(store) => {
            let found = State::read(&store)?;
            if !right.contains(&found) {
                return Err(difference(&found, right));
            }
            run.keep(0, store);
            run.show(0)?;
        }
        Err(Error::NotFound { .. }) if right.iter().any(|state| !state.exists) => run.act(Do::Create(0)),
        Err(error) => return Err(format!("opening: {error}")),
    }
    whole(fs)?;
    run.act(Do::Replace(0));
    run.act(Do::Close(0));
    if let Some((what, error)) = run.errors.first() {
        return Err(format!("{what:?} after opening: {error}"));
    }
    let end = right_states(right, &run.steps, usize::MAX);
    let store = options(fs).read_only(true).open(STORE).map_err(|error| format!("reopening: {error}"))?;
    let found = State::read(&store)?;
    if !end.contains(&found) {
        return Err(format!("after one more append: {}", difference(&found, &end)));
    }
    whole(fs)?;
    Ok(run.steps)
}

/// Verifies the store; an error names the first fault.
pub fn whole(fs: &SimFs) -> Result<(), String> {
    let report = vecstore::verify_with(fs, Path::new(STORE), |_| {}).map_err(|error| error.to_string())?;
    match report.faults.first() {
        Some(fault) => Err(format!("verify: {fault}")),
        None => Ok(()),
    }
}
