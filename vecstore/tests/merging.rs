//! Merging: what stays, what goes, and who notices.

use std::collections::BTreeMap;
use std::path::Path;

use std::sync::{Arc, Mutex};

use vecstore::{Address, Error, Event, Merging, OnDuplicate, OpenOptions, Store, StoreConfig};

fn create(path: &Path) -> Store {
    OpenOptions::new().merging(Merging::OnDemand).create(path, StoreConfig::new(2)).unwrap()
}

fn put(store: &Store, key: &str, x: f32) -> Address {
    let mut batch = store.batch();
    batch.push(key, &[x, -x]).unwrap();
    store.append(batch, OnDuplicate::Replace).unwrap();
    store.snapshot().get(key).unwrap().unwrap().address()
}

fn contents(store: &Store) -> BTreeMap<String, Vec<f32>> {
    let snapshot = store.snapshot();
    snapshot
        .iter()
        .map(|entry| {
            let entry = entry.unwrap();
            (String::from_utf8_lossy(entry.key()).into_owned(), entry.to_f32().unwrap())
        })
        .collect()
}

fn segment_files(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_full_compaction_leaves_one_file_of_live_rows_in_commit_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..50 {
        put(&store, &format!("{}", i % 20), i as f32);
    }
    store.delete(&["3", "4", "not there"]).unwrap();
    let before = contents(&store);
    let order: Vec<Vec<u8>> = store.snapshot().iter().map(|e| e.unwrap().key().to_vec()).collect();
    let old = store.snapshot();

    let done = store.compact_full().unwrap();
    assert_eq!((done.segments_before, done.segments_after, done.merges), (51, 1, 1));
    assert_eq!(done.entries_dropped, 30 + 2 + 2, "superseded, deleted, and their tombstones");
    assert_eq!(segment_files(&path), ["0000000001-0000000051.0.npy"]);
    assert_eq!(contents(&store), before);
    let after: Vec<Vec<u8>> = store.snapshot().iter().map(|e| e.unwrap().key().to_vec()).collect();
    assert_eq!(after, order);
    assert_eq!(old.iter().count(), before.len(), "an old snapshot still reads the removed files");
    assert_eq!(store.compact_full().unwrap().merges, 0, "nothing left to do");
    drop(store);
    let store = create_again(&path);
    assert_eq!(contents(&store), before);
    let totals = store.snapshot().totals();
    assert_eq!((totals.entries, totals.tombstones, totals.rows), (18, 0, 18));
    let segment = store.snapshot().segments().next().unwrap();
    assert_eq!((segment.rows, segment.entries), (18, 18));
    put(&store, "new", 1.0);
    assert_eq!(store.snapshot().last_commit(), 52);
    assert!(vecstore::verify(&path, |_| {}).unwrap().is_whole());
}

fn create_again(path: &Path) -> Store {
    OpenOptions::new().merging(Merging::OnDemand).open(path).unwrap()
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
            batch.push(format!("{x}b"), &[x + 0.5, -x, 7.0, 8.0]).unwrap();
            store.append(batch, OnDuplicate::Error).unwrap();
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
            assert_eq!(store.snapshot().at(*address).unwrap().unwrap()[0], *x, "{address}");
            let second = Address { row: address.row + 1, ..*address };
            assert_eq!(store.snapshot().at(second).unwrap().unwrap(), [7.0, 8.0]);
        }
    }
    drop(store);
    let store = create_again(&path);
    for (address, x) in kept {
        assert_eq!(store.snapshot().at(address).unwrap().unwrap()[0], x);
    }
}

#[test]
fn a_tombstone_stays_while_something_older_is_outside_the_merge() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    put(&store, "a", 1.0);
    store.compact_full().unwrap();
    // A checkpoint pins the file that holds "a", but what matters is the range: merge commits 2 and 3 alone by making
    // the first segment too large to be joined.
    store.delete(&["a"]).unwrap();
    put(&store, "b", 2.0);
    drop(store);
    for _ in 0..2 {
        let store = create_again(&path);
        assert_eq!(contents(&store).keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(store.snapshot().totals().tombstones, 1);
    }
    let store = create_again(&path);
    store.compact_full().unwrap();
    assert_eq!(store.snapshot().totals().tombstones, 0, "from commit 1 on it may go");
    assert_eq!(contents(&store).keys().collect::<Vec<_>>(), ["b"]);
}

