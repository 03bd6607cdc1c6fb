//! The folder of liveness bitmaps: when it is created, what happens if it cannot be, and files in it that are
//! not those the manifest lists.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::on_demand;
use crate::sim::run::{STORE, options};
use crate::sim::{Call, Fault, SimFs};
use vecstore::{OnDuplicate, Reader, Store, StoreConfig};

/// Permission denied, from linux/errno.h.
const EACCES: i32 = 13;

fn put(store: &Store, keys: &[&str]) {
    let mut batch = store.batch();
    keys.iter().for_each(|key| batch.push(key, &[1.0f32]).unwrap());
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

/// Writes `key` twice and makes a checkpoint; returns the checkpoint's calls.
fn checkpoint(fs: &SimFs, store: &Store, key: &str) -> Vec<Call> {
    (0..2).for_each(|_| put(store, &[key]));
    let before = fs.calls().len();
    store.checkpoint().unwrap();
    fs.calls_from(before)
}

fn of<'a>(calls: &'a [Call], path: &str) -> Vec<&'a str> {
    let path = Path::new(STORE).join(path);
    calls.iter().filter(|call| call.path == path && call.what != "list").map(|call| call.what).collect()
}

/// A folder that no manifest relies on may be left by a process that died before its name was durable: it is
/// created anew.
#[test]
fn the_folder_of_bitmaps_is_created_once() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
    let calls = checkpoint(&fs, &store, "a");
    assert_eq!(of(&calls, "derived"), ["remove directory", "create directory", "flush directory"]);
    assert_eq!(of(&calls, ""), ["flush directory"; 2], "its name, and the manifest's");
    let calls = checkpoint(&fs, &store, "b");
    assert_eq!(of(&calls, "derived"), ["create directory", "flush directory"]);
    assert_eq!(of(&calls, ""), ["flush directory"], "the manifest's name");
}

/// If the folder cannot be created, the checkpoint is made without bitmaps.
#[test]
fn a_checkpoint_does_without_a_folder_that_cannot_be_created() {
    let run = |fault: Option<Fault>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
        fs.set_fault(fault);
        let calls = checkpoint(&fs, &store, "a");
        (fs, store, calls)
    };
    let (fs, ..) = run(None);
    let at = fs
        .calls()
        .iter()
        .position(|call| call.what == "create directory" && call.path.ends_with("s/derived"));
    let (fs, store, calls) = run(Some(Fault { at: at.unwrap(), errno: EACCES, lasting: false }));
    assert_eq!(of(&calls, "derived"), ["remove directory", "create directory"]);
    assert_eq!(of(&calls, ""), ["flush directory"], "the manifest's name");
    assert!(!fs.exists("/d/s/derived"));
    // The next checkpoint creates the folder.
    let calls = checkpoint(&fs, &store, "b");
    assert_eq!(of(&calls, "derived"), ["remove directory", "create directory", "flush directory"]);
    assert_eq!(fs.names("/d/s/derived").len(), 2);
}

fn bitmaps(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path.join("derived")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Entries that the totals count, and entries that an iteration shows.
fn entries(path: &Path) -> (u64, usize) {
    let snapshot = Reader::open(path).unwrap().snapshot();
    (snapshot.totals().entries, snapshot.iter().count())
}

/// An older, intact bitmap of the same segment under the name of the newest.
#[test]
fn an_older_bitmap_under_the_newest_name_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = on_demand().create(&path, StoreConfig::new(1)).unwrap();
    put(&store, &["a", "b", "c"]);
    store.delete(&["a"]).unwrap();
    store.checkpoint().unwrap();
    let older = fs::read(&bitmaps(&path)[0]).unwrap();
    store.delete(&["b"]).unwrap();
    store.checkpoint().unwrap();
    let newest = &bitmaps(&path)[0];
    assert_eq!(entries(&path), (1, 1));
    fs::write(newest, older).unwrap();
    assert_eq!(entries(&path), (1, 1), "what was deleted stays deleted");
    let report = vecstore::verify(&path).unwrap();
    assert_eq!(report.faults.iter().map(|fault| &fault.path).collect::<Vec<_>>(), [newest]);
}

/// The generation of the manifest.
fn generation(path: &Path) -> u64 {
    u64::from_le_bytes(fs::read(path.join("MANIFEST")).unwrap()[48..56].try_into().unwrap())
}

/// Damaged bitmaps are written anew once, and used from then on.
#[test]
fn bitmaps_written_anew_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = on_demand().create(&path, StoreConfig::new(1)).unwrap();
    put(&store, &["a", "b"]);
    put(&store, &["a"]);
    store.close().unwrap();
    fs::write(&bitmaps(&path)[0], "nothing").unwrap();
    let store = on_demand().open(&path).unwrap();
    store.checkpoint().unwrap();
    assert!(vecstore::verify(&path).unwrap().is_whole());
    let (anew, written) = (bitmaps(&path), generation(&path));
    store.checkpoint().unwrap();
    assert_eq!((bitmaps(&path), generation(&path)), (anew.clone(), written + 1), "kept");
    store.close().unwrap();
    assert_eq!((bitmaps(&path), generation(&path)), (anew, written + 1), "nothing is left to do");
}

/// An automatic checkpoint leaves out bitmaps with few superseded entries. If none is superseded, closing has
/// nothing to make up for.
#[test]
fn closing_writes_no_bitmaps_if_no_entry_is_superseded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = on_demand().create(&path, StoreConfig::new(1)).unwrap();
    let before = generation(&path);
    (0..64).for_each(|i| put(&store, &[&i.to_string()]));
    assert_eq!(generation(&path), before + 1, "after 64 commits");
    store.close().unwrap();
    assert_eq!(generation(&path), before + 1);
}

/// A bitmap whose segment cannot be opened is useless, but no damage of its own.
#[test]
fn a_damaged_segment_with_a_bitmap_is_one_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = on_demand().create(&path, StoreConfig::new(1)).unwrap();
    put(&store, &["a", "b"]);
    put(&store, &["a"]);
    store.close().unwrap();
    let segment = path.join("segments/0000000001-0000000001.0.npy");
    fs::File::options().write(true).open(&segment).unwrap().set_len(5000).unwrap();
    let report = vecstore::verify(&path).unwrap();
    assert_eq!(report.faults.iter().map(|fault| &fault.path).collect::<Vec<_>>(), [&segment]);
}
