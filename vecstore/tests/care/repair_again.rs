//! What happens after a repair, or in a second one: nothing that may still be needed goes, and nothing is
//! called whole that is not.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{assert_whole, copy_dir, on_demand};
use vecstore::{OnDuplicate, RepairReport, Store, StoreConfig};

fn segment(path: &Path, first: u64, last: u64, generation: u32) -> PathBuf {
    path.join("segments").join(format!("{first:010}-{last:010}.{generation}.npy"))
}

/// Flips a bit in this section of a segment: its place is in the footer (docs/FORMAT.md).
fn hit(path: &Path, section: &str) {
    let mut bytes = fs::read(path).unwrap();
    let footer = bytes[bytes.len() - 1024..].to_vec();
    let lines = (0..usize::from(footer[179])).map(|line| &footer[376 + 32 * line..][..32]);
    let line = lines.into_iter().find(|line| &line[..4] == section.as_bytes()).unwrap();
    let at = u64::from_le_bytes(line[8..16].try_into().unwrap());
    bytes[at as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn put(store: &Store, key: &str) {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32, 2.0]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

/// A store with commits 1 to `commits`, one key each.
fn filled(path: &Path, commits: u64) -> Store {
    let store = on_demand().create(path, StoreConfig::new(2)).unwrap();
    (1..=commits).for_each(|commit| put(&store, &format!("k{commit}")));
    store
}

fn says_loss(report: &RepairReport) -> bool {
    report.findings.iter().any(|finding| finding.lost_unknown || !finding.lost_keys.is_empty())
}

/// Whether this file lies in quarantine/ under any name.
fn is_quarantined(path: &Path, bytes: &[u8]) -> bool {
    let names = fs::read_dir(path.join("quarantine")).unwrap();
    names.map(|entry| entry.unwrap().path()).any(|path| fs::read(path).unwrap() == bytes)
}

#[test]
fn what_has_content_is_better_than_what_a_repair_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path, 3);
    store.create_version("p").unwrap();
    store.compact_full().unwrap();
    store.close().unwrap();
    // First an input that only the checkpoint needs; then the index of the output, which costs no entry.
    hit(&segment(&path, 2, 2, 0), "ROWS");
    vecstore::repair(&path).unwrap();
    hit(&segment(&path, 1, 3, 0), "HASH");
    vecstore::repair(&path).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.snapshot().missing(&["k1", "k2", "k3"]).unwrap(), Vec::<usize>::new());
    drop(store);
    assert_whole(&path);
}

#[test]
fn a_number_that_may_have_been_given_is_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = filled(&path, 3);
    writer.checkpoint().unwrap();
    put(&writer, "k4");
    // Another file of the same name: the writer still has the whole one mapped.
    let last = segment(&path, 4, 4, 0);
    fs::remove_file(&last).unwrap();
    fs::write(&last, b"").unwrap();
    assert!(says_loss(&vecstore::repair(&path).unwrap()));
    let other = on_demand().open(&path).unwrap();
    put(&other, "other");
    assert_eq!(other.snapshot().last_commit(), 5);
    drop(other);
    // The writer goes on with what there is now, and the store stays whole.
    let mut batch = writer.batch();
    batch.push("k5", &[1.0f32, 2.0]).unwrap();
    let appended = writer.append(&mut batch, OnDuplicate::Skip).unwrap();
    assert_eq!(appended.commit, Some(6));
    drop(writer);
    assert_whole(&path);
    let store = Store::open_read_only(&path).unwrap();
    assert!(store.snapshot().contains("k5").unwrap());
    assert!(store.snapshot().contains("other").unwrap());
}

#[test]
fn a_file_beyond_a_gap_that_cannot_be_told_is_no_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path, 6);
    store.checkpoint().unwrap();
    put(&store, "k7");
    put(&store, "k8");
    let killed = dir.path().join("killed");
    copy_dir(&path, &killed);
    fs::remove_file(segment(&killed, 7, 7, 0)).unwrap();
    fs::write(segment(&killed, 8, 8, 0), [1; 4500]).unwrap();
    assert!(says_loss(&vecstore::repair(&killed).unwrap()));
    put(&Store::open(&killed).unwrap(), "new");
    assert_whole(&killed);
}

#[test]
fn an_interrupted_repair_does_not_make_the_next_one_say_that_nothing_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, 3).close().unwrap();
    hit(&segment(&path, 2, 2, 0), "ROWS");
    let done = dir.path().join("done");
    copy_dir(&path, &done);
    assert_eq!(vecstore::repair(&done).unwrap().findings[0].lost_keys, [b"k2"]);
    // As a kill leaves it before the manifest lists the new file, and before the bad one goes.
    fs::copy(segment(&done, 2, 2, 1), segment(&path, 2, 2, 1)).unwrap();
    copy_dir(&done.join("quarantine"), &path.join("quarantine"));
    let listed = dir.path().join("listed");
    copy_dir(&path, &listed);
    fs::copy(done.join("MANIFEST"), listed.join("MANIFEST")).unwrap();
    for path in [path, listed] {
        assert!(says_loss(&vecstore::repair(&path).unwrap()), "{}", path.display());
        assert_whole(&path);
    }
}

#[test]
fn a_backup_keeps_what_the_store_has_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (path, linked, copied) = (dir.path().join("s"), dir.path().join("b"), dir.path().join("other-disk"));
    let store = filled(&path, 3);
    store.backup(&linked).unwrap();
    store.close().unwrap();
    copy_dir(&linked, &copied);
    let good = fs::read(segment(&copied, 2, 2, 0)).unwrap();
    hit(&segment(&path, 2, 2, 0), "ROWS");
    vecstore::repair(&path).unwrap();
    let store = on_demand().open(&path).unwrap();
    store.backup(&copied).unwrap();
    assert_whole(&copied);
    assert!(is_quarantined(&copied, &good), "the only copy of k2");
}