/// A merger that meets the merge of another process looks again by itself when that is over: no commit has to wake it.
#[test]
fn a_merger_that_met_another_looks_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (tell, told) = std::sync::mpsc::channel();
    let of_merges = move |event: &Event| match event {
        Event::Merged { .. } | Event::MergeFailed { .. } => drop(tell.send(event.clone())),
        _ => {}
    };
    let store = OpenOptions::new().on_event(of_merges).create(&path, StoreConfig::new(2)).unwrap();
    // As another process would: locks of this kind belong to an open file, not to a process.
    let mut options = std::fs::File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    let others = options.open(path.join("LOCK.merge")).unwrap();
    others.lock().unwrap();
    for i in 0..100 {
        put(&store, &format!("{i}"), i as f32);
    }
    // Long enough for the merger to have met the lock after the last commit.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(store.snapshot().segments().count(), 100);
    assert!(told.try_iter().next().is_none(), "that others merge is nothing to tell of");
    others.unlock().unwrap();
    let event = told.recv_timeout(std::time::Duration::from_secs(60)).expect("it looks again");
    assert!(matches!(event, Event::Merged { segments: 64.., .. }), "{event}");
    assert_eq!(contents(&store).len(), 100);
    store.close().unwrap();
}

#[test]
fn background_merging_keeps_files_few_while_threads_append_and_delete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(2)).unwrap();
    let reader = Store::open_read_only(&path).unwrap();
    let most = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, most, path) = (&store, &most, &path);
            scope.spawn(move || {
                for i in 0..400 {
                    put(store, &format!("{thread}/{}", i % 150), i as f32);
                    if i % 10 == 0 {
                        store.delete(&[format!("{thread}/{}", (i + 75) % 150)]).unwrap();
                    }
                    if i % 50 == 0 {
                        most.fetch_max(segment_files(path).len(), std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..50 {
                let snapshot = reader.refresh().unwrap();
                let mut keys: Vec<Vec<u8>> = snapshot.iter().map(|e| e.unwrap().key().to_vec()).collect();
                let count = keys.len();
                keys.sort();
                keys.dedup();
                assert_eq!(keys.len(), count, "no key twice in any snapshot");
            }
        });
    });
    let expected = contents(&store);
    for (key, row) in &expected {
        let i: usize = key.split('/').nth(1).unwrap().parse().unwrap();
        assert_eq!(row[0] as usize % 150, i);
    }
    drop(store);
    assert!(most.into_inner() < 200, "files stay few");
    assert!(segment_files(&path).len() < 200);
    assert!(vecstore::verify(&path, |_| {}).unwrap().is_whole());
    assert_eq!(contents(&create_again(&path)), expected);
}

#[test]
fn one_shot_writers_leave_a_tidy_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(create(&path));
    for i in 0..400 {
        put(&create_again(&path), &i.to_string(), 1.0);
    }
    assert!(segment_files(&path).len() <= 200, "{}", segment_files(&path).len());
    assert_eq!(contents(&create_again(&path)).len(), 400);
}

#[test]
fn what_an_interrupted_merge_left_is_removed() {
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

    // The kill came after listing the output, before removing the inputs.
    restore();
    std::fs::write(path.join("segments/tmp-merge-00"), "x").unwrap();
    let store = create_again(&path);
    assert_eq!(contents(&store).len(), 4);
    store.compact().unwrap();
    drop(store);
    assert_eq!(segment_files(&path), std::slice::from_ref(&output));

    // The kill came before listing the output.
    restore();
    std::fs::write(path.join("MANIFEST"), manifest).unwrap();
    let store = create_again(&path);
    assert_eq!(store.snapshot().segments().count(), 4, "the inputs serve");
    store.compact_full().unwrap();
    drop(store);
    assert_eq!(segment_files(&path).len(), 1);
    assert_eq!(contents(&create_again(&path)).len(), 4);
    assert!(vecstore::verify(&path, |_| {}).unwrap().is_whole());
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
    std::fs::write(&victim, bytes).unwrap();
    let store = create_again(&path);
    let error = store.compact_full().unwrap_err();
    assert!(matches!(&error, Error::Damaged { section, .. } if section == "ROWS, block 0"), "{error}");
    assert_eq!(segment_files(&path).len(), 3, "nothing was removed or added");
    put(&store, "still writable", 1.0);
}

