//! `ReadMode::Copied` reads segments into memory instead of mapping them. Damage done to a file afterwards
//! does not matter; damage on opening is an error.

use std::fs::File;
use std::path::Path;

use vecstore::{Error, OnDuplicate, OpenOptions, ReadMode, ReadOptions, Snapshot, Store, StoreConfig};

const DIM: usize = 4096;

fn filled(path: &Path) -> Store {
    let store = Store::create(path, StoreConfig::new(DIM)).unwrap();
    for number in 0..3 {
        let mut batch = store.batch();
        batch.entry(format!("{number}")).row(&vec![number as f32; DIM]).payload(b"payload").push().unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    store
}

fn assert_whole(snapshot: &Snapshot, entries: usize) {
    assert_eq!(snapshot.iter().count(), entries);
    for number in 0..entries {
        let entry = snapshot.get(format!("{number}")).unwrap().unwrap();
        assert_eq!(entry.rows::<f32>().unwrap(), vec![number as f32; DIM]);
        assert_eq!(entry.payload(), b"payload");
    }
    let mut query = vec![0.0; DIM];
    query[0] = 1.0;
    assert_eq!(snapshot.search(&query, 1).unwrap().len(), 1);
}

#[test]
fn a_file_cut_off_after_it_was_copied_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let copied = ReadOptions::new().read_mode(ReadMode::Copied);
    drop(filled(&path));
    let reader = copied.open(&path).unwrap();
    for segment in reader.snapshot().segments() {
        // A process that had mapped the file would be ended by SIGBUS.
        File::options().write(true).open(segment.info().path).unwrap().set_len(100).unwrap();
    }
    assert_whole(&reader.snapshot(), 3);
    let error = copied.open(&path).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("segments"), "{error}");
}

#[test]
fn a_writer_may_copy_segments_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(filled(&path));
    let store = OpenOptions::new().read_mode(ReadMode::Copied).open(&path).unwrap();
    let mut batch = store.batch();
    batch.entry("3").row(&vec![3.0f32; DIM]).payload(b"payload").push().unwrap();
    batch.push("2", &vec![9.0f32; DIM]).unwrap();
    let appended = store.append(&mut batch, OnDuplicate::Skip).unwrap();
    assert_eq!((appended.entries, appended.skipped), (1, 1));
    assert_whole(&store.snapshot(), 4);
    // The writer's own commit is in memory too. In a mapping, the cut file would end the process.
    let own = store.snapshot().segments().last().unwrap().info().path;
    let bytes = std::fs::read(&own).unwrap();
    File::options().write(true).open(&own).unwrap().set_len(100).unwrap();
    assert_whole(&store.snapshot(), 4);
    std::fs::write(&own, bytes).unwrap();
    store.compact_full().unwrap();
    assert_whole(&store.snapshot(), 4);
    store.close().unwrap();
    assert_whole(&Store::open(&path).unwrap().snapshot(), 4);
}
