//! Steps of merging: which entries and files stay, which are removed, and what is reported.

use crate::common::copy_dir;
use crate::common::small::{contents, create, create_again, put, segment_files};
use vecstore::{Address, Error, MergePolicy, OnDuplicate, OpenOptions, ReadOptions, StoreConfig};

#[test]
fn a_full_compaction_leaves_one_file_of_live_rows_in_commit_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..50 {
        put(&store, &format!("{}", i % 20), i as f32);
    }
    store.delete(&["3", "4", "not there"]).unwrap();
    let before = contents(&store.snapshot());
    let order: Vec<Vec<u8>> = store.snapshot().iter().map(|e| e.unwrap().key().to_vec()).collect();
    let old = store.snapshot();

    let done = store.compact_full().unwrap();
    assert_eq!((done.segments_before, done.segments_after, done.merges), (51, 1, 1));
    assert_eq!(done.entries_dropped, 30 + 2 + 2, "superseded, deleted, and their tombstones");
    assert_eq!(segment_files(&path), ["0000000001-0000000051.0.npy"]);
    assert_eq!(contents(&store.snapshot()), before);
    let after: Vec<Vec<u8>> = store.snapshot().iter().map(|e| e.unwrap().key().to_vec()).collect();
    assert_eq!(after, order);
    assert_eq!(old.iter().count(), before.len(), "an old snapshot still reads the removed files");
    assert_eq!(store.compact_full().unwrap().merges, 0, "nothing left to do");
    drop(store);
    let store = create_again(&path);
    assert_eq!(contents(&store.snapshot()), before);
    let totals = store.snapshot().totals();
    assert_eq!((totals.entries, totals.tombstones, totals.rows), (18, 0, 18));
    let segment = store.snapshot().segments().next().unwrap().info();
    assert_eq!((segment.file_rows, segment.rows, segment.entries), (18, 18, 18));
    put(&store, "new", 1.0);
    assert_eq!(store.snapshot().last_commit(), 52);
    assert!(vecstore::verify(&path).unwrap().is_whole());
}

#[test]
fn addresses_survive_merges_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    let mut kept: Vec<(Address, f32)> = Vec::new();
    for round in 0..6 {
        for i in 0..30 {
            let x = (round * 30 + i) as f32;
            let mut batch = store.batch();
            batch.push(format!("{x}a"), &[x, -x]).unwrap();
            batch.push_rows(format!("{x}b"), [[x + 0.5, -x], [7.0, 8.0]]).unwrap();
            store.append(&mut batch, OnDuplicate::Error).unwrap();
            let address = store.snapshot().get(format!("{x}b")).unwrap().unwrap().address();
            assert_eq!(address, Address { commit: store.snapshot().last_commit(), row: 1 });
            if i % 10 == 0 {
                kept.push((address, x + 0.5));
            } else {
                store.delete(&[format!("{x}a")]).unwrap();
            }
        }
        if round % 2 == 0 {
            store.compact().unwrap()
        } else {
            store.compact_full().unwrap()
        };
        for (address, x) in &kept {
            assert_eq!(store.snapshot().row_at(*address).unwrap().unwrap()[0], *x, "{address}");
            let second = Address { row: address.row + 1, ..*address };
            assert_eq!(store.snapshot().row_at(second).unwrap().unwrap(), [7.0, 8.0]);
        }
    }
    drop(store);
    let store = create_again(&path);
    for (address, x) in kept {
        assert_eq!(store.snapshot().row_at(address).unwrap().unwrap()[0], x);
    }
}