/// Large inputs are checked while the output is written. Whatever is wrong with one of them is found before that gets a name.
#[test]
fn damage_of_large_files_is_never_copied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    const DIM: usize = 65_536;
    let options = OpenOptions::new().merging(Merging::OnDemand);
    let store = options.create(&path, StoreConfig::new(DIM)).unwrap();
    for part in 0..4 {
        let mut batch = store.batch();
        for row in 0..60 {
            batch.push(format!("key {part} {row}"), &vec![(part * 60 + row) as f32; DIM]).unwrap();
        }
        store.append(batch, OnDuplicate::Error).unwrap();
    }
    drop(store);
    let files = segment_files(&path);
    let last = path.join("segments").join(&files[3]);
    let whole = std::fs::read(&last).unwrap();
    // In its rows; and in its tables, which are read while they are checked.
    for (at, wanted) in [(whole.len() / 2, "ROWS"), (4096 + 60 * DIM * 4 + 1, "KEYS")] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&last, &bytes).unwrap();
        let store = options.open(&path).unwrap();
        let error = store.compact_full().unwrap_err();
        assert!(
            matches!(&error, Error::Damaged { section, path, .. } if section.starts_with(wanted) && *path == last),
            "{error}"
        );
        assert_eq!(segment_files(&path), files, "nothing was removed or added");
    }
    std::fs::write(&last, &whole).unwrap();
    let store = options.open(&path).unwrap();
    assert_eq!(store.compact_full().unwrap().segments_after, 1);
    let snapshot = store.snapshot();
    for (number, entry) in snapshot.iter().enumerate() {
        let entry = entry.unwrap();
        assert!(entry.rows::<f32>().unwrap().iter().all(|element| *element == number as f32));
    }
    assert!(vecstore::verify(&path, |_| ()).unwrap().faults.is_empty());
}

#[test]
fn a_named_checkpoint_shows_the_store_as_it_was_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..5 {
        put(&store, &i.to_string(), i as f32);
    }
    let then = contents(&store);
    let made = store.create_checkpoint("before").unwrap();
    assert_eq!((made.last_commit, made.segments), (5, 5));
    assert!(store.create_checkpoint("before").unwrap_err().to_string().contains("already"));
    put(&store, "0", 100.0);
    store.delete(&["1"]).unwrap();
    store.compact_full().unwrap();
    assert_eq!(segment_files(&path).len(), 6, "five pinned, one merged");

    let past = OpenOptions::new().at_checkpoint("before").open(&path).unwrap();
    assert_eq!(contents(&past), then);
    assert_eq!(past.refresh().unwrap().last_commit(), 5);
    assert!(matches!(past.compact(), Err(Error::ReadOnly { .. })));
    assert_eq!(store.checkpoints().unwrap(), [made]);

    store.drop_checkpoint("before").unwrap();
    assert_eq!(segment_files(&path).len(), 1);
    assert_eq!(contents(&past), then, "an open handle goes on");
    assert!(OpenOptions::new().at_checkpoint("before").open(&path).is_err());
    assert!(store.drop_checkpoint("before").unwrap_err().to_string().contains("no checkpoint"));
}

#[test]
fn a_merge_that_cannot_succeed_does_not_hold_up_appends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..3 {
        put(&store, &i.to_string(), 1.0);
    }
    let victim = path.join("segments").join(&segment_files(&path)[1]);
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[4097] ^= 4;
    std::fs::write(&victim, bytes).unwrap();
    for i in 3..300 {
        put(&store, &i.to_string(), 1.0);
    }
    assert_eq!(contents(&store).len(), 300);
    drop(store);
    assert!(segment_files(&path).len() >= 300, "damage is not merged away");
}

#[test]
fn a_compaction_ends_although_somebody_appends_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..20 {
        put(&store, &i.to_string(), 1.0);
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, done) = (&store, &done);
        scope.spawn(move || {
            let mut i = 20;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                put(store, &i.to_string(), 1.0);
                i += 1;
            }
        });
        let merges = store.compact_full().unwrap().merges + store.compact().unwrap().merges;
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(merges <= 4, "{merges}");
    });
    assert!(vecstore::verify(&path, |_| {}).unwrap().is_whole());
}

/// Appends beside a full compaction of six files of 16 MiB and so many small ones. Says how many, how often newer files were
/// merged meanwhile, and how many files there were at most.
fn append_beside_a_long_merge(small: usize) -> (usize, usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let dim = 1 << 15;
    let options = OpenOptions::new().merging(Merging::OnDemand);
    let store = options.create(&path, StoreConfig::new(dim)).unwrap();
    let row = vec![0.5f32; dim];
    let put = |number: usize, rows: usize| {
        let mut batch = store.batch();
        for i in 0..rows {
            batch.push(format!("{number}/{i}"), &row).unwrap();
        }
        store.append(batch, OnDuplicate::Error).unwrap();
    };
    // Many steps of the merge below.
    (0..6).for_each(|number| put(number, 128));
    let first = 6 + small;
    (6..first).for_each(|number| put(number, 1));

    let within = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&within);
    let counting = options.clone().on_event(move |event| {
        if let Event::Merged { first, .. } = event {
            *counted.lock().unwrap() += usize::from(*first > 1);
        }
    });
    let other = counting.open(&path).unwrap();
    let (number, most) = std::thread::scope(|scope| {
        let compaction = scope.spawn(|| other.compact_full().unwrap());
        let (mut number, mut most) = (first, 0);
        while !compaction.is_finished() {
            put(number, 1);
            number += 1;
            most = most.max(segment_files(&path).len());
        }
        assert_eq!(compaction.join().unwrap().merges, 1);
        (number, most)
    });
    assert!(vecstore::verify(&path, |_| {}).unwrap().is_whole());
    let within = *within.lock().unwrap();
    (number - first, within, most)
}

