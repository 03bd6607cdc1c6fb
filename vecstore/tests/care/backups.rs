//! Backups and restores.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{assert_whole, copy_dir};
use vecstore::{
    Address, BackupOptions, Error, MergePolicy, OnDuplicate, OpenOptions, Reader, Snapshot, Store,
    StoreConfig,
};

fn create(path: &Path) -> Store {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand).create(path, StoreConfig::new(1)).unwrap()
}

fn put(store: &Store, key: &str, x: f32) {
    let mut batch = store.batch();
    batch.push(key, &[x]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

/// The entries of a store at this path.
fn read(path: &Path) -> BTreeMap<String, f32> {
    contents(&Reader::open(path).unwrap().snapshot())
}

fn contents(snapshot: &Snapshot) -> BTreeMap<String, f32> {
    snapshot
        .iter()
        .map(|entry| {
            let entry = entry.unwrap();
            (String::from_utf8_lossy(entry.key()).into_owned(), entry.to_f32().unwrap()[0])
        })
        .collect()
}

#[test]
fn the_second_backup_transfers_only_new_segments() {
    for link in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = create(&dir.path().join("s"));
        let dest = dir.path().join("backup");
        let backup = || match link {
            false => store.backup(&dest).unwrap(),
            true => store.backup_with(&dest, BackupOptions::new().link(true)).unwrap(),
        };
        let transferred = |count| if link { (count, 0) } else { (0, count) };
        for i in 0..5 {
            put(&store, &i.to_string(), i as f32);
        }
        let first = backup();
        assert_eq!((first.linked, first.copied), transferred(5));
        assert_eq!((first.kept, first.last_commit, first.bytes_copied > 0), (0, 5, !link));
        put(&store, "0", 50.0);
        let second = backup();
        assert_eq!((second.linked, second.copied), transferred(1));
        assert_eq!(second.kept, 5);
        assert_eq!(read(&dest), contents(&store.snapshot()));
        assert_whole(&dest);

        // After a merge, a backup adds the merged segment and removes its inputs.
        store.compact_full().unwrap();
        let third = backup();
        assert_eq!((third.linked, third.copied), transferred(1));
        assert_eq!(third.kept, 0);
        assert_eq!(std::fs::read_dir(dest.join("segments")).unwrap().count(), 1);
        assert_eq!(read(&dest), contents(&store.snapshot()));
        assert!(store.versions().unwrap().is_empty(), "no pin stays behind");
    }
}

#[test]
fn a_backup_that_was_written_to_is_refused_as_a_destination() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("s"));
    let dest = dir.path().join("backup");
    put(&store, "a", 1.0);
    store.backup(&dest).unwrap();
    let branch = Store::open(&dest).unwrap();
    put(&branch, "b", 2.0);
    // Not closed, because closing lists the new commit in the manifest.
    std::mem::forget(branch);
    assert_whole(&dest);
    let error = store.backup(&dest).unwrap_err().to_string();
    assert!(error.contains("written to") && error.contains("choose another"), "{error}");
    assert_eq!(contents(&Store::open(&dest).unwrap().snapshot()).len(), 2);

    // A segment of one history does not fit the other, although its number and link match.
    put(&store, "c", 3.0);
    let name = "segments/0000000002-0000000002.0.npy";
    let (ours, theirs) = (dir.path().join("s").join(name), dest.join(name));
    let aside = dir.path().join("aside");
    std::fs::rename(&ours, &aside).unwrap();
    std::fs::copy(&theirs, &ours).unwrap();
    let error = Reader::open(dir.path().join("s")).unwrap_err();
    assert!(matches!(&error, Error::ForeignSegment { path, .. } if *path == ours), "{error}");
    assert!(error.to_string().contains("another epoch"), "{error}");
    std::fs::rename(&aside, &theirs).unwrap();
    let error = Reader::open(&dest).unwrap_err();
    assert!(error.to_string().contains("another epoch"), "{error}");
}

#[test]
fn other_stores_and_occupied_folders_are_refused_as_a_destination() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("s"));
    let other = dir.path().join("other");
    create(&other).close().unwrap();
    assert!(store.backup(&other).unwrap_err().to_string().contains("another store"));
    let full = dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("letter"), "dear").unwrap();
    assert!(matches!(store.backup(&full), Err(Error::AlreadyExists { .. })));
    assert_eq!(std::fs::read(full.join("letter")).unwrap(), b"dear");
}

