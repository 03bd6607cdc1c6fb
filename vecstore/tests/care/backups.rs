//! Backups and restores.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{assert_whole, copy_dir};
use vecstore::{Address, Error, Merging, OnDuplicate, OpenOptions, Store, StoreConfig};

fn create(path: &Path) -> Store {
    OpenOptions::new().merging(Merging::OnDemand).create(path, StoreConfig::new(1)).unwrap()
}

fn put(store: &Store, key: &str, x: f32) {
    let mut batch = store.batch();
    batch.push(key, &[x]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

fn contents(store: &Store) -> BTreeMap<String, f32> {
    let snapshot = store.snapshot();
    snapshot
        .iter()
        .map(|entry| {
            let entry = entry.unwrap();
            (String::from_utf8_lossy(entry.key()).into_owned(), entry.to_f32().unwrap()[0])
        })
        .collect()
}

#[test]
fn the_second_backup_transfers_only_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("s"));
    let dest = dir.path().join("backup");
    for i in 0..5 {
        put(&store, &i.to_string(), i as f32);
    }
    let first = store.backup(&dest).unwrap();
    assert_eq!((first.linked, first.copied, first.kept, first.last_commit), (5, 0, 0, 5));
    put(&store, "0", 50.0);
    let second = store.backup(&dest).unwrap();
    assert_eq!((second.linked, second.kept), (1, 5));
    assert_eq!(contents(&Store::open_read_only(&dest).unwrap()), contents(&store));
    assert_whole(&dest);

    // After a merge the backup takes the merged file and lets go of its inputs.
    store.compact_full().unwrap();
    let third = store.backup(&dest).unwrap();
    assert_eq!((third.linked, third.kept), (1, 0));
    assert_eq!(std::fs::read_dir(dest.join("segments")).unwrap().count(), 1);
    assert_eq!(contents(&Store::open_read_only(&dest).unwrap()), contents(&store));
    assert!(store.versions().unwrap().is_empty(), "no pin stays behind");
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
    // Not closed: then its manifest would list the new commit.
    std::mem::forget(branch);
    assert_whole(&dest);
    let error = store.backup(&dest).unwrap_err().to_string();
    assert!(error.contains("written to") && error.contains("choose another"), "{error}");
    assert_eq!(contents(&Store::open(&dest).unwrap()).len(), 2);

    // A segment of one history does not fit into the other, although number and link are right.
    put(&store, "c", 3.0);
    let name = "segments/0000000002-0000000002.0.npy";
    let (ours, theirs) = (dir.path().join("s").join(name), dest.join(name));
    let aside = dir.path().join("aside");
    std::fs::rename(&ours, &aside).unwrap();
    std::fs::copy(&theirs, &ours).unwrap();
    let error = Store::open_read_only(dir.path().join("s")).unwrap_err();
    assert!(matches!(&error, Error::ForeignSegment { path, .. } if *path == ours), "{error}");
    assert!(error.to_string().contains("another epoch"), "{error}");
    std::fs::rename(&aside, &theirs).unwrap();
    let error = Store::open_read_only(&dest).unwrap_err();
    assert!(error.to_string().contains("another epoch"), "{error}");
}