#[test]
fn files_stay_few_while_a_long_merge_is_under_way() {
    let (_, _, most) = append_beside_a_long_merge(0);
    // From 180 segments on appends wait; for a moment the inputs of a merge that has ended are there too.
    assert!(most < 180 + 64 + 4, "{most} files");
}

/// What the long merge is about to take the place of counts too: newer files have to be merged before there are many.
#[test]
fn a_long_merge_of_many_files_does_not_keep_appends_waiting() {
    // On a busy machine most appends may come after the last look of the merge.
    let tried: Vec<(usize, usize)> = (0..5)
        .map(|_| {
            let (appends, within, most) = append_beside_a_long_merge(104);
            assert!(most < 180 + 64 + 4, "{most} files");
            (appends, within)
        })
        .take_while(|(appends, within)| *within == 0 && *appends >= 75)
        .collect();
    assert!(tried.len() < 5, "appends, and merges meanwhile: {tried:?}");
}

/// Whoever appends lists commits now and then. A merge takes what is listed, and does not make him wait for a list of its own.
#[test]
fn a_merge_leaves_what_is_not_listed_yet_to_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..10 {
        put(&store, &format!("k{i}"), 1.0);
    }
    store.close().unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let store = OpenOptions::new()
        .merging(Merging::OnDemand)
        .on_event(move |event| match event {
            Event::Checkpoint { first, last, .. } => seen.lock().unwrap().push(("listed", *first, *last)),
            Event::Merged { first, last, .. } => seen.lock().unwrap().push(("merged", *first, *last)),
            _ => {}
        })
        .open(&path)
        .unwrap();
    for i in 10..130 {
        put(&store, &format!("k{i}"), 1.0);
    }
    assert_eq!(*events.lock().unwrap(), [("listed", 11, 74), ("merged", 1, 74)]);
    assert_eq!(segment_files(&path).len(), 1 + 56);
    assert_eq!(contents(&store).len(), 130);
}

#[test]
fn what_was_deleted_from_a_large_segment_gives_its_space_back_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let dim = 4096;
    let store = Store::create(&path, StoreConfig::new(dim)).unwrap();
    let mut batch = store.batch();
    for i in 0..200 {
        batch.push(format!("{i}"), &vec![i as f32; dim]).unwrap();
    }
    store.append(batch, OnDuplicate::Error).unwrap();
    let bytes = |store: &Store| store.refresh().unwrap().totals().bytes;
    let before = bytes(&store);
    let keys: Vec<String> = (0..120).map(|i| format!("{i}")).collect();
    store.delete(&keys).unwrap();
    let start = std::time::Instant::now();
    while bytes(&store) > before / 2 {
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "{} of {before} bytes", bytes(&store));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(contents(&store).len(), 80);
    drop(store);
    assert!(vecstore::verify(&path, |_| {}).unwrap().is_whole());
}

/// Commits wake the merger now and then, not each time: the last ones of a burst are merged all the same.
#[test]
fn what_the_end_of_a_burst_leaves_is_merged_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..60 {
        put(&store, &format!("before {i}"), 1.0);
    }
    drop(store);
    let (tell, told) = std::sync::mpsc::channel();
    let store = OpenOptions::new()
        .on_event(move |event| {
            if matches!(event, Event::Merged { .. }) {
                tell.send(()).ok();
            }
        })
        .open(&path)
        .unwrap();
    put(&store, "the first", 1.0);
    // It has looked by now, and found nothing to do yet.
    std::thread::sleep(std::time::Duration::from_millis(50));
    for i in 0..6 {
        put(&store, &format!("burst {i}"), 1.0);
    }
    told.recv_timeout(std::time::Duration::from_secs(60)).expect("it is merged without another commit");
    assert_eq!(store.snapshot().totals().rows, 67);
}
