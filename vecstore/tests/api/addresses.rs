//! An address, (commit, row), is valid for ever: the test keeps every tenth row's address and reads it back
//! after every operation that moves rows.

use std::path::Path;

use vecstore::{Address, MergePolicy, OnDuplicate, OpenOptions, Reader, Snapshot, Store, StoreConfig};

const DIM: usize = 3;

/// A row as it was stored, and its address.
struct Kept {
    address: Address,
    key: String,
    row: [f32; DIM],
    deleted: bool,
}

fn check(snapshot: &Snapshot, kept: &[Kept], when: &str) {
    for Kept { address, key, row, deleted } in kept {
        let found = snapshot.row_at(*address).unwrap_or_else(|error| panic!("{when}, {key}: {error}"));
        if *deleted {
            assert_eq!(found, None, "{when}, {key} was deleted");
        } else {
            assert_eq!(found.as_deref(), Some(&row[..]), "{when}, {key} at {address}");
        }
    }
}

fn open(path: &Path) -> Store {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand).open(path).unwrap()
}

#[test]
fn addresses_survive_merges_deletes_backups_and_restores() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut store = OpenOptions::new()
        .merge_policy(MergePolicy::OnDemand)
        .create(at("s"), StoreConfig::new(DIM))
        .unwrap();
    let mut kept: Vec<Kept> = Vec::new();
    let mut rows = 0u32;
    let mut path = at("s");
    for round in 0..8 {
        let before = kept.len();
        for batch_number in 0..20 {
            let mut batch = store.batch();
            let mut of_batch = Vec::new();
            let mut row_in_batch = 0u64;
            for entry in 0..7 {
                let key = format!("{round}/{batch_number}/{entry}");
                // Each entry has one to three rows.
                let count = 1 + (rows as usize) % 3;
                let values: Vec<[f32; DIM]> = (0..count)
                    .map(|_| {
                        rows += 1;
                        [rows as f32, -(rows as f32), 0.5]
                    })
                    .collect();
                batch.push_rows(&key, &values).unwrap();
                for row in values {
                    if (row[0] as u32).is_multiple_of(10) {
                        of_batch.push((row_in_batch, key.clone(), row));
                    }
                    row_in_batch += 1;
                }
            }
            let commit = store.append(&mut batch, OnDuplicate::Error).unwrap().commit.unwrap();
            kept.extend(of_batch.into_iter().map(|(row, key, values)| Kept {
                address: Address { commit, row },
                key,
                row: values,
                deleted: false,
            }));
        }
        check(&store.snapshot(), &kept, "after appending");
        // Deletes every fourth kept key, and other keys too, so that merges have rows to leave out.
        let gone: Vec<String> = kept[before..].iter().step_by(4).map(|kept| kept.key.clone()).collect();
        store.delete(&gone).unwrap();
        let others: Vec<String> = (0..20).map(|batch| format!("{round}/{batch}/3")).collect();
        store.delete(&others).unwrap();
        for kept in &mut kept {
            kept.deleted |= gone.contains(&kept.key) || others.contains(&kept.key);
        }
        check(&store.snapshot(), &kept, "after deleting");
        if round % 2 == 0 { store.compact() } else { store.compact_full() }.unwrap();
        check(&store.snapshot(), &kept, "after merging");

        let backup = at("backup");
        store.backup(&backup).unwrap();
        check(&Reader::open(&backup).unwrap().snapshot(), &kept, "in the backup");
        if round % 3 == 2 {
            let restored = at(&format!("restored-{round}"));
            vecstore::restore(&backup, &restored).unwrap();
            store.close().unwrap();
            // Work continues in the restored store. Its backups need another folder: it has a history of its
            // own.
            store = open(&restored);
            path = restored;
            check(&store.snapshot(), &kept, "after restoring");
            std::fs::rename(&backup, at(&format!("backup-until-{round}"))).unwrap();
        }
        store.close().unwrap();
        store = open(&path);
        check(&store.snapshot(), &kept, "after reopening");
    }
    assert!(kept.iter().filter(|kept| !kept.deleted).count() > 100);
}
