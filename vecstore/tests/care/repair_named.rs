//! Repairs of stores whose versions list missing segments or belong to another store. Afterwards the store
//! opens and is whole, only damaged entries are lost, and no commit number is used twice.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::{copy_dir, on_demand};
use vecstore::{Error, OnDuplicate, ReadOptions, Reader, RepairOptions, RepairReport, Store, StoreConfig};

fn segment(path: &Path, first: u64, last: u64) -> PathBuf {
    path.join("segments").join(format!("{first:010}-{last:010}.0.npy"))
}

fn put(store: &Store, key: &str) {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32, 2.0]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

/// A store with commits 1 to `commits`, one key each, and a version of each commit in `named`.
fn filled(path: &Path, commits: u64, named: &[u64]) {
    let store = on_demand().create(path, StoreConfig::new(2)).unwrap();
    for commit in 1..=commits {
        put(&store, &format!("k{commit}"));
        if named.contains(&commit) {
            store.create_version(&format!("v{commit}")).unwrap();
        }
    }
    store.close().unwrap();
}

fn flip_bit(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn assert_whole(path: &Path, what: &str) {
    let report = vecstore::verify(path).unwrap();
    assert!(report.is_whole(), "{what}: {:?}", report.faults);
}

/// Repairs a store that had commits 1 to `commits`, asserts that exactly those in `gone` are lost, and
/// appends.
fn repaired(path: &Path, what: &str, commits: u64, gone: &[u64]) -> RepairReport {
    let would = vecstore::repair_with(path, RepairOptions::new().dry_run(true)).unwrap();
    let report = vecstore::repair(path).unwrap();
    assert_eq!(would.findings.len(), report.findings.len(), "{what}");
    assert_whole(path, what);
    let told = report.findings.iter().any(|finding| finding.lost_unknown);
    assert_eq!(told, !gone.is_empty(), "{what}: {report:#?}");
    let store = on_demand().open(path).unwrap();
    assert_eq!(store.snapshot().last_commit(), commits, "{what}");
    for commit in 1..=commits {
        let is_there = store.snapshot().contains(format!("k{commit}")).unwrap();
        assert_eq!(is_there, !gone.contains(&commit), "{what}: k{commit}");
    }
    for version in store.versions().unwrap() {
        let named = ReadOptions::new().at_version(&version.name).open(path).unwrap();
        for commit in 1..=version.last_commit {
            let is_there = named.snapshot().contains(format!("k{commit}")).unwrap();
            assert_eq!(is_there, !gone.contains(&commit), "{what}: k{commit} in {}", version.name);
        }
    }
    put(&store, "new");
    assert_eq!(store.snapshot().last_commit(), commits + 1, "{what}");
    store.compact_full().unwrap();
    store.close().unwrap();
    assert_whole(path, what);
    assert!(vecstore::repair(path).unwrap().was_whole(), "{what}");
    report
}

fn quarantined(report: &RepairReport, name: &str) -> bool {
    report.findings.iter().any(|finding| finding.moved_to.as_ref().is_some_and(|to| to.ends_with(name)))
}

/// The manifest is gone or replaced by an older one, and segments that versions list are gone.
#[test]
fn segments_that_a_version_lists_count_as_committed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, 4, &[1, 2, 4]);
    for manifest in ["gone", "that of v1", "as it was"] {
        // Every choice of lost segments, except all four.
        for hit in 0..15u64 {
            let gone: Vec<u64> = (1..=4).filter(|commit| hit >> (commit - 1) & 1 == 1).collect();
            let what = format!("manifest {manifest}, segments {gone:?} gone");
            let damaged = dir.path().join(&what);
            copy_dir(&path, &damaged);
            match manifest {
                "gone" => fs::remove_file(damaged.join("MANIFEST")).unwrap(),
                "that of v1" => {
                    fs::copy(damaged.join("versions/v1"), damaged.join("MANIFEST")).map(drop).unwrap();
                }
                _ => {}
            }
            gone.iter().for_each(|commit| fs::remove_file(segment(&damaged, *commit, *commit)).unwrap());
            let report = repaired(&damaged, &what, 4, &gone);
            assert_eq!(report.rebuilt, manifest == "gone");
        }
    }
}

/// A version moved aside while the manifest was rebuilt begins with another epoch than the rebuilt store.
/// Each of the two gets its own file in place of commit 1.
#[test]
fn a_version_that_begins_differently_gets_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, 3, &[3]);
    let (named, aside) = (path.join("versions/v3"), path.join("aside"));
    fs::rename(&named, &aside).unwrap();
    fs::remove_file(path.join("MANIFEST")).unwrap();
    fs::remove_file(segment(&path, 1, 1)).unwrap();
    assert!(vecstore::repair(&path).unwrap().rebuilt);
    fs::rename(&aside, &named).unwrap();
    fs::remove_file(path.join("segments/0000000001-0000000001.1.npy")).unwrap();
    repaired(&path, "commit 1 lost twice", 3, &[1]);
}

