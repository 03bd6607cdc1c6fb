//! Liveness bitmaps: a store gives the same answers with and without them, and an opener reads no kill that
//! they include.

use std::fs;
use std::path::PathBuf;

use crate::common::bitmaps::{bitmaps, create, options, put, read_only, segments, small, spoil_kills, state};
use crate::common::layout::live_records;
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
    let report = vecstore::verify(&path).unwrap();
    assert!(report.faults.iter().any(|fault| fault.path == files[2] && fault.section == "KILL"));
    fs::remove_dir_all(path.join("derived")).unwrap();
    let error = read_only(&path).unwrap_err();
    assert!(matches!(&error, Error::Damaged { section, .. } if section == "KILL"), "now they are: {error}");
}

/// Kills of commits after the last checkpoint are replayed on top of the bitmaps.
#[test]
fn kills_after_a_checkpoint_are_replayed_on_top_of_bitmaps() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    let store = small(&path);
    store.checkpoint().unwrap();
    put(&store, &["a", "c"], 4.0);
    store.delete(&["d", "a"]).unwrap();
    let right = state(&store.snapshot());
    assert_eq!(right.0.len(), 2);
    // The state that a process ended by SIGKILL would leave.
    copy_dir(&path, &copy);
    assert_eq!(state(&read_only(&copy).unwrap().snapshot()), right);
    // Kills that bitmaps include are not read; later ones are.
    spoil_kills(&segments(&copy)[2]);
    assert_eq!(state(&read_only(&copy).unwrap().snapshot()), right);
    spoil_kills(&segments(&copy)[4]);
    assert!(read_only(&copy).is_err());
    drop(store);
    assert_eq!(state(&read_only(&path).unwrap().snapshot()), right);
    assert_whole(&path);
}

#[test]
fn only_changed_bitmaps_are_written_and_old_ones_are_removed() {
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

    // A version keeps the bitmaps that it lists.
    store.create_version("then").unwrap();
    let then = state(&store.snapshot());
    store.delete(&["d"]).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(bitmaps(&path).len(), 3, "the second segment's is pinned and superseded");
    store.compact_full().unwrap();
    assert_eq!(bitmaps(&path), after, "pinned ones only");
    assert_whole(&path);
    let at = || options().for_reading().at_version("then").open(&path);
    assert_eq!(state(&at().unwrap().snapshot()), then);
    spoil_kills(
        &segments(&path).into_iter().find(|file| file.ends_with("0000000003-0000000003.0.npy")).unwrap(),
    );
    assert_eq!(state(&at().unwrap().snapshot()), then, "a checkpoint is opened with its bitmaps");
    fs::remove_file(&after[0]).unwrap();
    assert!(vecstore::verify(&path).unwrap().faults.iter().any(|fault| fault.path == after[0]));
    assert!(at().is_err(), "without one, the kills are read");
    store.remove_version("then").unwrap();
    assert_eq!(bitmaps(&path), Vec::<PathBuf>::new());
    assert_whole(&path);
}

#[test]
fn a_handle_kills_entries_in_a_segment_merged_by_another_handle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = small(&path);
    let second = options().open(&path).unwrap();
    first.checkpoint().unwrap();
    // The second handle merges. The first still reads the inputs, and kills entries that are now in the
    // merged segment.
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

/// A merge keeps kills of entries in a segment too large to be merged. Bitmaps include these kills, so that
/// an opener does not read them.
#[test]
fn a_merged_and_closed_store_opens_without_reading_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = options().max_segment(64 << 10).create(&path, StoreConfig::new(2)).unwrap();
    let keys: Vec<String> = (0..10_000).map(|key| key.to_string()).collect();
    put(&store, &keys.iter().map(String::as_str).collect::<Vec<_>>(), 1.0);
    // Segments become many, and all but the first are merged.
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
    fs::remove_dir_all(path.join("derived")).unwrap();
    assert!(read_only(&path).is_err(), "without bitmaps they are");
}

#[test]
fn backups_have_bitmaps_and_restored_stores_get_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup, restored) = (dir.path().join("s"), dir.path().join("b"), dir.path().join("r"));
    let store = small(&path);
    let right = state(&store.snapshot());
    store.backup(&backup).unwrap();
    vecstore::restore(&backup, &restored).unwrap();
    assert_eq!(live_records(&backup), live_records(&path));
    assert_eq!((live_records(&backup).len(), bitmaps(&backup).len()), (2, 2));
    assert!(!restored.join("derived").exists() && live_records(&restored).is_empty());
    for copy in [&backup, &restored] {
        assert_eq!(state(&read_only(copy).unwrap().snapshot()), right);
        assert_whole(copy);
    }
    // Opening and closing a backup changes nothing. The next backup removes bitmaps that it does not list.
    options().open(&backup).unwrap().close().unwrap();
    let before = bitmaps(&backup);
    store.delete(&["c"]).unwrap();
    store.backup(&backup).unwrap();
    assert_eq!(live_records(&backup), live_records(&path));
    assert_ne!(bitmaps(&backup), before);
    assert_eq!(bitmaps(&backup).len(), 2);
    assert_whole(&backup);
    // Bitmaps tell only together what is superseded: if one is missing, the backup lists none.
    fs::remove_file(&bitmaps(&path)[0]).unwrap();
    let without = dir.path().join("without");
    store.backup(&without).unwrap();
    assert!(live_records(&without).is_empty());
    assert_eq!(state(&read_only(&without).unwrap().snapshot()), state(&store.snapshot()));
    assert_whole(&without);
    let store = options().open(&restored).unwrap();
    put(&store, &["z"], 1.0);
    store.close().unwrap();
    assert_eq!(bitmaps(&restored).len(), 2);
    assert_whole(&restored);
    // A restore from a store, which has bitmaps.
    let again = dir.path().join("again");
    vecstore::restore(&restored, &again).unwrap();
    assert!(live_records(&again).is_empty());
    assert_whole(&again);
}

/// A bitmap costs a flush, so that automatic checkpoints write them only once there are many kills to replay.
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

/// Random work on two handles. After each step a reader with bitmaps, a reader without, and the writer agree.
#[test]
fn a_store_gives_the_same_answers_with_and_without_bitmaps() {
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
                    let rows = vec![[step as f32; 2]; 1 + number as usize % 4];
                    batch.push_rows(number.to_string(), rows).unwrap();
                    batch.push_empty(format!("empty {number}")).unwrap();
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
            let _ = fs::remove_dir_all(bare.join("derived"));
            let without = state(&read_only(&bare).unwrap().snapshot());
            assert_eq!(without, found, "seed {seed}, step {step}");
            fs::remove_dir_all(&bare).unwrap();
            assert_whole(&path);
        }
    }
    assert!(with > 60, "bitmaps were there in {with} steps");
}
