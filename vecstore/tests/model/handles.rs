//! Random operations on two handles, checked against a map in memory after each operation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sim::SimFs;
use crate::sim::oracle::{Change, DIM, State, Value};
use crate::sim::run::append;
use crate::sim::tier::{full_or, is_random};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use vecstore::{
    Error, Fingerprint, MergePolicy, OnDuplicate, OpenOptions, Progress, Snapshot, Store, StoreConfig,
};

#[derive(Clone, Debug)]
enum Op {
    /// Handle, policy, and entries (key number, value number; no value deletes).
    Append(bool, OnDuplicate, Vec<(u8, Option<u32>)>),
    Setting(bool, u8, u8),
    Fingerprint(bool, u8),
    Checkpoint(bool),
    Reopen(bool),
    /// Looks for commits of the other handle.
    Refresh(bool),
    /// Keeps a snapshot; it must be the same at the end.
    Keep(bool),
    /// Merges segments that fit together, or everything.
    Compact(bool, bool),
    /// Makes the version of this number, if there is none.
    Name(bool, u8),
    /// Removes the version of this number, if there is one.
    DropName(bool, u8),
    /// Brings the backup up to date.
    Backup(bool),
    /// Restores a store from the backup, if there is one, and goes on with it.
    Restore,
}

fn policy() -> impl Strategy<Value = OnDuplicate> {
    prop_oneof![Just(OnDuplicate::Skip), Just(OnDuplicate::Replace), Just(OnDuplicate::Error)]
}

fn op() -> impl Strategy<Value = Op> {
    let entries = prop::collection::btree_map(0u8..12, prop::option::weighted(0.8, 0u32..1000), 1..5);
    prop_oneof![
        6 => (any::<bool>(), policy(), entries)
            .prop_map(|(handle, policy, entries)| Op::Append(handle, policy, entries.into_iter().collect())),
        1 => (any::<bool>(), 0u8..3, any::<u8>())
            .prop_map(|(handle, name, value)| Op::Setting(handle, name, value)),
        1 => (any::<bool>(), 1u8..3).prop_map(|(handle, id)| Op::Fingerprint(handle, id)),
        1 => any::<bool>().prop_map(Op::Checkpoint),
        1 => any::<bool>().prop_map(Op::Reopen),
        2 => any::<bool>().prop_map(Op::Refresh),
        1 => any::<bool>().prop_map(Op::Keep),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(handle, full)| Op::Compact(handle, full)),
        1 => (any::<bool>(), 0u8..2).prop_map(|(handle, name)| Op::Name(handle, name)),
        1 => (any::<bool>(), 0u8..2).prop_map(|(handle, name)| Op::DropName(handle, name)),
        1 => any::<bool>().prop_map(Op::Backup),
        1 => Just(Op::Restore),
    ]
}