/// A version copied from another store is set aside, whatever it lists; the store's own segments stay.
#[test]
fn a_version_of_another_store_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("s"), dir.path().join("other"));
    filled(&path, 4, &[2]);
    filled(&other, 6, &[3, 6]);
    for manifest in ["there", "gone"] {
        for (name, gone) in [("v3", &[][..]), ("v6", &[]), ("v3", &[1]), ("v6", &[3, 4])] {
            let what = format!("manifest {manifest}, {name} of another store, segments {gone:?} gone");
            let damaged = dir.path().join(&what);
            copy_dir(&path, &damaged);
            fs::copy(other.join("versions").join(name), damaged.join("versions").join(name)).unwrap();
            if manifest == "gone" {
                fs::remove_file(damaged.join("MANIFEST")).unwrap();
            }
            gone.iter().for_each(|commit| fs::remove_file(segment(&damaged, *commit, *commit)).unwrap());
            // Without the manifest and segments 3 and 4, no file tells of commits 3 and 4.
            let commits = if manifest == "gone" && gone.contains(&4) { 2 } else { 4 };
            let gone: Vec<u64> = gone.iter().copied().filter(|commit| *commit <= commits).collect();
            let report = repaired(&damaged, &what, commits, &gone);
            assert!(quarantined(&report, &format!("version-{name}")), "{what}: {report:#?}");
            let moved = report.findings.iter().filter(|finding| finding.moved_to.is_some());
            assert_eq!(moved.count(), 1, "{what}: nothing goes but the version: {report:#?}");
        }
    }
}

/// A version of the store that a copy was restored from lists commits of another epoch. It is set aside, and
/// the copy's own commits stay.
#[test]
fn a_version_of_another_history_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    filled(&path, 3, &[]);
    vecstore::restore(&path, &copy).unwrap();
    let (ours, theirs) = (on_demand().open(&path).unwrap(), on_demand().open(&copy).unwrap());
    put(&theirs, "k4");
    for key in ["a4", "a5"] {
        put(&ours, key);
    }
    ours.create_version("ours").unwrap();
    // The state that a crash leaves: no manifest lists commit 4 yet.
    let killed = dir.path().join("killed");
    copy_dir(&copy, &killed);
    fs::create_dir_all(killed.join("versions")).unwrap();
    fs::copy(path.join("versions/ours"), killed.join("versions/ours")).unwrap();
    let report = repaired(&killed, "another history's version", 4, &[]);
    assert!(quarantined(&report, "version-ours"), "{report:#?}");
}

/// A backup ends with its manifest: a version of the source does not extend it, and the next backup brings it
/// up to date.
#[test]
fn a_backup_with_a_version_of_its_source_stays_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("s"), dir.path().join("b"));
    filled(&path, 2, &[]);
    let store = on_demand().open(&path).unwrap();
    store.backup(&backup).unwrap();
    put(&store, "k3");
    store.create_version("v3").unwrap();
    fs::create_dir_all(backup.join("versions")).unwrap();
    fs::copy(path.join("versions/v3"), backup.join("versions/v3")).unwrap();
    let report = vecstore::repair(&backup).unwrap();
    assert!(quarantined(&report, "version-v3"), "{report:#?}");
    assert_eq!(report.last_commit, 2);
    assert_whole(&backup, "the backup");
    store.backup(&backup).unwrap();
    assert_whole(&backup, "the backup, brought up to date");
    assert!(Reader::open(&backup).unwrap().snapshot().contains("k3").unwrap());
}

/// The manifest is gone, and bitmaps that a version lists are gone or damaged: the version does without them.
#[test]
fn a_lost_bitmap_of_a_version_is_reported_without_a_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = on_demand().create(&path, StoreConfig::new(2)).unwrap();
    ["a", "k1", "a", "k2"].iter().for_each(|key| put(&store, key));
    store.create_version("v4").unwrap();
    store.close().unwrap();
    fs::remove_file(path.join("MANIFEST")).unwrap();
    for how in ["gone", "cut"] {
        let damaged = dir.path().join(how);
        copy_dir(&path, &damaged);
        let bitmaps: Vec<PathBuf> =
            fs::read_dir(damaged.join("derived")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!bitmaps.is_empty());
        for bitmap in &bitmaps {
            match how {
                "gone" => fs::remove_file(bitmap).unwrap(),
                _ => fs::write(bitmap, b"cut").unwrap(),
            }
        }
        let report = vecstore::repair(&damaged).unwrap();
        assert!(bitmaps.iter().all(|bitmap| report.findings.iter().any(|told| told.path == *bitmap)));
        assert_whole(&damaged, how);
        let named = ReadOptions::new().at_version("v4").open(&damaged).unwrap();
        assert_eq!(named.snapshot().totals().entries, 3, "the first \"a\" is superseded");
        assert!(vecstore::repair(&damaged).unwrap().was_whole());
    }
}

