//! Restoring a version in one commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vecstore::{Error, OnDuplicate, Snapshot, Store, StoreConfig};

use crate::common::hooked::Hooked;
use crate::common::{assert_whole, on_demand};

type Contents = BTreeMap<Vec<u8>, (String, Vec<f32>, Vec<u8>, String)>;

/// The whole content of the entries, by key.
fn contents(snapshot: &Snapshot) -> Contents {
    let read = |entry: vecstore::Result<vecstore::Entry<'_>>| {
        let entry = entry.unwrap();
        let attributes = format!("{:?} {:?}", entry.attributes().unwrap(), entry.reason());
        let facts = (entry.kind().to_string(), entry.to_f32().unwrap(), entry.payload().to_vec(), attributes);
        (entry.key().to_vec(), facts)
    };
    snapshot.iter().map(read).collect()
}

/// A store with a version, and after it keys that are replaced, deleted, deleted and stored again, or added.
fn changed(dir: &tempfile::TempDir) -> (Store, Contents) {
    let store = on_demand().create(dir.path().join("s"), StoreConfig::new(1)).unwrap();
    let mut batch = store.batch();
    for (number, key) in ["same", "replaced", "deleted", "again"].iter().enumerate() {
        let entry = batch.entry(key).row(&[number as f32]).payload(key);
        entry.attribute("year", 2000 + number as i64).push().unwrap();
    }
    batch.entry("rejected").payload(b"p").push_rejected("because").unwrap();
    batch.push_empty("empty").unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    store.create_version("good").unwrap();
    let good = contents(&store.snapshot());
    store.delete(&["deleted", "again", "rejected"]).unwrap();
    batch.push("replaced", &[8.0f32]).unwrap();
    batch.push("again", &[9.0f32]).unwrap();
    batch.push("added", &[10.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
    (store, good)
}

#[test]
fn a_restored_version_has_its_entries_in_one_commit() {
    for merged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (store, good) = changed(&dir);
        if merged {
            store.compact_full().unwrap();
        }
        let before = store.snapshot();
        let done = store.restore_version("good").unwrap();
        assert_eq!(done.commit, Some(before.last_commit() + 1));
        assert_eq!((done.entries, done.replaced, done.deleted), (4, 2, 1), "merged: {merged}");
        assert_eq!(contents(&store.snapshot()), good);
        assert!(!contents(&before).contains_key(&b"deleted"[..]), "the earlier snapshot stays as it was");
        // The restored entries are new ones of the same content; the version stays.
        assert_eq!(store.versions().unwrap().len(), 1);
        store.close().unwrap();
        assert_whole(&dir.path().join("s"));
    }
}

#[test]
fn restoring_the_present_state_commits_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = changed(&dir);
    store.create_version("now").unwrap();
    assert_eq!(store.restore_version("now").unwrap().commit, None);
    assert!(matches!(store.restore_version("never"), Err(Error::NoSuchVersion { .. })));
    assert!(matches!(store.create_version("now"), Err(Error::VersionExists { .. })));
}

/// Another handle commits while the difference is computed. The restoration starts again, and its commit
/// removes the other handle's entries, which the version does not have.
#[test]
fn a_restoration_starts_again_after_a_commit_of_another_handle() {
    let dir = tempfile::tempdir().unwrap();
    let (store, good) = changed(&dir);
    let path = store.path().to_owned();
    store.close().unwrap();
    let (other, left) = (on_demand().open(&path).unwrap(), Arc::new(AtomicU64::new(2)));
    let fs = Hooked::new(move |call, path| {
        // The version is read right after the present state.
        let is_version = call == "read" && path.ends_with("versions/good");
        let take = |left: u64| left.checked_sub(1);
        if is_version && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            let mut batch = other.batch();
            batch.push(format!("between {}", left.load(Ordering::SeqCst)), &[1.0f32]).unwrap();
            other.append(&mut batch, OnDuplicate::Error).unwrap();
        }
    });
    let store = on_demand().vfs(fs).open(&path).unwrap();
    let done = store.restore_version("good").unwrap();
    assert_eq!(done.deleted, 3, "what came in between is not in the version");
    assert_eq!(contents(&store.snapshot()), good);
}