#[test]
fn other_stores_and_other_things_are_refused_as_a_destination() {
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
    let then = contents(&store);
    put(&store, "after the backup", 9.0);

    let again = dir.path().join("restored");
    let report = vecstore::restore(&dest, &again).unwrap();
    assert_eq!((report.copied, report.last_commit), (4, 4));
    assert!(matches!(vecstore::restore(&dest, &again), Err(Error::AlreadyExists { .. })));
    let restored = Store::open(&again).unwrap();
    assert_eq!(contents(&restored), then);
    assert_eq!(restored.snapshot().at(Address { commit: 3, row: 0 }).unwrap().unwrap(), [2.0]);
    put(&restored, "new", 1.0);
    restored.compact_full().unwrap();
    assert_eq!(restored.snapshot().at(Address { commit: 3, row: 0 }).unwrap().unwrap(), [2.0]);
    drop(restored);
    assert_whole(&again);

    // The commit of the old history does not continue the restored one.
    let foreign = "segments/0000000005-0000000005.0.npy";
    let third = dir.path().join("third");
    vecstore::restore(&dest, &third).unwrap();
    std::fs::copy(path.join(foreign), third.join(foreign)).unwrap();
    assert!(matches!(Store::open(&third), Err(Error::ForeignSegment { .. })));

    // A damaged backup is not restored, and leaves nothing.
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
        let report = store.backup_rotating(&parent, &format!("night-{i}"), 2).unwrap();
        assert_eq!(report.copied, 0);
        assert_eq!(report.removed, usize::from(i >= 2));
    }
    let mut left: Vec<_> = std::fs::read_dir(&parent).unwrap().map(|e| e.unwrap().path()).collect();
    left.sort();
    assert_eq!(left.len(), 2);
    let counts: Vec<usize> =
        left.iter().map(|p| contents(&Store::open_read_only(p).unwrap()).len()).collect();
    assert_eq!(counts, [3, 4]);
    left.iter().for_each(|path| assert_whole(path));
    for (name, keep, part) in [
        ("night-4", 0, "at least 1"),
        ("night-3", 2, "does not come after"),
        ("night-1", 2, "does not come after"),
        ("../s", 2, "cannot name a backup"),
        ("", 2, "cannot name a backup"),
        (".night-4", 2, "cannot name a backup"),
    ] {
        let error = store.backup_rotating(&parent, name, keep).unwrap_err().to_string();
        assert!(error.contains(part), "{name}, {keep}: {error}");
    }
    // Other names are not its business.
    store.backup_rotating(&parent, "before the move", 1).unwrap();
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
        // One more after the writer has ended: that one has all.
        while last < 300 {
            let is_over = writer.is_finished();
            let dest = dir.path().join("backup");
            let report = store.backup(&dest).unwrap();
            let found = contents(&Store::open_read_only(&dest).unwrap());
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
    let then = contents(&store);
    // The source goes on, and merges across the end of the backup; the next backup gets as far as this file.
    put(&store, "6", 6.0);
    put(&store, "7", 7.0);
    store.compact_full().unwrap();
    let merged = "segments/0000000001-0000000008.0.npy";
    std::fs::hard_link(path.join(merged), dest.join(merged)).unwrap();
    std::fs::write(dest.join("segments/tmp-backup-00"), "x").unwrap();

    assert_eq!(contents(&Store::open_read_only(&dest).unwrap()), then);
    assert_whole(&dest);
    let restored = dir.path().join("restored");
    vecstore::restore(&dest, &restored).unwrap();
    assert_eq!(contents(&Store::open(&restored).unwrap()), then);

    // The next one carries on and cleans up; or, on another copy, a writer changes it.
    let written = dir.path().join("written");
    copy_dir(&dest, &written);
    let report = store.backup(&dest).unwrap();
    assert_eq!((report.kept, report.linked), (1, 0));
    assert_eq!(std::fs::read_dir(dest.join("segments")).unwrap().count(), 1);
    assert_eq!(contents(&Store::open_read_only(&dest).unwrap()), contents(&store));
    let branch = create_again(&written);
    put(&branch, "x", 1.0);
    assert_eq!(contents(&branch).len(), 7);
    drop(branch);
    assert_whole(&written);
    assert_eq!(std::fs::read_dir(written.join("quarantine")).unwrap().count(), 1, "nothing is deleted");
}

fn create_again(path: &Path) -> Store {
    OpenOptions::new().merging(Merging::OnDemand).open(path).unwrap()
}