/// A version without segments is no store: there is no entry to rescue.
#[test]
fn a_version_without_segments_is_nothing_to_rebuild_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, 1, &[1]);
    fs::remove_file(segment(&path, 1, 1)).unwrap();
    fs::remove_file(path.join("MANIFEST")).unwrap();
    assert!(matches!(vecstore::repair(&path).unwrap_err(), Error::NotAStore { .. }));
}

/// Segments that only a version needs: `verify` reports a removed or replaced one, and `repair` mends the
/// version.
#[test]
fn a_lost_segment_that_only_a_version_lists_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let merged = dir.path().join("s");
    filled(&merged, 4, &[3]);
    let store = on_demand().open(&merged).unwrap();
    store.compact_full().unwrap();
    store.close().unwrap();
    assert_whole(&merged, "before");
    let strange = dir.path().join("another");
    filled(&strange, 2, &[]);

    for (case, words) in [("removed", "it is missing"), ("replaced", "another file of this name")] {
        let path = dir.path().join(case);
        copy_dir(&merged, &path);
        match case {
            "removed" => fs::remove_file(segment(&path, 2, 2)).unwrap(),
            _ => drop(fs::copy(segment(&strange, 2, 2), segment(&path, 2, 2)).unwrap()),
        }
        let faults = vecstore::verify(&path).unwrap().faults;
        let [fault] = faults.as_slice() else { panic!("{case}: {faults:?}") };
        assert_eq!(fault.path, segment(&path, 2, 2), "{case}");
        assert!(fault.detail.contains("version \"v3\"") && fault.detail.contains(words), "{case}: {fault}");
        // The merged segment goes beyond the version, so that it cannot stand in: opening names the segment
        // and the remedy.
        let error = ReadOptions::new().at_version("v3").open(&path).unwrap_err().to_string();
        let named = "segments/0000000002-0000000002.0.npy";
        assert!(error.contains(named) && error.contains("vecstore repair"), "{case}: {error}");
        assert!(!vecstore::repair(&path).unwrap().was_whole(), "{case}");
        assert_whole(&path, case);
        let store = on_demand().open(&path).unwrap();
        assert_eq!(store.snapshot().len(), 4, "{case}");
        let past = ReadOptions::new().at_version("v3").open(&path).unwrap();
        assert_eq!(past.snapshot().len(), 2, "{case}: but for k2");
    }
}

/// A version whose remaining segments would show deleted entries again is set aside.
#[test]
fn a_version_that_would_show_deleted_entries_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = on_demand().create(&path, StoreConfig::new(2)).unwrap();
    ["a", "b"].iter().for_each(|key| put(&store, key));
    store.create_version("v1").unwrap();
    store.delete(&["a"]).unwrap();
    store.create_version("v2").unwrap();
    store.delete(&["b"]).unwrap();
    store.compact_full().unwrap();
    store.close().unwrap();
    fs::remove_file(segment(&path, 3, 3)).unwrap();
    let faults = vecstore::verify(&path).unwrap().faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    vecstore::repair(&path).unwrap();
    assert_whole(&path, "repaired");
    assert!(vecstore::repair(&path).unwrap().was_whole());
    let store = on_demand().open(&path).unwrap();
    assert_eq!(store.snapshot().iter().count(), 0);
    for version in store.versions().unwrap() {
        let named = ReadOptions::new().at_version(&version.name).open(&path).unwrap().snapshot();
        for key in ["a", "b"] {
            let listed = named.iter().any(|entry| entry.unwrap().key() == key.as_bytes());
            assert_eq!(named.get(key).unwrap().is_some(), listed, "{key} in {}", version.name);
        }
    }
}

