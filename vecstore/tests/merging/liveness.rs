//! Liveness bitmaps: with them and without, a store says the same; opening with them reads no kill they know.

use std::fs;
use std::path::PathBuf;

use crate::common::bitmaps::{
    bitmaps, create, live_record, options, put, read_only, segments, small, spoil_kills, state,
};
use crate::common::{assert_whole, copy_dir};
use vecstore::{Error, OnDuplicate, StoreConfig};

#[test]
fn a_closed_store_opens_without_reading_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    let right = state(&store.snapshot());
    store.close().unwrap();
    assert_eq!(bitmaps(&path).len(), 2, "one for each segment with superseded entries");
    assert_whole(&path);
    let files = segments(&path);
    spoil_kills(&files[2]);
    spoil_kills(&files[3]);
    let store = read_only(&path).unwrap();
    assert_eq!(state(&store.snapshot()), right, "the damaged kills were not read");
    let report = vecstore::verify(&path, |_| {}).unwrap();
    assert!(report.faults.iter().any(|fault| fault.path == files[2] && fault.section == "KILL"));
    fs::remove_dir_all(path.join("live")).unwrap();
    let error = read_only(&path).unwrap_err();
    assert!(matches!(&error, Error::Damaged { section, .. } if section == "KILL"), "now they are: {error}");
}

/// Kills of commits after the last checkpoint are replayed on top of what bitmaps say.
#[test]
fn later_kills_are_replayed_on_top() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    let store = small(&path);
    store.checkpoint().unwrap();
    put(&store, &["a", "c"], 4.0);
    store.delete(&["d", "a"]).unwrap();
    let right = state(&store.snapshot());
    assert_eq!(right.0.len(), 2);
    // As a kill would leave it.
    copy_dir(&path, &copy);
    assert_eq!(state(&read_only(&copy).unwrap().snapshot()), right);
    // What is in bitmaps is not read again, what came later is.
    spoil_kills(&segments(&copy)[2]);
    assert_eq!(state(&read_only(&copy).unwrap().snapshot()), right);
    spoil_kills(&segments(&copy)[4]);
    assert!(read_only(&copy).is_err());
    drop(store);
    assert_eq!(state(&read_only(&path).unwrap().snapshot()), right);
    assert_whole(&path);
}

#[test]
fn only_changed_bitmaps_are_written_and_superseded_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = small(&path);
    store.checkpoint().unwrap();
    let before = bitmaps(&path);
    put(&store, &["c"], 5.0);
    store.checkpoint().unwrap();
    let after = bitmaps(&path);
    assert_eq!(after.len(), 2);
    assert_ne!(after[0], before[0], "the first segment has one more");
    assert_eq!(after[1], before[1], "the second has not");
    put(&store, &["f"], 6.0);
    store.checkpoint().unwrap();
    assert_eq!(bitmaps(&path), after, "nothing was superseded");

    // A version needs what it lists.
    store.create_version("then").unwrap();
    let then = state(&store.snapshot());
    store.delete(&["d"]).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(bitmaps(&path).len(), 3, "the second segment's is pinned and superseded");
    store.compact_full().unwrap();
    assert_eq!(bitmaps(&path), after, "pinned ones only");
    assert_whole(&path);
    let at = || options().at_version("then").open(&path);
    assert_eq!(state(&at().unwrap().snapshot()), then);
    spoil_kills(
        &segments(&path).into_iter().find(|file| file.ends_with("0000000003-0000000003.0.npy")).unwrap(),
    );
    assert_eq!(state(&at().unwrap().snapshot()), then, "a checkpoint is opened with its bitmaps");
    fs::remove_file(&after[0]).unwrap();
    assert!(vecstore::verify(&path, |_| {}).unwrap().faults.iter().any(|fault| fault.path == after[0]));
    assert!(at().is_err(), "without one, the kills are read");
    store.drop_version("then").unwrap();
    assert_eq!(bitmaps(&path), Vec::<PathBuf>::new());
    assert_whole(&path);
}

#[test]
fn two_handles_and_a_merge_by_the_other_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = small(&path);
    let second = options().open(&path).unwrap();
    first.checkpoint().unwrap();
    // The second handle merges; the first still reads the former files, and kills what is in the merged one.
    second.compact_full().unwrap();
    put(&first, &["a", "d"], 7.0);
    let right = state(&first.snapshot());
    first.checkpoint().unwrap();
    assert_eq!(bitmaps(&path).len(), 1);
    let merged = state(&first.snapshot());
    assert_eq!(merged.0, right.0);
    assert!(merged.1.bytes < right.1.bytes, "it reads the merged file now");
    let reader = read_only(&path).unwrap();
    assert_eq!(state(&reader.snapshot()), merged);
    assert_eq!(state(&second.refresh().unwrap()).0, right.0);
    spoil_kills(&segments(&path)[1]);
    assert_eq!(state(&read_only(&path).unwrap().snapshot()).0, right.0, "from bitmaps of the merged file");
}