#[test]
fn a_backup_of_a_history_that_was_left_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("s"));
    let (early, late) = (dir.path().join("early"), dir.path().join("late"));
    put(&store, "1", 1.0);
    store.backup(&early).unwrap();
    put(&store, "2", 2.0);
    store.backup(&late).unwrap();
    // The store is lost, and restored from the early backup; it grows beyond the late one.
    let again = dir.path().join("again");
    vecstore::restore(&early, &again).unwrap();
    let again = create_again(&again);
    for i in 0..5 {
        put(&again, &format!("new {i}"), 1.0);
    }
    let error = again.backup(&late).unwrap_err().to_string();
    assert!(error.contains("commits that this store does not have"), "{error}");
    assert!(contents(&Store::open_read_only(&late).unwrap()).contains_key("2"), "it is untouched");
    again.backup(&early).unwrap();
    assert_whole(&early);
}

#[test]
fn what_a_backup_pins_for_itself_and_for_its_user() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("s"));
    put(&store, "1", 1.0);
    assert!(store.create_version("backup-mine").unwrap_err().to_string().contains("under way"));
    // A checkpoint made in a backup is a change: the backup is a store of its own from then on.
    let dest = dir.path().join("backup");
    store.backup(&dest).unwrap();
    create_again(&dest).create_version("kept").unwrap();
    assert!(store.backup(&dest).unwrap_err().to_string().contains("written to"));
    assert!(store.backup(store.path()).is_err(), "a store is no backup of itself");
}

#[test]
fn what_killed_backups_left_goes_and_what_live_ones_build_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (path, parent) = (dir.path().join("s"), dir.path().join("dated"));
    let store = create(&path);
    put(&store, "a", 1.0);
    let first = store.backup_rotating(&parent, "2026-11-20", 5).unwrap().path;
    // As a kill leaves them: one was being built, one is being built, one was being removed.
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
    // And its pin in the store.
    let pin = path.join("versions").join("backup-0123456789abcdef");
    std::fs::copy(path.join("MANIFEST"), &pin).unwrap();

    put(&store, "b", 2.0);
    // It is no user's checkpoint: a script that drops all there are must not pull its files from under a
    // backup.
    assert_eq!(store.versions().unwrap(), []);
    let error = store.drop_version("backup-0123456789abcdef").unwrap_err();
    assert!(error.to_string().contains("backups under way"), "{error}");
    assert!(pin.exists());
    store.compact().unwrap();
    assert!(!pin.exists(), "a merge drops it too");
    assert_eq!(store.backup_rotating(&parent, "2026-11-21", 5).unwrap().kept, 0);
    let there = [&dead, &alive, &removing, &others].map(|path| path.exists());
    assert_eq!(there, [false, true, false, true]);
    drop(builder);
    store.backup_rotating(&parent, "2026-11-22", 5).unwrap();
    assert!(!alive.exists());
    assert_whole(&first);

    // A first backup into one place likewise.
    let dest = dir.path().join("copy");
    let dead = dir.path().join(".copy.creating-0123456789abcdef");
    copy_dir(&first, &dead);
    store.backup(&dest).unwrap();
    assert!(!dead.exists());
    assert_whole(&dest);
}

/// A writer of the destination names its own commit while a file of that name is brought.
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
    let options = OpenOptions::new().merging(Merging::OnDemand).vfs(fs);
    let store = options.create(&path, StoreConfig::new(1)).unwrap();
    put(&store, "a", 1.0);
    store.backup(&dest).unwrap();
    put(&store, "b", 2.0);
    store.backup(&dest).unwrap_err();
    let found = contents(&Store::open(&dest).unwrap());
    assert_eq!(found, [("a".to_owned(), 1.0), ("theirs".to_owned(), 7.0)].into());
    assert_whole(&dest);
}

/// A file was read wrongly once. A repair finds it sound, and a backup has a file of its own.
#[test]
fn what_turns_out_sound_is_not_called_damaged_for_ever() {
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
    let damaged = |store: &Store| store.snapshot().segments().filter(|segment| segment.is_damaged).count();
    assert_eq!(damaged(&store), 1);
    store.backup(&dest).unwrap();
    assert_eq!(damaged(&Store::open_read_only(&dest).unwrap()), 0);
    store.close().unwrap();
    assert!(vecstore::repair(&path).unwrap().was_whole());
    let store = Store::open(&path).unwrap();
    assert_eq!((damaged(&store), store.compact().unwrap().damaged), (0, 0));
}