/// Runs the operations; returns the path of the store at the end (a restore moves it).
fn run(
    options: &OpenOptions,
    restore: impl Fn(&Path, &Path) -> vecstore::Result<vecstore::BackupReport>,
    path: &Path,
    ops: Vec<Op>,
) -> Result<PathBuf, TestCaseError> {
    let fail = |wrong: String| TestCaseError::fail(wrong);
    let options = &options.clone().merge_policy(MergePolicy::OnDemand);
    let first_path = path.to_owned();
    let mut copies = 0;
    let mut path = path.to_owned();
    let mut named: BTreeMap<String, State> = BTreeMap::new();
    let mut backup: Option<(PathBuf, State)> = None;
    let mut model = State::default().after(&Change::Create);
    let first = options.create(&path, StoreConfig::new(DIM)).unwrap();
    let mut stores: [Store; 2] = [first, options.open(&path).unwrap()];
    let mut kept: Vec<(Snapshot, State)> = Vec::new();
    for op in ops {
        let wrote = match op.clone() {
            Op::Append(handle, policy, entries) => {
                let entries: Vec<(String, Option<Value>)> = entries
                    .into_iter()
                    .map(|(key, value)| (format!("k{key}"), value.map(Value::number)))
                    .collect();
                let after = model.after(&Change::Append(policy, entries.clone()));
                match append(&stores[usize::from(handle)], policy, &entries) {
                    Ok(said) => prop_assert_eq!(Some(said), model.appended(policy, &entries)),
                    Err(Error::DuplicateKey { count, .. }) => {
                        let duplicates = model.duplicates(&entries);
                        prop_assert_eq!((policy, count), (OnDuplicate::Error, duplicates));
                        prop_assert!(duplicates > 0);
                    }
                    Err(error) => return Err(fail(error.to_string())),
                }
                model = after;
                Some(handle)
            }
            Op::Setting(handle, name, value) => {
                let (name, value) = (name.to_string(), value.to_string());
                stores[usize::from(handle)].set_setting(&name, &value).unwrap();
                model = model.after(&Change::Setting(name, value));
                Some(handle)
            }
            Op::Fingerprint(handle, id) => {
                let fingerprint = Fingerprint::new([id; 32], "a model");
                match (stores[usize::from(handle)].set_fingerprint(&fingerprint), model.fingerprint) {
                    (Ok(()), None) => model.fingerprint = Some(id),
                    (Ok(()), Some(recorded)) => prop_assert_eq!(recorded, id),
                    (Err(Error::FingerprintMismatch { .. }), Some(recorded)) => prop_assert_ne!(recorded, id),
                    (other, recorded) => return Err(fail(format!("{other:?}, recorded: {recorded:?}"))),
                }
                None
            }
            Op::Checkpoint(handle) => {
                stores[usize::from(handle)].checkpoint().unwrap();
                Some(handle)
            }
            Op::Reopen(handle) => {
                stores[usize::from(handle)] = options.open(&path).unwrap();
                Some(handle)
            }
            Op::Refresh(handle) => {
                stores[usize::from(handle)].refresh().unwrap();
                Some(handle)
            }
            Op::Compact(handle, full) => {
                let store = &stores[usize::from(handle)];
                let done = if full { store.compact_full() } else { store.compact() }.unwrap();
                prop_assert!(done.segments_after <= 1 || !full);
                Some(handle)
            }
            Op::Name(handle, name) => {
                let store = &stores[usize::from(handle)];
                let name = format!("v{name}");
                match (store.create_version(&name), named.contains_key(&name)) {
                    (Ok(made), false) => {
                        prop_assert_eq!(made.last_commit, model.commits);
                        named.insert(name, model.clone());
                    }
                    (Err(Error::VersionExists { .. }), true) => {}
                    (other, there) => return Err(fail(format!("{other:?}, there: {there}"))),
                }
                Some(handle)
            }
            Op::DropName(handle, name) => {
                let name = format!("v{name}");
                let dropped = stores[usize::from(handle)].remove_version(&name);
                prop_assert_eq!(dropped.is_ok(), named.remove(&name).is_some());
                None
            }
            Op::Backup(handle) => {
                let store = &stores[usize::from(handle)];
                let dest = match &backup {
                    Some((dest, _)) => dest.clone(),
                    None => {
                        copies += 1;
                        first_path.with_extension(format!("backup{copies}"))
                    }
                };
                prop_assert_eq!(store.backup(&dest).unwrap().last_commit, model.commits);
                let reader = options.for_reading().open(&dest).unwrap();
                let state = State::read(&reader.snapshot()).map_err(fail)?;
                prop_assert_eq!(&state, &model, "the backup");
                backup = Some((dest, state));
                None
            }
            Op::Restore => {
                if let Some((from, state)) = backup.take() {
                    copies += 1;
                    let to = first_path.with_extension(format!("restored{copies}"));
                    restore(&from, &to).unwrap();
                    stores = [options.open(&to).unwrap(), options.open(&to).unwrap()];
                    path = to;
                    model = state;
                    // Versions belong to the former store.
                    named.clear();
                    Some(true)
                } else {
                    None
                }
            }
            Op::Keep(handle) => {
                let snapshot = stores[usize::from(handle)].snapshot();
                let state = State::read(&snapshot).map_err(fail)?;
                kept.push((snapshot, state));
                None
            }
        };
        // A handle that has just written or refreshed knows every commit.
        if let Some(handle) = wrote {
            prop_assert_eq!(
                &State::read(&stores[usize::from(handle)].snapshot()).map_err(fail)?,
                &model,
                "after {:?}",
                op
            );
        }
    }
    for (snapshot, state) in kept {
        prop_assert_eq!(State::read(&snapshot).map_err(fail)?, state, "a snapshot changed");
    }
    for (name, state) in named {
        let reader = options.for_reading().at_version(&name).open(&path).unwrap();
        let mut then = State::read(&reader.snapshot()).map_err(fail)?;
        // A version also keeps the settings and the fingerprint of its moment.
        then.commits = state.commits;
        prop_assert_eq!(then, state, "version {}", name);
    }
    drop(stores);
    let reader = options.for_reading().open(&path).unwrap();
    prop_assert_eq!(State::read(&reader.snapshot()).map_err(fail)?, model);
    Ok(path)
}

/// `all` cases if everything is tried, `few` in plain `cargo test`.
fn cases(all: u32, few: u32) -> ProptestConfig {
    let cases = full_or(all, few);
    let rng_seed = if is_random() { RngSeed::Random } else { RngSeed::Fixed(1) };
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(256, 128))]

    #[test]
    fn two_handles_agree_with_a_map(ops in prop::collection::vec(op(), 1..40)) {
        let fs = SimFs::new();
        let options = OpenOptions::new().vfs(Arc::new(fs.clone()));
        let restore = |from: &Path, to: &Path| vecstore::restore_on(&fs, from, to, &Progress::new());
        let path = run(&options, restore, Path::new(crate::sim::run::STORE), ops)?;
        let report = vecstore::verify_on(&fs, &path, &Progress::new()).unwrap();
        prop_assert!(report.is_whole(), "{:?}", report.faults);
    }
}

proptest! {
    #![proptest_config(cases(12, 12))]

    /// Random operations on the real file system.
    #[test]
    fn two_handles_agree_with_a_map_on_a_real_disk(ops in prop::collection::vec(op(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("s");
        let restore = |from: &Path, to: &Path| vecstore::restore(from, to);
        let path = run(&OpenOptions::new().verify_saves(true), restore, &path, ops)?;
        let report = vecstore::verify(&path).unwrap();
        prop_assert!(report.is_whole(), "{:?}", report.faults);
    }
}
