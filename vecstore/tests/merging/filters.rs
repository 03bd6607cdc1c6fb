//! Key filters of large segments: written by checkpoints and merges; listed, pinned, copied and removed like
//! bitmaps. No answer depends on them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::layout::{DERIVED_HEADER, seal_derived, seal_manifest};
use crate::common::{assert_whole, on_demand};
use vecstore::{DerivedInfo, OnDuplicate, ReadOptions, Reader, Store, StoreConfig};

/// Keys of a batch: more than a filter in memory is made for, so that the segment gets a filter file.
const MANY: usize = 70_000;

fn put(store: &Store, first: usize) {
    let mut batch = store.batch();
    (first..first + MANY).for_each(|number| batch.push(number.to_string(), &[1.0f32]).unwrap());
    store.append(&mut batch, OnDuplicate::Error).unwrap();
}

fn create(path: &Path, batches: usize) -> Store {
    let store = on_demand().create(path, StoreConfig::new(1)).unwrap();
    (0..batches).for_each(|batch| put(&store, batch * MANY));
    store
}

fn filters(path: &Path) -> Vec<PathBuf> {
    let Ok(names) = fs::read_dir(path.join("derived")) else { return Vec::new() };
    let mut names: Vec<PathBuf> = names.map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|kind| kind == "keyf"));
    names.sort();
    names
}

/// Number of keys that a new reader does not find, of `stored` stored keys and as many others.
fn missing(path: &Path, stored: usize) -> usize {
    let snapshot = ReadOptions::new().open(path).unwrap().snapshot();
    let keys: Vec<String> = (0..stored * 2).map(|number| number.to_string()).collect();
    let missing = snapshot.missing(&keys).unwrap();
    assert!(missing.iter().all(|position| *position >= stored), "a stored key is missing");
    assert!((0..10).all(|number| snapshot.contains(number.to_string()).unwrap()));
    missing.len()
}

#[test]
fn checkpoints_and_merges_leave_a_filter_for_each_large_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("s"), dir.path().join("b"));
    let store = create(&path, 2);
    let mut few = store.batch();
    few.push("few", &[1.0f32]).unwrap();
    store.append(&mut few, OnDuplicate::Error).unwrap();
    let of_batches = filters(&path);
    assert_eq!(of_batches.len(), 2, "the next batch has them, and of few keys none is written");
    store.close().unwrap();
    assert_eq!(filters(&path), of_batches);
    assert_eq!(missing(&path, 2 * MANY), 2 * MANY);
    assert_whole(&path);
    // Reopening and closing writes no filter again.
    on_demand().open(&path).unwrap().close().unwrap();
    assert_eq!(filters(&path), of_batches);

    let store = on_demand().open(&path).unwrap();
    store.create_version("before").unwrap();
    store.backup(&backup).unwrap();
    let listed = |files: vecstore::Result<Vec<DerivedInfo>>| -> Vec<PathBuf> {
        let files = files.unwrap();
        let is_right =
            |file: &DerivedInfo| file.kind == "KEYF" && fs::metadata(&file.path).unwrap().len() == file.bytes;
        assert!(files.iter().all(is_right), "{files:?}");
        files.into_iter().map(|file| file.path).collect()
    };
    assert_eq!(listed(Reader::open(store.path()).unwrap().derived_files()), of_batches);
    let names = |files: &[PathBuf]| -> Vec<String> {
        files.iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names(&filters(&backup)), names(&of_batches));
    store.compact_full().unwrap();
    assert_eq!(filters(&path).len(), 3, "those of the inputs are pinned");
    let then = ReadOptions::new().at_version("before").open(&path).unwrap();
    assert_eq!(listed(then.derived_files()), of_batches);
    assert!(!of_batches.contains(&listed(Reader::open(store.path()).unwrap().derived_files())[0]));
    assert_eq!(missing(&path, 2 * MANY), 2 * MANY);
    put(&store, 2 * MANY);
    store.remove_version("before").unwrap();
    store.compact_full().unwrap();
    assert_eq!(filters(&path).len(), 1);
    store.backup(&backup).unwrap();
    assert_eq!(names(&filters(&backup)), names(&filters(&path)));
    for path in [&path, &backup] {
        assert_eq!(missing(path, 3 * MANY), 3 * MANY);
        assert_whole(path);
    }
}