/// A merge keeps kills of what lies in a segment that is too large for it, and bitmaps have them: nothing is
/// read twice.
#[test]
fn a_merged_and_closed_store_opens_without_reading_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().max_segment(64 << 10).create(&path, StoreConfig::new(2)).unwrap();
    let keys: Vec<String> = (0..10_000).map(|key| key.to_string()).collect();
    put(&store, &keys.iter().map(String::as_str).collect::<Vec<_>>(), 1.0);
    // Files become many, and all but the first are merged.
    for x in 2..140 {
        put(&store, &["1", "2"], x as f32);
    }
    let right = state(&store.snapshot());
    store.close().unwrap();
    assert_whole(&path);
    let files = segments(&path);
    let merged = &files[1];
    assert!(merged.to_string_lossy().contains("0000000002-") && files.len() < 100, "{files:?}");
    assert_eq!(state(&read_only(&path).unwrap().snapshot()), right);
    spoil_kills(merged);
    assert_eq!(state(&read_only(&path).unwrap().snapshot()), right, "the damaged kills were not read");
    fs::remove_dir_all(path.join("live")).unwrap();
    assert!(read_only(&path).is_err(), "without bitmaps they are");
}

#[test]
fn backups_and_restored_stores_come_without_and_get_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup, restored) = (dir.path().join("s"), dir.path().join("b"), dir.path().join("r"));
    let store = small(&path);
    let right = state(&store.snapshot());
    store.backup(&backup).unwrap();
    vecstore::restore(&backup, &restored).unwrap();
    for copy in [&backup, &restored] {
        assert!(!copy.join("live").exists() && live_record(copy).is_none());
        assert_eq!(state(&read_only(copy).unwrap().snapshot()), right);
        assert_whole(copy);
    }
    // Opening a backup and closing it changes nothing.
    options().open(&backup).unwrap().close().unwrap();
    assert!(live_record(&backup).is_none());
    store.backup(&backup).unwrap();
    let store = options().open(&restored).unwrap();
    put(&store, &["z"], 1.0);
    store.close().unwrap();
    assert_eq!(bitmaps(&restored).len(), 2);
    assert_whole(&restored);
    // Straight from the store, which has bitmaps.
    let again = dir.path().join("again");
    vecstore::restore(&restored, &again).unwrap();
    assert!(live_record(&again).is_none());
    assert_whole(&again);
}

/// Bitmaps cost a flush each, so checkpoints that come by themselves wait until they are worth it.
#[test]
fn a_writer_that_never_closes_leaves_no_more_than_some_kills_to_replay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    let replace = |keys: std::ops::Range<u32>| {
        let mut batch = store.batch();
        keys.for_each(|key| batch.push(key.to_le_bytes(), &[key as f32, 1.0]).unwrap());
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    };
    replace(0..70_000);
    replace(0..1_000);
    for key in 0..62 {
        replace(key..key + 1);
    }
    assert_eq!(store.snapshot().segments().count(), 64);
    assert_eq!(bitmaps(&path), Vec::<PathBuf>::new(), "a checkpoint came by, and left 1,062 kills");
    replace(0..70_000);
    for key in 0..63 {
        replace(key..key + 1);
    }
    assert!(bitmaps(&path).len() > 60, "they were too many");
    let right = state(&store.snapshot());
    let copy = dir.path().join("copy");
    copy_dir(&path, &copy);
    spoil_kills(&segments(&copy)[64]);
    assert_eq!(state(&read_only(&copy).unwrap().snapshot()), right);
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// Random work on two handles; after each step a reader with bitmaps, one without, and the writer say the
/// same.
#[test]
fn with_and_without_bitmaps_a_store_says_the_same() {
    let mut with = 0;
    for seed in 0..6 {
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        let (path, bare) = (dir.path().join("s"), dir.path().join("bare"));
        let mut stores = [create(&path), options().open(&path).unwrap()];
        for step in 0..40u32 {
            let at = random.below(2) as usize;
            let store = &stores[at];
            let key = |random: &mut Random| format!("{}", random.below(25));
            match random.below(16) {
                0..7 => {
                    let keys: Vec<String> = (0..1 + random.below(4)).map(|_| key(&mut random)).collect();
                    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                    keys.sort_unstable();
                    keys.dedup();
                    put(store, &keys, step as f32);
                }
                7..9 => {
                    let keys: Vec<String> = (0..3).map(|_| key(&mut random)).collect();
                    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                    keys.sort_unstable();
                    keys.dedup();
                    store.delete(&keys).unwrap();
                }
                9 => {
                    let mut batch = store.batch();
                    let number = random.below(25);
                    batch
                        .push(number.to_string(), &vec![step as f32; 2 * (1 + number as usize % 4)])
                        .unwrap();
                    batch.push_empty(format!("empty {number}"), b"").unwrap();
                    batch.push_rejected(format!("rejected {number}"), "bad").unwrap();
                    store.append(&mut batch, OnDuplicate::Replace).unwrap();
                }
                10..12 => store.checkpoint().unwrap(),
                12 => drop(store.compact().unwrap()),
                13 => drop(store.compact_full().unwrap()),
                14 => store.set_setting("step", &step.to_string()).unwrap(),
                _ => stores[at] = options().open(&path).unwrap(),
            }
            let right = state(&stores[at].refresh().unwrap());
            with += usize::from(!bitmaps(&path).is_empty());
            let found = state(&read_only(&path).unwrap().snapshot());
            assert_eq!(found.0, right.0, "seed {seed}, step {step}");
            assert_eq!(found.2, right.2, "seed {seed}, step {step}");
            copy_dir(&path, &bare);
            let _ = fs::remove_dir_all(bare.join("live"));
            let without = state(&read_only(&bare).unwrap().snapshot());
            assert_eq!(without, found, "seed {seed}, step {step}");
            fs::remove_dir_all(&bare).unwrap();
            assert_whole(&path);
        }
    }
    assert!(with > 60, "bitmaps were there in {with} steps");
}