#[test]
fn a_restored_store_is_whole_and_has_a_history_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..4 {
        put(&store, &i.to_string(), i as f32);
    }
    let dest = dir.path().join("backup");
    store.backup(&dest).unwrap();
    let then = contents(&store.snapshot());
    put(&store, "after the backup", 9.0);

    let again = dir.path().join("restored");
    let report = vecstore::restore(&dest, &again).unwrap();
    assert_eq!((report.copied, report.last_commit), (4, 4));
    assert!(matches!(vecstore::restore(&dest, &again), Err(Error::AlreadyExists { .. })));
    let restored = Store::open(&again).unwrap();
    assert_eq!(contents(&restored.snapshot()), then);
    assert_eq!(restored.snapshot().row_at(Address { commit: 3, row: 0 }).unwrap().unwrap(), [2.0]);
    put(&restored, "new", 1.0);
    restored.compact_full().unwrap();
    assert_eq!(restored.snapshot().row_at(Address { commit: 3, row: 0 }).unwrap().unwrap(), [2.0]);
    drop(restored);
    assert_whole(&again);

    // A commit of the old history does not continue the restored store.
    let foreign = "segments/0000000005-0000000005.0.npy";
    let third = dir.path().join("third");
    vecstore::restore(&dest, &third).unwrap();
    std::fs::copy(path.join(foreign), third.join(foreign)).unwrap();
    assert!(matches!(Store::open(&third), Err(Error::ForeignSegment { .. })));

    // A damaged backup is not restored, and the attempt leaves no files.
    let victim = dest.join("segments/0000000002-0000000002.0.npy");
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[4096] ^= 1;
    std::fs::remove_file(&victim).unwrap();
    std::fs::write(&victim, bytes).unwrap();
    let nowhere = dir.path().join("nowhere");
    assert!(matches!(vecstore::restore(&dest, &nowhere), Err(Error::Damaged { .. })));
    assert!(!nowhere.exists());
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("creating")), "{left:?}");
}

#[test]
fn rotating_backups_share_files_and_only_the_newest_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("s"));
    let parent = dir.path().join("backups");
    for i in 0..4 {
        put(&store, &i.to_string(), i as f32);
        let dest = parent.join(format!("night-{i}"));
        let report = store.backup_with(dest, BackupOptions::new().keep(2)).unwrap();
        // The new segment is copied; the others are linked from the backup before.
        assert_eq!((report.linked, report.copied), (i, 1));
        assert_eq!(report.removed, usize::from(i >= 2));
    }
    let mut left: Vec<_> = std::fs::read_dir(&parent).unwrap().map(|e| e.unwrap().path()).collect();
    left.sort();
    assert_eq!(left.len(), 2);
    let counts: Vec<usize> = left.iter().map(|path| read(path).len()).collect();
    assert_eq!(counts, [3, 4]);
    left.iter().for_each(|path| assert_whole(path));
    for (name, keep, part) in [
        ("night-4", 0, "at least 1"),
        ("night-3", 2, "does not come after"),
        ("night-1", 2, "does not come after"),
        ("../s", 2, "written to"),
        ("..", 2, "cannot name a backup"),
        (".night-4", 2, "cannot name a backup"),
    ] {
        let refused = store.backup_with(parent.join(name), BackupOptions::new().keep(keep));
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(part), "{name}, {keep}: {error}");
    }
    // Backups with a name of another pattern are not removed.
    let options = BackupOptions::new().keep(1).link(true);
    let report = store.backup_with(parent.join("before the move"), options).unwrap();
    assert_eq!((report.linked, report.copied), (4, 0));
    assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 3);
}