/// A filter that is damaged, or wrong under correct checksums.
#[test]
fn a_bad_filter_is_reported_and_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    create(&path, 1).close().unwrap();
    let file = filters(&path).pop().unwrap();
    let good = fs::read(&file).unwrap();
    let told = |what: &str| {
        let report = vecstore::verify(&path).unwrap();
        assert!(report.faults.iter().any(|fault| fault.path == file), "{what}: {:?}", report.faults);
        assert_eq!(report.faults.len(), 1, "{what}: {:?}", report.faults);
        report.faults[0].detail.clone()
    };
    let restore = || {
        fs::write(&file, &good).unwrap();
        assert_whole(&path);
    };
    // Damage in the header, in a block, and in the checksums of blocks.
    for at in [130, DERIVED_HEADER + 5000, good.len() - 3] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&file, bad).unwrap();
        assert_eq!(missing(&path, MANY), MANY, "byte {at}");
        told(&format!("byte {at}"));
        restore();
    }
    // A stored key missing in its filter could be written twice; only `verify` can notice that.
    let manifest = fs::read(path.join("MANIFEST")).unwrap();
    let mut wrong = good.clone();
    wrong[DERIVED_HEADER + 8 * 777..DERIVED_HEADER + 8 * 780].fill(0);
    let (old, new) = (good[DERIVED_HEADER - 4..DERIVED_HEADER].to_vec(), seal_derived(&mut wrong));
    let mut listed = manifest.clone();
    let at = listed.windows(4).rposition(|bytes| bytes == old).unwrap();
    listed[at..at + 4].copy_from_slice(&new);
    seal_manifest(&mut listed);
    fs::write(path.join("MANIFEST"), listed).unwrap();
    fs::write(&file, wrong).unwrap();
    assert_eq!(told("a key is not in it"), "a key of the segment is not in it");
    fs::write(path.join("MANIFEST"), manifest).unwrap();
    restore();
    // A repair sets a damaged filter aside; a writer does without it and writes another one.
    fs::write(&file, &good[..good.len() - 1]).unwrap();
    let copy = dir.path().join("copy");
    crate::common::copy_dir(&path, &copy);
    let report = vecstore::repair(&copy).unwrap();
    assert_eq!((report.findings.len(), report.lost_keys().count()), (1, 0), "{report:#?}");
    assert_whole(&copy);
    for path in [&path, &copy] {
        let store = on_demand().open(path).unwrap();
        assert!(store.append(&mut one(&store, "5"), OnDuplicate::Error).is_err(), "it is stored");
        store.append(&mut one(&store, "new"), OnDuplicate::Error).unwrap();
        store.close().unwrap();
        assert_eq!(filters(path).len(), 1);
        assert_ne!(filters(path)[0].file_name(), file.file_name(), "under another name");
        assert_whole(path);
    }
    // A block that is found damaged while the filter is used.
    let file = filters(&path).pop().unwrap();
    let mut bad = fs::read(&file).unwrap();
    bad[DERIVED_HEADER + 5000] ^= 1;
    fs::write(&file, bad).unwrap();
    let store = on_demand().open(&path).unwrap();
    let keys: Vec<String> = (0..MANY).map(|number| number.to_string()).collect();
    assert_eq!(store.snapshot().missing(&keys).unwrap(), Vec::<usize>::new());
    store.close().unwrap();
    assert_ne!(filters(&path), [file]);
    assert_whole(&path);
}

fn one(store: &Store, key: &str) -> vecstore::Batch {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32]).unwrap();
    batch
}
