//! An address, (commit, row), is for ever: every tenth row's is kept and read back after everything that
//! moves rows.

use std::path::Path;

use vecstore::{Address, Merging, OnDuplicate, OpenOptions, Store, StoreConfig};

const DIM: usize = 3;

/// What a row was when it was stored.
struct Kept {
    address: Address,
    key: String,
    row: [f32; DIM],
    deleted: bool,
}

fn check(store: &Store, kept: &[Kept], when: &str) {
    let snapshot = store.snapshot();
    for Kept { address, key, row, deleted } in kept {
        let found = snapshot.at(*address).unwrap_or_else(|error| panic!("{when}, {key}: {error}"));
        if *deleted {
            assert_eq!(found, None, "{when}, {key} was deleted");
        } else {
            assert_eq!(found.as_deref(), Some(&row[..]), "{when}, {key} at {address}");
        }
    }
}

fn open(path: &Path) -> Store {
    OpenOptions::new().merging(Merging::OnDemand).open(path).unwrap()
}

#[test]
fn addresses_survive_merges_deletes_backups_and_restores() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut store =
        OpenOptions::new().merging(Merging::OnDemand).create(at("s"), StoreConfig::new(DIM)).unwrap();
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
                // One to three rows each.
                let count = 1 + (rows as usize) % 3;
                let values: Vec<[f32; DIM]> = (0..count)
                    .map(|_| {
                        rows += 1;
                        [rows as f32, -(rows as f32), 0.5]
                    })
                    .collect();
                batch.push(&key, values.as_flattened()).unwrap();
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
        check(&store, &kept, "after appending");
        // Every fourth key that is watched goes; so do others, so that merges have something to leave out.
        let gone: Vec<String> = kept[before..].iter().step_by(4).map(|kept| kept.key.clone()).collect();
        store.delete(&gone).unwrap();
        let others: Vec<String> = (0..20).map(|batch| format!("{round}/{batch}/3")).collect();
        store.delete(&others).unwrap();
        for kept in &mut kept {
            kept.deleted |= gone.contains(&kept.key) || others.contains(&kept.key);
        }
        check(&store, &kept, "after deleting");
        if round % 2 == 0 { store.compact() } else { store.compact_full() }.unwrap();
        check(&store, &kept, "after merging");

        let backup = at("backup");
        store.backup(&backup).unwrap();
        check(&Store::open_read_only(&backup).unwrap(), &kept, "in the backup");
        if round % 3 == 2 {
            let restored = at(&format!("restored-{round}"));
            vecstore::restore(&backup, &restored).unwrap();
            store.close().unwrap();
            // The job goes on with the restored store; its backups go elsewhere, for it is another history.
            store = open(&restored);
            path = restored;
            check(&store, &kept, "after restoring");
            std::fs::rename(&backup, at(&format!("backup-until-{round}"))).unwrap();
        }
        store.close().unwrap();
        store = open(&path);
        check(&store, &kept, "after reopening");
    }
    assert!(kept.iter().filter(|kept| !kept.deleted).count() > 100);
}