#[test]
fn a_backup_is_consistent_while_writers_and_merges_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().join("s"), StoreConfig::new(1)).unwrap();
    std::thread::scope(|scope| {
        let store = &store;
        let writer = scope.spawn(move || {
            for i in 0..300 {
                // Two keys in one batch: a backup has both or none.
                let mut batch = store.batch();
                batch.push(format!("{i}a"), &[i as f32]).unwrap();
                batch.push(format!("{i}b"), &[i as f32]).unwrap();
                store.append(&mut batch, OnDuplicate::Error).unwrap();
                if i % 100 == 50 {
                    store.compact().unwrap();
                }
            }
        });
        let mut last = 0;
        // One more backup after the writer has ended has all entries.
        while last < 300 {
            let is_over = writer.is_finished();
            let dest = dir.path().join("backup");
            let report = store.backup(&dest).unwrap();
            let found = read(&dest);
            assert_eq!(found.len() as u64, 2 * report.last_commit);
            for i in 0..report.last_commit {
                assert!(found.contains_key(&format!("{i}a")) && found.contains_key(&format!("{i}b")));
            }
            assert!(report.last_commit >= last);
            last = report.last_commit;
            assert_whole(&dest);
            assert!(last == 300 || !is_over, "{last} of 300");
        }
    });
}

#[test]
fn a_backup_that_was_interrupted_is_the_previous_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..6 {
        put(&store, &i.to_string(), i as f32);
    }
    let dest = dir.path().join("backup");
    store.backup(&dest).unwrap();
    let then = contents(&store.snapshot());
    // The source continues and merges across the end of the backup. The next backup is interrupted after it
    // has brought the merged segment.
    put(&store, "6", 6.0);
    put(&store, "7", 7.0);
    store.compact_full().unwrap();
    let merged = "segments/0000000001-0000000008.0.npy";
    std::fs::hard_link(path.join(merged), dest.join(merged)).unwrap();
    std::fs::write(dest.join("segments/tmp-backup-00"), "x").unwrap();

    assert_eq!(read(&dest), then);
    assert_whole(&dest);
    let restored = dir.path().join("restored");
    vecstore::restore(&dest, &restored).unwrap();
    assert_eq!(contents(&Store::open(&restored).unwrap().snapshot()), then);

    // The next backup completes the interrupted one and cleans up; on another copy, a writer appends instead.
    let written = dir.path().join("written");
    copy_dir(&dest, &written);
    let report = store.backup(&dest).unwrap();
    assert_eq!((report.kept, report.linked, report.copied), (1, 0, 0));
    assert_eq!(std::fs::read_dir(dest.join("segments")).unwrap().count(), 1);
    assert_eq!(read(&dest), contents(&store.snapshot()));
    let branch = create_again(&written);
    put(&branch, "x", 1.0);
    assert_eq!(contents(&branch.snapshot()).len(), 7);
    drop(branch);
    assert_whole(&written);
    assert_eq!(std::fs::read_dir(written.join("quarantine")).unwrap().count(), 1, "nothing is deleted");
}

fn create_again(path: &Path) -> Store {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand).open(path).unwrap()
}

#[test]
fn a_backup_of_an_abandoned_history_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("s"));
    let (early, late) = (dir.path().join("early"), dir.path().join("late"));
    put(&store, "1", 1.0);
    store.backup(&early).unwrap();
    put(&store, "2", 2.0);
    store.backup(&late).unwrap();
    // The store is lost and restored from the early backup; the restored store grows beyond the late backup.
    let again = dir.path().join("again");
    vecstore::restore(&early, &again).unwrap();
    let again = create_again(&again);
    for i in 0..5 {
        put(&again, &format!("new {i}"), 1.0);
    }
    let error = again.backup(&late).unwrap_err().to_string();
    assert!(error.contains("commits that this store does not have"), "{error}");
    assert!(read(&late).contains_key("2"), "it is untouched");
    again.backup(&early).unwrap();
    assert_whole(&early);
}

#[test]
fn names_of_pins_are_reserved_and_a_version_changes_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("s"));
    put(&store, "1", 1.0);
    assert!(store.create_version("backup-mine").unwrap_err().to_string().contains("under way"));
    // A version made in a backup is a change: from then on the backup is a store of its own.
    let dest = dir.path().join("backup");
    store.backup(&dest).unwrap();
    create_again(&dest).create_version("kept").unwrap();
    assert!(store.backup(&dest).unwrap_err().to_string().contains("written to"));
    assert!(store.backup(store.path()).is_err(), "a store is no backup of itself");
}

