//! Segments read into memory instead of mapped: files that go bad meanwhile are errors, or do not matter.

use std::fs::File;
use std::path::Path;

use vecstore::{Error, OnDuplicate, OpenOptions, Reading, Store, StoreConfig};

const DIM: usize = 4096;

fn filled(path: &Path) -> Store {
    let store = Store::create(path, StoreConfig::new(DIM)).unwrap();
    for number in 0..3 {
        let mut batch = store.batch();
        batch.push_with(format!("{number}"), &vec![number as f32; DIM], b"payload").unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    store
}

fn assert_whole(store: &Store, entries: usize) {
    let snapshot = store.snapshot();
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
fn a_file_that_is_cut_off_meanwhile_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let copied = OpenOptions::new().reading(Reading::Copied);
    drop(filled(&path));
    let store = copied.clone().read_only(true).open(&path).unwrap();
    for segment in store.snapshot().segments() {
        // What ends a process that has mapped it.
        File::options().write(true).open(segment.path).unwrap().set_len(100).unwrap();
    }
    assert_whole(&store, 3);
    let error = copied.open(&path).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("segments"), "{error}");
}

#[test]
fn a_writer_may_copy_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(filled(&path));
    let store = OpenOptions::new().reading(Reading::Copied).open(&path).unwrap();
    let mut batch = store.batch();
    batch.push_with("3", &vec![3.0f32; DIM], b"payload").unwrap();
    batch.push("2", &vec![9.0f32; DIM]).unwrap();
    let appended = store.append(&mut batch, OnDuplicate::Skip).unwrap();
    assert_eq!((appended.entries, appended.skipped), (1, 1));
    assert_whole(&store, 4);
    // Its own commit is read, too: cut off, the file would end a process that has mapped it.
    let own = store.snapshot().segments().last().unwrap().path;
    let bytes = std::fs::read(&own).unwrap();
    File::options().write(true).open(&own).unwrap().set_len(100).unwrap();
    assert_whole(&store, 4);
    std::fs::write(&own, bytes).unwrap();
    store.compact_full().unwrap();
    assert_whole(&store, 4);
    store.close().unwrap();
    assert_whole(&Store::open(&path).unwrap(), 4);
}
