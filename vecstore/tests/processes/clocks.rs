//! Clocks that are wrong: nothing but the wording of messages comes from one.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use vecstore::{Merging, OnDuplicate, OpenOptions, Store, StoreConfig};

fn put(store: &Store, key: &str) {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
}

/// Gives every file below a directory this time, or alternately this time and that of the beginning.
fn set_times(dir: &Path, seconds: u64, number: &mut u32) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            set_times(&path, seconds, number);
            continue;
        }
        *number += 1;
        let seconds = if number.is_multiple_of(3) { 0 } else { seconds };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().read(true).open(&path).unwrap().set_modified(time).unwrap();
    }
}

#[test]
fn times_of_files_mean_nothing() {
    // 1970, and 2100.
    for seconds in [0, 4_102_444_800] {
        let dir = tempfile::tempdir().unwrap();
        let (path, parent) = (dir.path().join("s"), dir.path().join("dated"));
        let options = OpenOptions::new().merging(Merging::OnDemand);
        let store = options.create(&path, StoreConfig::new(1)).unwrap();
        let mut number = 0;
        for round in 0..6 {
            for key in 0..5 {
                put(&store, &format!("{round}-{key}"));
            }
            store.backup_rotating(&parent, &round.to_string(), 3).unwrap();
            set_times(dir.path(), seconds, &mut number);
            if round % 2 == 1 {
                store.compact().unwrap();
                set_times(dir.path(), seconds, &mut number);
            }
            let fresh = options.open(&path).unwrap();
            assert_eq!(fresh.snapshot().totals().rows, 5 * (round + 1));
            drop(fresh);
            assert!(vecstore::verify(&path, |_| {}).unwrap().is_whole());
        }
        store.close().unwrap();
        // The manifest goes; what repair builds from the files is the same.
        std::fs::remove_file(path.join("MANIFEST")).unwrap();
        vecstore::repair(&path).unwrap();
        assert_eq!(Store::open(&path).unwrap().snapshot().totals().rows, 30);
    }
}