#[test]
fn what_is_put_back_by_hand_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, 3).close().unwrap();
    let file = segment(&path, 2, 2, 0);
    let good = fs::read(&file).unwrap();
    hit(&file, "ROWS");
    vecstore::repair(&path).unwrap();
    fs::write(&file, &good).unwrap();
    on_demand().open(&path).unwrap().compact_full().unwrap();
    assert!(is_quarantined(&path, &good));
    assert_whole(&path);
}

/// What is in quarantine already, and in its old place again, is in no way of others.
#[test]
fn what_was_quarantined_may_be_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let store = filled(&path, 3);
    store.backup(&dest).unwrap();
    store.close().unwrap();
    let file = segment(&path, 2, 2, 0);
    hit(&file, "ROWS");
    vecstore::repair(&path).unwrap();
    let bad = path.join("quarantine").join(file.file_name().unwrap());
    let bytes = fs::read(&bad).unwrap();
    let store = on_demand().open(&path).unwrap();
    // In the backup as a power cut leaves it that comes while the file is moved.
    let linked = segment(&dest, 2, 2, 0);
    fs::create_dir(dest.join("quarantine")).unwrap();
    fs::hard_link(&linked, dest.join("quarantine").join(linked.file_name().unwrap())).unwrap();
    store.backup(&dest).unwrap();
    assert!(!linked.exists());
    // In the store because a user has copied it back.
    fs::copy(&bad, &file).unwrap();
    store.compact_full().unwrap();
    assert!(!file.exists());
    for path in [path, dest] {
        assert_whole(&path);
        assert!(is_quarantined(&path, &bytes));
        assert_eq!(
            fs::read_dir(path.join("quarantine"))
                .unwrap()
                .filter(|e| { e.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|e| e == "npy")) })
                .count(),
            1
        );
    }
}

/// What an interrupted backup brought makes way for the first commit of its own, and takes no other file's
/// place.
#[test]
fn what_lies_beyond_a_backup_displaces_nothing_in_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let store = filled(&path, 3);
    store.backup(&dest).unwrap();
    put(&store, "k4");
    let beyond = segment(&dest, 4, 4, 0);
    fs::copy(segment(&path, 4, 4, 0), &beyond).unwrap();
    let bytes = fs::read(&beyond).unwrap();
    let quarantine = dest.join("quarantine");
    fs::create_dir(&quarantine).unwrap();
    fs::write(quarantine.join(beyond.file_name().unwrap()), b"the only copy of something").unwrap();
    put(&on_demand().open(&dest).unwrap(), "its own");
    assert!(is_quarantined(&dest, b"the only copy of something"));
    assert!(is_quarantined(&dest, &bytes));
    assert_whole(&dest);
    assert!(!Store::open(&dest).unwrap().snapshot().contains("k4").unwrap());
}

/// A merge of what a repair left, and one of its inputs that a power cut has brought back: without a manifest
/// too the merge is what counts.
#[test]
fn a_merge_of_what_was_repaired_counts_more_than_one_of_its_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, 3).close().unwrap();
    hit(&segment(&path, 1, 1, 0), "ROWS");
    vecstore::repair(&path).unwrap();
    for which in [segment(&path, 1, 1, 1), segment(&path, 2, 2, 0), segment(&path, 3, 3, 0)] {
        let case = dir.path().join(which.file_name().unwrap());
        copy_dir(&path, &case);
        on_demand().open(&case).unwrap().compact_full().unwrap();
        fs::copy(&which, case.join("segments").join(which.file_name().unwrap())).unwrap();
        fs::remove_file(case.join("MANIFEST")).unwrap();
        let report = vecstore::repair(&case).unwrap();
        assert_whole(&case);
        let store = Store::open(&case).unwrap();
        assert_eq!(store.snapshot().missing(&["k1", "k2", "k3"]).unwrap(), [0], "{report:#?}");
        assert_eq!(report.last_commit, 3);
    }
}

/// A rebuilt manifest cannot know of an epoch that has no commit yet; a backup that does goes on all the
/// same.
#[test]
fn a_backup_goes_on_after_a_manifest_is_rebuilt_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    filled(&path, 3).close().unwrap();
    for round in 0..3 {
        fs::remove_file(path.join("MANIFEST")).unwrap();
        assert!(vecstore::repair(&path).unwrap().rebuilt);
        let store = on_demand().open(&path).unwrap();
        store.backup(&dest).unwrap();
        if round == 1 {
            put(&store, "k4");
        }
    }
    assert_whole(&dest);
    assert!(Store::open_read_only(&dest).unwrap().snapshot().contains("k4").unwrap());
}

#[test]
fn a_hole_never_has_the_name_of_what_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let writer = filled(&path, 5);
    writer.backup(&dest).unwrap();
    let reader = Store::open_read_only(&path).unwrap();
    fs::remove_file(segment(&path, 3, 3, 0)).unwrap();
    fs::remove_file(path.join("MANIFEST")).unwrap();
    vecstore::repair(&path).unwrap();
    assert!(!segment(&path, 3, 3, 0).exists());
    assert!(segment(&path, 3, 3, 1).exists());
    reader.refresh().unwrap();
    put(&writer, "k6");
    writer.close().unwrap();
    assert_whole(&path);
}
