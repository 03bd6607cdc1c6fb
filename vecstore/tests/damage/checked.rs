//! Handles that compare checksums while reading. Whichever byte of a segment is wrong, every returned value
//! is right, and the rest of the store can be read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use vecstore::{DType, Error, OnDuplicate, OpenOptions, ReadMode, ReadOptions, Snapshot, Store, StoreConfig};

use crate::common::on_demand;

const DIM: usize = 3;

/// Entries of each kind, with payloads and attributes. One entry is replaced, so that there is a kill.
fn filled(path: &Path, dtype: DType) {
    let store = on_demand().create(path, StoreConfig::new(DIM).dtype(dtype)).unwrap();
    let mut batch = store.batch();
    for number in 0..6 {
        let row = [number as f32 + 1.0, 2.0, 3.0];
        let entry = batch.entry(format!("key {number}")).converted(&row).converted(&row).payload(b"payload");
        entry.attribute("number", number).attribute("name", "x").push().unwrap();
    }
    batch.entry("rejected").payload(b"p").push_rejected("because").unwrap();
    batch.push_empty("empty").unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    batch.entry("key 3").converted(&[9.0, 9.0, 9.0]).attribute("number", 9).push().unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
    store.close().unwrap();
}

/// The parts of each key that were read; a damaged part is missing.
type Read = BTreeMap<(String, &'static str), String>;

/// Reads everything in every way. Damage is the only error that a caller may see.
fn read(snapshot: &Snapshot) -> Read {
    let mut found = Read::new();
    let mut note = |key: &str, part: &'static str, value: Result<String, Error>| match value {
        Ok(value) => drop(found.insert((key.to_owned(), part), value)),
        Err(Error::Damaged { .. }) => {}
        Err(error) => panic!("{key}: {part}: {error}"),
    };
    for number in 0..10 {
        let key = match number {
            6 => "rejected".to_owned(),
            7 => "empty".to_owned(),
            number => format!("key {number}"),
        };
        let entry = match snapshot.get(&key) {
            Ok(entry) => entry,
            Err(error) => {
                note(&key, "get", Err(error));
                continue;
            }
        };
        let facts = entry.map(|e| (e.kind(), e.row_count(), e.payload().to_vec(), e.address()));
        note(&key, "get", Ok(format!("{facts:?}")));
        let Some(entry) = entry else { continue };
        note(&key, "row at", snapshot.row_at(entry.address()).map(|row| format!("{row:?}")));
        note(&key, "rows", entry.to_f32().map(|rows| format!("{rows:?}")));
        note(&key, "attributes", entry.attributes().map(|all| format!("{all:?}")));
        note(&key, "reason", Ok(format!("{:?}", entry.reason())));
    }
    for entry in snapshot {
        match entry {
            Ok(entry) => {
                let key = String::from_utf8_lossy(entry.key()).into_owned();
                note(&key, "iterated", entry.to_f32().map(|rows| format!("{rows:?} {:?}", entry.payload())));
            }
            Err(error) => note("", "iterated", Err(error)),
        }
    }
    let hits = snapshot.search(&[1.0, 2.0, 3.0], 100).map(|hits| format!("{hits:?}"));
    note("", "search", hits);
    let asked: Vec<String> = (0..10).map(|number| format!("key {number}")).collect();
    note("", "missing", snapshot.missing(&asked).map(|missing| format!("{missing:?}")));
    for (number, segment) in snapshot.segments().enumerate() {
        let part = ["first matrix", "second matrix"][number];
        match snapshot.dtype() {
            DType::F32 => note("", part, segment.rows::<f32>().map(|rows| format!("{rows:?}"))),
            _ => note("", part, segment.quantized().map(|rows| format!("{rows:?}"))),
        }
    }
    found
}

/// Changes each byte in turn: every readable part must be as before. Returns the number of openings that
/// succeeded, and the number of whole stores that the parts read add up to.
fn each_flip(path: &Path, open: impl Fn(&Path) -> Result<Snapshot, Error>) -> (usize, usize) {
    let right = read(&open(path).unwrap());
    let mut files: Vec<PathBuf> =
        fs::read_dir(path.join("segments")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort_unstable();
    let (mut opened, mut parts) = (0, 0);
    for file in files {
        let bytes = fs::read(&file).unwrap();
        // Every byte, except that the long padding of the header is sampled.
        let places = (0..bytes.len()).filter(|at| *at < 128 || *at >= 4096 || at % 256 == 0);
        for at in places {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1 << (at % 8);
            // A new file: a mapping of the former file stays as it is.
            fs::remove_file(&file).unwrap();
            fs::write(&file, wrong).unwrap();
            match open(path) {
                Ok(snapshot) => {
                    let found = read(&snapshot);
                    for (part, value) in &found {
                        assert_eq!(right.get(part), Some(value), "{}, byte {at}: {part:?}", file.display());
                    }
                    (opened, parts) = (opened + 1, parts + found.len());
                }
                Err(
                    Error::Damaged { .. } | Error::ForeignSegment { .. } | Error::UnsupportedVersion { .. },
                ) => {}
                Err(error) => panic!("{}, byte {at}: {error}", file.display()),
            }
        }
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
    }
    (opened, parts / right.len().max(1))
}

#[test]
fn a_checking_reader_returns_nothing_wrong() {
    for dtype in [DType::F32, DType::I8] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        filled(&path, dtype);
        let (opened, parts) =
            each_flip(&path, |path| Ok(ReadOptions::new().check(true).open(path)?.snapshot()));
        // With most flips the store can be opened, and most of it can be read.
        assert!(opened > 1000 && parts > 300, "{opened} {parts}");
    }
}

#[test]
fn a_copying_reader_and_a_checking_writer_return_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, DType::F32);
    each_flip(&path, |path| Ok(ReadOptions::new().read_mode(ReadMode::Copied).open(path)?.snapshot()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, DType::F32);
    let store = OpenOptions::new().check(true).open(&path).unwrap();
    let mut batch = store.batch();
    batch.push("own", &[1.0f32; DIM]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let own = store.snapshot().segments().last().unwrap().info().path;
    let mut bytes = fs::read(&own).unwrap();
    bytes[4096] ^= 1;
    fs::write(&own, bytes).unwrap();
    let snapshot = store.snapshot();
    let entry = snapshot.get("own").unwrap().expect("its key is intact");
    assert!(matches!(entry.rows::<f32>(), Err(Error::Damaged { .. })), "also of the writer's own commit");
    assert!(snapshot.get("key 0").unwrap().unwrap().rows::<f32>().is_ok());
}

/// The reason for the option: a handle without it returns the bytes as they are.
#[test]
fn a_reader_without_checks_returns_a_changed_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, DType::F32);
    let file = Store::open(&path).unwrap().snapshot().segments().next().unwrap().info().path;
    let mut bytes = fs::read(&file).unwrap();
    bytes[4096 + 3] ^= 0x10;
    fs::write(&file, bytes).unwrap();
    let rows = |options: ReadOptions| {
        let snapshot = options.open(&path).unwrap().snapshot();
        let entry = snapshot.get("key 0").unwrap().unwrap();
        entry.rows::<f32>().map(<[f32]>::to_vec)
    };
    assert_ne!(rows(ReadOptions::new()).unwrap()[0], 1.0);
    assert!(matches!(rows(ReadOptions::new().check(true)), Err(Error::Damaged { .. })));
}
