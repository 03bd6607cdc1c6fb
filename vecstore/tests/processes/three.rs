//! Three processes change one store at the same time, each checked against a map of its own.
//!
//! The processes are this test program, started again to run only [`one_process`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::one_test;
use vecstore::{Address, OnDuplicate, OpenOptions, Store, StoreConfig};

const STORE: &str = "VECSTORE_TEST_STORE";
const NAME: &str = "VECSTORE_TEST_NAME";
const OPERATIONS: u64 = 150;
/// Operations after which a process prints a line.
const LINE_EVERY: u64 = 10;
/// The end of these lines.
const OPERATION: &str = "operations";

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// The keys of one process: value, and address of the row.
type Model = BTreeMap<String, (f32, Address)>;

#[test]
#[ignore = "started by the test below, in a process of its own"]
fn one_process() {
    let (Some(path), Ok(name)) = (std::env::var_os(STORE), std::env::var(NAME)) else {
        panic!("set {STORE} and {NAME}");
    };
    let path = PathBuf::from(path);
    let mut random = Random(name.bytes().map(u64::from).sum());
    let mut store = Store::open(&path).unwrap();
    let mut model = Model::new();
    let mut named = false;
    for number in 0..OPERATIONS {
        match random.below(20) {
            0..12 => {
                // A process replaces its own keys; a shared key belongs to the first process that appends it.
                let key = format!("{name}/{}", random.below(40));
                let mut batch = store.batch();
                batch.push(&key, &[number as f32, 1.0]).unwrap();
                let done = store.append(&mut batch, OnDuplicate::Replace).unwrap();
                model.insert(key, (number as f32, Address { commit: done.commit.unwrap(), row: 0 }));
                let mut batch = store.batch();
                batch.push(format!("shared/{}", number / 3), &[name.len() as f32, 2.0]).unwrap();
                store.append(&mut batch, OnDuplicate::Skip).unwrap();
            }
            12..15 => {
                let keys: Vec<String> = model.keys().filter(|_| random.below(8) == 0).cloned().collect();
                let done = store.delete(&keys).unwrap();
                assert_eq!(done.deleted, keys.len() as u64);
                model.retain(|key, _| !keys.contains(key));
            }
            15 => drop(store.compact().unwrap()),
            16 => drop(store.compact_full().unwrap()),
            17 => {
                if named {
                    store.remove_version(&name).unwrap();
                } else {
                    store.create_version(&name).unwrap();
                }
                named = !named;
            }
            18 => {
                let snapshot = store.refresh().unwrap();
                for (key, (value, address)) in &model {
                    let entry = snapshot.get(key).unwrap().unwrap();
                    assert_eq!(entry.rows::<f32>().unwrap(), [*value, 1.0]);
                    assert_eq!(entry.address(), *address);
                    assert_eq!(snapshot.row_at(*address).unwrap().unwrap(), [*value, 1.0]);
                }
            }
            _ => store = Store::open(&path).unwrap(),
        }
        if number % LINE_EVERY == 0 {
            // Not `println`, because the test harness captures its output.
            writeln!(std::io::stdout(), "{number} {OPERATION}").unwrap();
        }
    }
    store.close().unwrap();
    let lines: Vec<String> =
        model.iter().map(|(key, (value, address))| format!("{key} {value} {address}")).collect();
    std::fs::write(path.with_extension(&name), lines.join("\n")).unwrap();
}

fn start(path: &Path, name: &str) -> std::process::Child {
    let words = one_test("three::one_process");
    Command::new(&words[0])
        .args(&words[1..])
        .envs([(STORE, path.as_os_str()), (NAME, name.as_ref())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn three_processes_agree_with_their_maps_and_with_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    Store::create(&path, StoreConfig::new(2)).unwrap().close().unwrap();
    let names = ["a", "bb", "ccc"];
    let mut children: Vec<_> = names.iter().map(|name| start(&path, name)).collect();

    // A reader and a backup go on meanwhile: every snapshot is whole. The tenth line comes while there is
    // still much to do.
    let watcher = OpenOptions::new().open(&path).unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(children[0].stdout.take().unwrap());
    for _ in 0..10 {
        let before = said.len();
        while !said[before..].trim_end().ends_with(OPERATION) {
            assert!(lines.read_line(&mut said).unwrap() > 0, "it ended before its time: {said}");
        }
        let snapshot = watcher.refresh().unwrap();
        let mut keys: Vec<&[u8]> = snapshot.iter().map(|entry| entry.unwrap().key()).collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!((keys.len(), snapshot.totals().entries), (count, count as u64));
    }
    let backup = path.with_extension("backup");
    watcher.backup(&backup).unwrap();
    assert!(vecstore::verify(&backup).unwrap().is_whole());

    lines.read_to_string(&mut said).unwrap();
    for child in children {
        let output = child.wait_with_output().unwrap();
        said.push_str(&String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(std::mem::take(&mut said).contains("1 passed"));
    }
    let snapshot = watcher.refresh().unwrap();
    let mut expected: BTreeMap<String, (f32, String)> = BTreeMap::new();
    for name in names {
        for line in std::fs::read_to_string(path.with_extension(name)).unwrap().lines() {
            let mut parts = line.split(' ');
            let mut next = || parts.next().unwrap().to_owned();
            let (key, value, address) = (next(), next(), next());
            expected.insert(key, (value.parse().unwrap(), address));
        }
    }
    let mut found = BTreeMap::new();
    let mut shared = 0;
    let mut last = (0, 0);
    for entry in snapshot.iter() {
        let entry = entry.unwrap();
        let address = entry.address();
        assert!((address.commit, address.row + 1) > last, "in commit order");
        last = (address.commit, address.row + 1);
        let key = String::from_utf8(entry.key().to_vec()).unwrap();
        if key.starts_with("shared/") {
            shared += 1;
        } else {
            found.insert(key, (entry.rows::<f32>().unwrap()[0], address.to_string()));
        }
    }
    assert_eq!(found, expected);
    assert!(shared > 0);
    let report = vecstore::verify(&path).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
}
