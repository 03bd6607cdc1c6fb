//! Wrong clocks: a store takes no order from a clock, so the times of files change no answer.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use vecstore::{BackupOptions, MergePolicy, OnDuplicate, OpenOptions, Store, StoreConfig};

fn put(store: &Store, key: &str) {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
}

/// Sets the time of every file below a directory; every third file gets the time 0 instead.
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
fn file_times_change_no_answer() {
    // 1970, and 2100.
    for seconds in [0, 4_102_444_800] {
        let dir = tempfile::tempdir().unwrap();
        let (path, parent) = (dir.path().join("s"), dir.path().join("dated"));
        let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
        let store = options.create(&path, StoreConfig::new(1)).unwrap();
        let mut number = 0;
        for round in 0..6 {
            for key in 0..5 {
                put(&store, &format!("{round}-{key}"));
            }
            store.backup_with(parent.join(round.to_string()), BackupOptions::new().keep(3)).unwrap();
            set_times(dir.path(), seconds, &mut number);
            if round % 2 == 1 {
                store.compact().unwrap();
                set_times(dir.path(), seconds, &mut number);
            }
            let fresh = options.open(&path).unwrap();
            assert_eq!(fresh.snapshot().totals().rows, 5 * (round + 1));
            drop(fresh);
            assert!(vecstore::verify(&path).unwrap().is_whole());
        }
        store.close().unwrap();
        // Without the manifest, a repair builds the same store from the files.
        std::fs::remove_file(path.join("MANIFEST")).unwrap();
        vecstore::repair(&path).unwrap();
        assert_eq!(Store::open(&path).unwrap().snapshot().totals().rows, 30);
    }
}