#[test]
fn leftovers_of_killed_backups_go_and_those_of_live_backups_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (path, parent) = (dir.path().join("s"), dir.path().join("dated"));
    let store = create(&path);
    put(&store, "a", 1.0);
    let dated = |name| store.backup_with(parent.join(name), BackupOptions::new().keep(5)).unwrap();
    let first = dated("2026-11-20").path;
    // Folders in the states that kills leave: `dead` was being built, `removing` was being removed. `alive`
    // is still being built, and `others` belongs to no backup.
    let (dead, alive) = (
        parent.join(".2026-01-01.creating-0123456789abcdef"),
        parent.join(".2026-01-02.creating-0123456789abcdef"),
    );
    let removing = parent.join(".2025-01-01.removing-0123456789abcdef");
    let others = parent.join(".notes.creating-0123456789abcdef");
    for left in [&dead, &alive, &removing, &others] {
        copy_dir(&first, left);
    }
    let builder = std::fs::File::open(alive.join("LOCK.turn")).unwrap();
    builder.lock().unwrap();
    // The pin that a killed backup left in the store.
    let pin = path.join("versions").join("backup-0123456789abcdef");
    std::fs::copy(path.join("MANIFEST"), &pin).unwrap();

    put(&store, "b", 2.0);
    // The pin is not a user's version: a script that removes all versions must not take away files that a
    // backup under way needs.
    assert_eq!(store.versions().unwrap(), []);
    let error = store.remove_version("backup-0123456789abcdef").unwrap_err();
    assert!(error.to_string().contains("backups under way"), "{error}");
    assert!(pin.exists());
    store.compact().unwrap();
    assert!(!pin.exists(), "a merge drops it too");
    assert_eq!(dated("2026-11-21").kept, 0);
    let there = [&dead, &alive, &removing, &others].map(|path| path.exists());
    assert_eq!(there, [false, true, false, true]);
    drop(builder);
    dated("2026-11-22");
    assert!(!alive.exists());
    assert_whole(&first);

    // A first backup into a fixed place removes such leftovers, too.
    let dest = dir.path().join("copy");
    let dead = dir.path().join(".copy.creating-0123456789abcdef");
    copy_dir(&first, &dead);
    store.backup(&dest).unwrap();
    assert!(!dead.exists());
    assert_whole(&dest);
}

/// A writer of the destination publishes its own commit while the backup links a segment of the same name.
#[test]
fn a_failed_backup_takes_nothing_from_a_writer_of_its_destination() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("backup"));
    let theirs = std::sync::Mutex::new(Some(dest.clone()));
    let fs = crate::common::hooked::Hooked::new(move |call, to| {
        let is_two = to.ends_with("segments/0000000002-0000000002.0.npy");
        if call == "link"
            && is_two
            && let Some(dest) = theirs.lock().unwrap().take()
        {
            put(&Store::open(dest).unwrap(), "theirs", 7.0);
        }
    });
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand).vfs(fs);
    let store = options.create(&path, StoreConfig::new(1)).unwrap();
    put(&store, "a", 1.0);
    let backup = || store.backup_with(&dest, BackupOptions::new().link(true));
    backup().unwrap();
    put(&store, "b", 2.0);
    backup().unwrap_err();
    let found = contents(&Store::open(&dest).unwrap().snapshot());
    assert_eq!(found, [("a".to_owned(), 1.0), ("theirs".to_owned(), 7.0)].into());
    assert_whole(&dest);
}

/// A segment was read wrongly once and is listed as damaged. A backup lists it as sound, and so does the
/// store after a repair.
#[test]
fn a_segment_found_sound_is_no_longer_listed_as_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("backup"));
    let store = create(&path);
    (0..3).for_each(|number| put(&store, &number.to_string(), 1.0));
    let file = path.join("segments/0000000002-0000000002.0.npy");
    let right = std::fs::read(&file).unwrap();
    let mut wrong = right.clone();
    wrong[4096] ^= 1;
    std::fs::write(&file, &wrong).unwrap();
    assert_eq!(store.compact().unwrap().damaged, 1);
    std::fs::write(&file, &right).unwrap();
    let damaged =
        |snapshot: Snapshot| snapshot.segments().filter(|segment| segment.info().is_damaged).count();
    assert_eq!(damaged(store.snapshot()), 1);
    store.backup(&dest).unwrap();
    assert_eq!(damaged(Reader::open(&dest).unwrap().snapshot()), 0);
    store.close().unwrap();
    assert!(vecstore::repair(&path).unwrap().was_whole());
    let store = Store::open(&path).unwrap();
    assert_eq!((damaged(store.snapshot()), store.compact().unwrap().damaged), (0, 0));
}