#[test]
fn a_tombstone_stays_until_a_merge_includes_all_older_commits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    put(&store, "a", 1.0);
    store.compact_full().unwrap();
    // No merge so far has both commit 1 and the deletion among its inputs: the tombstone still hides "a".
    store.delete(&["a"]).unwrap();
    put(&store, "b", 2.0);
    drop(store);
    for _ in 0..2 {
        let store = create_again(&path);
        assert_eq!(contents(&store.snapshot()).keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(store.snapshot().totals().tombstones, 1);
    }
    let store = create_again(&path);
    store.compact_full().unwrap();
    assert_eq!(store.snapshot().totals().tombstones, 0, "from commit 1 on it may go");
    assert_eq!(contents(&store.snapshot()).keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn leftovers_of_an_interrupted_merge_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..4 {
        put(&store, &i.to_string(), i as f32);
    }
    drop(store);
    let inputs: Vec<(String, Vec<u8>)> = segment_files(&path)
        .into_iter()
        .map(|name| (name.clone(), std::fs::read(path.join("segments").join(name)).unwrap()))
        .collect();
    let manifest = std::fs::read(path.join("MANIFEST")).unwrap();
    let store = create_again(&path);
    store.compact_full().unwrap();
    drop(store);
    let output = segment_files(&path).remove(0);
    let restore = || {
        for (name, bytes) in &inputs {
            std::fs::write(path.join("segments").join(name), bytes).unwrap();
        }
    };

    // The merger was killed after it listed the output, and before it removed the inputs.
    restore();
    std::fs::write(path.join("segments/tmp-merge-00"), "x").unwrap();
    let store = create_again(&path);
    assert_eq!(contents(&store.snapshot()).len(), 4);
    store.compact().unwrap();
    drop(store);
    assert_eq!(segment_files(&path), std::slice::from_ref(&output));

    // The merger was killed before it listed the output.
    restore();
    std::fs::write(path.join("MANIFEST"), manifest).unwrap();
    let store = create_again(&path);
    assert_eq!(store.snapshot().segments().count(), 4, "the inputs serve");
    store.compact_full().unwrap();
    drop(store);
    assert_eq!(segment_files(&path).len(), 1);
    assert_eq!(contents(&create_again(&path).snapshot()).len(), 4);
    assert!(vecstore::verify(&path).unwrap().is_whole());
}

#[test]
fn damage_is_never_copied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..3 {
        put(&store, &i.to_string(), i as f32);
    }
    drop(store);
    let victim = path.join("segments").join(&segment_files(&path)[1]);
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[4097] ^= 4;
    std::fs::write(&victim, &bytes).unwrap();
    let store = create_again(&path);
    let files = segment_files(&path);
    let error = store.compact_full().unwrap_err();
    assert!(matches!(&error, Error::Damaged { path, .. } if *path == victim), "{error}");
    assert_eq!(segment_files(&path), files, "nothing was removed or added");
    put(&store, "still writable", 1.0);
    assert_eq!(store.compact().unwrap().damaged, 1);
    assert_eq!(segment_files(&path).len(), 3, "the damaged one, and one on each side");
    assert_eq!(std::fs::read(&victim).unwrap(), bytes);
    // Later handles know the damage, until it is repaired.
    drop(store);
    let store = create_again(&path);
    assert_eq!(store.compact().unwrap().damaged, 1);
    drop(store);
    vecstore::repair(&path).unwrap();
    let store = create_again(&path);
    assert_eq!(store.compact_full().unwrap().segments_after, 1);
}

#[test]
fn damage_of_large_files_is_never_copied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    const DIM: usize = 65_536;
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    let store = options.create(&path, StoreConfig::new(DIM)).unwrap();
    for part in 0..4 {
        let mut batch = store.batch();
        for row in 0..60 {
            batch.push(format!("key {part} {row}"), &vec![(part * 60 + row) as f32; DIM]).unwrap();
        }
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    drop(store);
    let files = segment_files(&path);
    let last = path.join("segments").join(&files[3]);
    let whole = std::fs::read(&last).unwrap();
    // Damage in the rows, then in the tables.
    for at in [whole.len() / 2, 4096 + 60 * DIM * 4 + 1] {
        let copy = dir.path().join(at.to_string());
        copy_dir(&path, &copy);
        let last = copy.join("segments").join(&files[3]);
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&last, &bytes).unwrap();
        let store = options.open(&copy).unwrap();
        let error = store.compact_full().unwrap_err();
        assert!(matches!(&error, Error::Damaged { path, .. } if *path == last), "{error}");
        assert_eq!(segment_files(&copy).len(), 2, "the others are one");
        assert_eq!(std::fs::read(&last).unwrap(), bytes);
    }
    let store = options.open(&path).unwrap();
    assert_eq!(store.compact_full().unwrap().segments_after, 1);
    let snapshot = store.snapshot();
    assert_eq!(snapshot.iter().count(), 240);
    for (number, entry) in snapshot.iter().enumerate() {
        let entry = entry.unwrap();
        assert!(entry.rows::<f32>().unwrap().iter().all(|element| *element == number as f32));
    }
    assert!(vecstore::verify(&path).unwrap().faults.is_empty());
}

#[test]
fn a_version_shows_the_store_as_it_was_until_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..5 {
        put(&store, &i.to_string(), i as f32);
    }
    let then = contents(&store.snapshot());
    let made = store.create_version("before").unwrap();
    assert_eq!((made.last_commit, made.segments), (5, 5));
    assert!(store.create_version("before").unwrap_err().to_string().contains("already"));
    put(&store, "0", 100.0);
    store.delete(&["1"]).unwrap();
    store.compact_full().unwrap();
    assert_eq!(segment_files(&path).len(), 6, "five pinned, one merged");

    let past = ReadOptions::new().at_version("before").open(&path).unwrap();
    assert_eq!(contents(&past.snapshot()), then);
    assert_eq!(past.refresh().unwrap().last_commit(), 5);
    assert_eq!(store.versions().unwrap(), [made]);

    store.remove_version("before").unwrap();
    assert_eq!(segment_files(&path).len(), 1);
    assert_eq!(contents(&past.snapshot()), then, "an open handle goes on");
    assert!(ReadOptions::new().at_version("before").open(&path).is_err());
    assert!(store.remove_version("before").unwrap_err().to_string().contains("no version"));
}