/// The store's new file, or a merge after the version, lacks an entry replaced later and still supersedes the
/// entry before it. The version gets files of its own, and lacks that one key.
#[test]
fn an_entry_that_was_replaced_later_does_not_cost_the_version() {
    for case in ["a flipped bit", "gone", "gone after a merge", "gone after a merge that is damaged"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = on_demand().max_segment(40_000).create(&path, StoreConfig::new(2)).unwrap();
        let put_many = |number: usize| {
            let mut batch = store.batch();
            batch.push("k", &[number as f32, 0.0]).unwrap();
            (0..1000).for_each(|at| batch.push(format!("{number}-{at}"), &[1.0f32, 2.0]).unwrap());
            // The entry of "x" is intact in the version, and replaced after it.
            batch.push("x", &[number as f32, 0.0]).unwrap();
            store.append(&mut batch, OnDuplicate::Replace).unwrap();
        };
        put_many(1);
        ["k", "z"].iter().for_each(|key| put(&store, key));
        ["v", "a", "z"].iter().for_each(|name| drop(store.create_version(name).unwrap()));
        put_many(4);
        if case.starts_with("gone after a merge") {
            // The first segment seems damaged: the merge leaves it alone, and keeps the kill of its entry.
            flip_bit(&segment(&path, 1, 1), 5000);
            assert_eq!(store.compact().unwrap().merges, 1);
            flip_bit(&segment(&path, 1, 1), 5000);
            assert!(path.join("segments/0000000002-0000000003.0.npy").exists());
        }
        store.close().unwrap();
        let file = segment(&path, 2, 2);
        match case {
            "a flipped bit" => flip_bit(&file, 4096),
            _ => fs::remove_file(&file).unwrap(),
        }
        if case.ends_with("damaged") {
            flip_bit(&path.join("segments/0000000002-0000000003.0.npy"), 4096);
        }
        let would = vecstore::repair_with(&path, RepairOptions::new().dry_run(true)).unwrap();
        let report = vecstore::repair(&path).unwrap();
        assert_eq!(would.findings.len(), report.findings.len(), "{case}: {report:#?}");
        assert!(["v", "a", "z"].iter().all(|name| !quarantined(&report, &format!("version-{name}"))));
        assert_whole(&path, case);
        assert!(vecstore::repair(&path).unwrap().was_whole(), "{case}");
        let store = on_demand().open(&path).unwrap();
        // The merged segment's only live row is that of "z"; versions list the segment of its commit.
        let entries = if case.ends_with("damaged") { 2002 } else { 2003 };
        assert_eq!(store.snapshot().totals().entries, entries, "{case}");
        assert_eq!(store.snapshot().get("k").unwrap().unwrap().address().commit, 4);
        for name in ["v", "a", "z"] {
            let then = on_demand().for_reading().at_version(name).open(&path).unwrap().snapshot();
            assert_eq!((then.totals().entries, then.contains("k").unwrap()), (1002, false), "{case}");
            assert!(then.contains("x").unwrap(), "{case}");
        }
        let files = fs::read_dir(path.join("segments")).unwrap();
        let of_second = files.filter(|file| {
            file.as_ref().unwrap().file_name().to_string_lossy().starts_with("0000000002-0000000002")
        });
        assert!(of_second.count() <= 2, "{case}: versions share one, and the store has another");
    }
}

/// A file made for a version never overlaps the store's segments, and a key that the store has deleted since
/// is not reported as lost.
#[test]
fn a_loss_of_a_version_alone_is_mended_beside_merges() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = on_demand().create(&path, StoreConfig::new(2)).unwrap();
    for commit in 1..=2 {
        put(&store, &format!("k{commit}"));
    }
    flip_bit(&segment(&path, 2, 2), 4096);
    for commit in 3..=4 {
        put(&store, &format!("k{commit}"));
    }
    store.create_version("v").unwrap();
    store.delete(&["k3"]).unwrap();
    // Merges around the segment that seems damaged: the store then lists 1, 2 and 3 to 5.
    store.compact().unwrap();
    flip_bit(&segment(&path, 2, 2), 4096);
    assert!(segment(&path, 3, 5).exists(), "{:?}", fs::read_dir(path.join("segments")).unwrap().count());
    store.close().unwrap();
    for (gone, is_hit) in
        [(&[2, 3][..], false), (&[3], false), (&[3, 4], false), (&[2, 3, 4], false), (&[3], true)]
    {
        let damaged = dir.path().join(format!("{gone:?} {is_hit}"));
        copy_dir(&path, &damaged);
        gone.iter().map(|commit| segment(&damaged, *commit, *commit)).for_each(|file| match is_hit {
            true => flip_bit(&file, 4096),
            false => fs::remove_file(&file).unwrap(),
        });
        let report = vecstore::repair(&damaged).unwrap();
        assert_whole(&damaged, "repaired");
        assert!(vecstore::repair(&damaged).unwrap().was_whole(), "{gone:?}");
        assert!(report.lost_keys().all(|key| key != b"k3"), "{gone:?}: {report:#?}");
        let then = on_demand().for_reading().at_version("v").open(&damaged).unwrap().snapshot();
        for commit in 1..=4 {
            let is_there = then.contains(format!("k{commit}")).unwrap();
            assert_eq!(is_there, !gone.contains(&commit), "{gone:?}: k{commit}");
        }
    }
}
