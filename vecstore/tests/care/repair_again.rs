//! After a repair, and in a second one: no file that may still be needed is deleted, and no damaged store is
//! called whole.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{assert_whole, copy_dir, layout, on_demand};
use vecstore::{BackupOptions, OnDuplicate, Reader, RepairReport, Store, StoreConfig};

fn segment(path: &Path, first: u64, last: u64, generation: u32) -> PathBuf {
    path.join("segments").join(format!("{first:010}-{last:010}.{generation}.npy"))
}

/// Flips a bit in a section of a segment; the section's place is in the footer (docs/FORMAT.md).
fn hit(path: &Path, section: &str) {
    let mut bytes = fs::read(path).unwrap();
    bytes[layout::section(path, section).offset] ^= 0x10;
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

/// True if quarantine/ has a file with these bytes, under any name.
fn is_quarantined(path: &Path, bytes: &[u8]) -> bool {
    let names = fs::read_dir(path.join("quarantine")).unwrap();
    names.map(|entry| entry.unwrap().path()).any(|path| fs::read(path).unwrap() == bytes)
}

#[test]
fn a_merge_with_entries_is_preferred_to_inputs_that_lost_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path, 3);
    store.create_version("p").unwrap();
    store.compact_full().unwrap();
    store.close().unwrap();
    // First damages an input that only the version needs, then HASH in the merged segment, which costs no
    // entry.
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
fn a_commit_number_that_may_have_been_used_is_not_reused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = filled(&path, 3);
    writer.checkpoint().unwrap();
    put(&writer, "k4");
    // Replaces the last segment; the writer still has the original one mapped.
    let last = segment(&path, 4, 4, 0);
    fs::remove_file(&last).unwrap();
    fs::write(&last, b"").unwrap();
    assert!(says_loss(&vecstore::repair(&path).unwrap()));
    let other = on_demand().open(&path).unwrap();
    put(&other, "other");
    assert_eq!(other.snapshot().last_commit(), 5);
    drop(other);
    // The writer continues from the repaired state, and the store stays whole.
    let mut batch = writer.batch();
    batch.push("k5", &[1.0f32, 2.0]).unwrap();
    let appended = writer.append(&mut batch, OnDuplicate::Skip).unwrap();
    assert_eq!(appended.commit, Some(6));
    drop(writer);
    assert_whole(&path);
    let store = Reader::open(&path).unwrap();
    assert!(store.snapshot().contains("k5").unwrap());
    assert!(store.snapshot().contains("other").unwrap());
}

#[test]
fn an_unreadable_file_beyond_a_gap_counts_as_loss() {
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
fn a_repair_after_an_interrupted_one_still_reports_the_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, 3).close().unwrap();
    hit(&segment(&path, 2, 2, 0), "ROWS");
    let done = dir.path().join("done");
    copy_dir(&path, &done);
    assert_eq!(vecstore::repair(&done).unwrap().findings[0].lost_keys, [b"k2"]);
    // The state that a kill leaves before the manifest lists the new segment. In `listed`, the kill comes
    // before the damaged segment is removed.
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
fn a_backup_keeps_entries_that_the_store_has_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let store = filled(&path, 3);
    store.backup(&dest).unwrap();
    store.close().unwrap();
    let good = fs::read(segment(&dest, 2, 2, 0)).unwrap();
    hit(&segment(&path, 2, 2, 0), "ROWS");
    vecstore::repair(&path).unwrap();
    let store = on_demand().open(&path).unwrap();
    store.backup(&dest).unwrap();
    assert_whole(&dest);
    assert!(is_quarantined(&dest, &good), "the only copy of k2");
}

#[test]
fn a_segment_put_back_by_hand_is_not_deleted() {
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

/// A segment that is in quarantine and back in its old place too is removed from there, and quarantine keeps
/// one copy.
#[test]
fn a_quarantined_segment_may_be_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let store = filled(&path, 3);
    let backup = |store: &Store| store.backup_with(&dest, BackupOptions::new().link(true)).unwrap();
    backup(&store);
    store.close().unwrap();
    let file = segment(&path, 2, 2, 0);
    hit(&file, "ROWS");
    vecstore::repair(&path).unwrap();
    let bad = path.join("quarantine").join(file.file_name().unwrap());
    let bytes = fs::read(&bad).unwrap();
    let store = on_demand().open(&path).unwrap();
    // In the backup: a power cut in the middle of moving the segment leaves both names.
    let linked = segment(&dest, 2, 2, 0);
    fs::create_dir(dest.join("quarantine")).unwrap();
    fs::hard_link(&linked, dest.join("quarantine").join(linked.file_name().unwrap())).unwrap();
    backup(&store);
    assert!(!linked.exists());
    // In the store: a user has copied the segment back.
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

/// A segment left by an interrupted backup makes way for the destination's own first commit, and replaces no
/// other file in quarantine.
#[test]
fn a_leftover_of_a_backup_replaces_no_file_in_quarantine() {
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

/// A power cut brings back one input of a merge of repaired segments. The merge is preferred to it, even
/// without a manifest.
#[test]
fn a_merge_of_repaired_segments_is_preferred_to_one_of_its_inputs() {
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

/// A rebuilt manifest lacks an epoch that has no commit yet. A backup whose manifest has this epoch can still
/// be brought up to date.
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
    assert!(Reader::open(&dest).unwrap().snapshot().contains("k4").unwrap());
}

#[test]
fn a_hole_never_has_the_name_of_the_lost_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let writer = filled(&path, 5);
    writer.backup(&dest).unwrap();
    let reader = Reader::open(&path).unwrap();
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
