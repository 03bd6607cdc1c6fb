//! Backups copy files unless links are requested; with a version they hold the version's state; dated backups
//! link to each other.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vecstore::{BackupOptions, Error, OnDuplicate, Reader, Store, StoreConfig};

use crate::common::{assert_whole, on_demand};

fn put(store: &Store, key: &str) {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
}

/// A store with three segments, and a liveness bitmap.
fn filled(path: &Path) -> Store {
    let store = on_demand().create(path, StoreConfig::new(1)).unwrap();
    ["a", "b"].iter().for_each(|key| put(&store, key));
    store.delete(&["a"]).unwrap();
    store.checkpoint().unwrap();
    store
}

/// Number of files of a store that have a second name.
fn linked(path: &Path) -> usize {
    let folders = ["segments", "derived"].map(|name| path.join(name));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    files.filter(|file| file.as_ref().unwrap().metadata().unwrap().nlink() > 1).count()
}

#[test]
fn a_backup_shares_files_with_its_store_only_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path);
    let (copy, link) = (dir.path().join("copy"), dir.path().join("link"));
    let report = store.backup(&copy).unwrap();
    assert_eq!((report.copied, report.linked, linked(&copy), linked(&path)), (3, 0, 0, 0));
    assert!(fs::read_dir(copy.join("derived")).unwrap().count() > 0, "derived files are copied, too");
    let report = store.backup_with(&link, BackupOptions::new().link(true)).unwrap();
    assert_eq!((report.copied, report.linked), (0, 3));
    assert_eq!(linked(&link), linked(&path));
    assert!(linked(&link) > 3);
    // A byte that changes in the store does not change in the copy.
    let file = store.snapshot().segments().next().unwrap().info().path;
    store.close().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[4096] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_whole(&copy);
    assert!(!vecstore::verify(&link).unwrap().is_whole());
}

#[test]
fn a_backup_of_a_version_holds_its_entries() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("s"));
    store.create_version("v").unwrap();
    put(&store, "c");
    store.compact_full().unwrap();
    let dest = dir.path().join("backup");
    let report = store.backup_with(&dest, BackupOptions::new().at_version("v")).unwrap();
    assert_eq!(report.last_commit, 3);
    let snapshot = Reader::open(&dest).unwrap().snapshot();
    assert!(snapshot.contains("b").unwrap() && !snapshot.contains("c").unwrap());
    assert_whole(&dest);
    // The present state continues the backup; the version is older than the backup then.
    assert_eq!(store.backup(&dest).unwrap().last_commit, 4);
    let error = store.backup_with(&dest, BackupOptions::new().at_version("v")).unwrap_err();
    assert!(matches!(error, Error::BackupRefused { .. }), "{error}");
    let error = store.backup_with(&dest, BackupOptions::new().at_version("none")).unwrap_err();
    assert!(matches!(error, Error::NoSuchVersion { .. }), "{error}");
    assert_eq!(store.versions().unwrap().len(), 1, "no pin is left");
}

#[test]
fn backups_side_by_side_link_to_each_other_and_not_to_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path);
    let report = |name: &str| {
        let options = BackupOptions::new().keep(2);
        store.backup_with(dir.path().join("nights").join(name), options).unwrap()
    };
    assert_eq!(report("night-1").copied, 3);
    put(&store, "c");
    let second = report("night-2");
    assert_eq!((second.copied, second.linked), (1, 3));
    assert_eq!(linked(&path), 0);
    assert_eq!(report("night-3").removed, 1);
}
