//! Salvage: counts the loss that a repair would have, and reads the entries that it would keep.

use std::fs;
use std::path::{Path, PathBuf};

use vecstore::{Error, OnDuplicate, Reader, Store, StoreConfig, repair, salvage};

use crate::common::{assert_whole, copy_dir, on_demand};

/// Three segments of ten new keys each; the second also replaces key 5.
fn filled(path: &Path) -> Vec<PathBuf> {
    let store = on_demand().create(path, StoreConfig::new(2)).unwrap();
    for part in 0..3 {
        let mut batch = store.batch();
        for number in 10 * part..10 * (part + 1) {
            let entry = batch.entry(format!("{number}")).row(&[number as f32, 1.0]);
            entry.payload(b"payload").attribute("number", i64::from(number)).push().unwrap();
        }
        if part == 1 {
            batch.push("5", &[55.0f32, 1.0]).unwrap();
        }
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    }
    let files = store.snapshot().segments().map(|segment| segment.info().path).collect();
    store.close().unwrap();
    files
}

/// Key, vectors, payload and attributes.
type Whole = (Vec<u8>, Vec<f32>, Vec<u8>, String);

/// The entries of a snapshot, each whole.
fn contents(snapshot: &vecstore::Snapshot) -> Vec<Whole> {
    let read = |entry: vecstore::Result<vecstore::Entry<'_>>| {
        let entry = entry.unwrap();
        let attributes = format!("{:?}", entry.attributes().unwrap());
        (entry.key().to_vec(), entry.to_f32().unwrap(), entry.payload().to_vec(), attributes)
    };
    snapshot.iter().map(read).collect()
}

/// Damages a store, and compares the salvaged entries with the entries after a repair. Returns their number
/// and the loss.
fn salvaged(damage: impl Fn(&Path, &[PathBuf])) -> (usize, vecstore::Loss) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let files = filled(&path);
    damage(&path, &files);
    let before = dir.path().join("before");
    copy_dir(&path, &before);
    let (snapshot, report) = salvage(&path).unwrap();
    assert!(report.dry_run);
    for (name, there) in [("segments", files.len()), ("quarantine", 0)] {
        let found = fs::read_dir(path.join(name)).map_or(0, Iterator::count);
        assert!(found <= there, "{name} is as it was");
    }
    let rescued = contents(&snapshot);
    let repaired = repair(&path).unwrap();
    assert_eq!(report.loss(), repaired.loss());
    assert_eq!(rescued, contents(&Reader::open(&path).unwrap().snapshot()));
    assert_whole(&path);
    (rescued.len(), repaired.loss())
}

#[test]
fn a_whole_store_is_salvaged_whole() {
    let (entries, loss) = salvaged(|_, _| ());
    assert!(loss.is_none());
    assert_eq!(entries, 30);
}

#[test]
fn a_missing_segment_is_a_loss_without_names() {
    let (entries, loss) = salvaged(|path, files| {
        fs::remove_file(&files[1]).unwrap();
        assert!(matches!(Reader::open(path), Err(Error::MissingSegment { .. } | Error::Damaged { .. })));
        let report = vecstore::verify(path).unwrap();
        assert!(!report.is_whole());
        assert_eq!((report.intact_entries, report.intact_rows), (20, 20));
    });
    assert_eq!(entries, 19, "the older entry of key 5 stays replaced: a liveness bitmap says so");
    assert_eq!((loss.keys, loss.unnamed_entries), (1, 0), "key 5, whose newer entry was in the segment");
    assert_eq!((loss.unknown_files, loss.unknown_entries, loss.unlisted_files), (1, 11, 0));
}

/// Without a manifest, the files alone show that one of them is missing.
#[test]
fn verify_without_a_manifest_names_the_missing_segment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let files = filled(&path);
    fs::remove_file(path.join("MANIFEST")).unwrap();
    let report = vecstore::verify(&path).unwrap();
    assert_eq!((report.faults.len(), report.last_commit), (1, 3), "{:?}", report.faults);
    fs::remove_file(&files[1]).unwrap();
    let report = vecstore::verify(&path).unwrap();
    let told: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    assert!(
        told.iter().any(|fault| fault.ends_with("the segment that holds commit 2 is missing")),
        "{told:?}"
    );
    assert!(told.iter().all(|fault| fault.matches("MANIFEST").count() < 2), "{told:?}");
    let repaired = repair(&path).unwrap();
    let notes = repaired.findings.iter().flat_map(|finding| &finding.notes);
    assert!(notes.clone().any(|note| note.starts_with("settings that were recorded")), "{repaired:?}");
}

/// A version lists each of the lost files; in the store they are one gap. The loss counts them once.
#[test]
fn files_that_a_version_lists_too_are_lost_once() {
    let (_, loss) = salvaged(|path, files| {
        let store = on_demand().open(path).unwrap();
        store.create_version("v").unwrap();
        store.close().unwrap();
        files[1..].iter().for_each(|file| fs::remove_file(file).unwrap());
    });
    assert_eq!((loss.unknown_files, loss.unknown_entries), (1, 21));
}

#[test]
fn a_truncated_segment_is_a_loss_without_names() {
    let (_, loss) = salvaged(|_, files| {
        fs::File::options().write(true).open(&files[2]).unwrap().set_len(100).unwrap();
    });
    assert_eq!((loss.keys, loss.unknown_files, loss.unknown_entries), (0, 1, 10));
    assert!(!loss.is_none());
}

#[test]
fn a_missing_manifest_loses_nothing() {
    let (entries, loss) = salvaged(|path, _| fs::remove_file(path.join("MANIFEST")).unwrap());
    assert_eq!(entries, 30);
    assert!(loss.is_none());
}

#[test]
fn a_changed_row_is_a_loss_with_names() {
    let (entries, loss) = salvaged(|_, files| {
        let mut bytes = fs::read(&files[0]).unwrap();
        bytes[4096 + 8 * 4] ^= 1;
        fs::write(&files[0], bytes).unwrap();
    });
    // All ten rows are in one block; the newer entry of key 5 is in another file.
    assert_eq!(entries, 21);
    assert_eq!((loss.keys, loss.unknown_files), (9, 0));
}

#[test]
fn a_salvage_of_no_store_fails_and_of_an_empty_store_works() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(salvage(dir.path().join("none")), Err(Error::NotFound { .. })));
    drop(Store::create(dir.path().join("s"), StoreConfig::new(1)).unwrap());
    assert!(salvage(dir.path().join("s")).unwrap().0.is_empty());
}
