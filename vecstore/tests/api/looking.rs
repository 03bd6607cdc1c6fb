//! Lookups of a reader: entries by address, many keys, prefixes, new entries, segments as matrices, arrays.

use std::sync::Barrier;
use std::time::Duration;

use vecstore::{
    Address, DType, Error, OnDuplicate, ReadOptions, Reader, Snapshot, Store, StoreConfig, half::f16,
};

use crate::common::on_demand;

const LONG: Duration = Duration::from_secs(600);

/// Six commits: `a0 a1`, `b` (two rows), `empty`, `a1` replaced, `b2`, and its deletion.
fn filled(dir: &tempfile::TempDir) -> Store {
    let store = on_demand().create(dir.path().join("s"), StoreConfig::new(2)).unwrap();
    let put = |fill: &dyn Fn(&mut vecstore::Batch)| {
        let mut batch = store.batch();
        fill(&mut batch);
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    };
    put(&|batch| {
        batch.push("a0", &[1.0f32, 0.0]).unwrap();
        batch.push("a1", &[2.0f32, 0.0]).unwrap();
    });
    put(&|batch| batch.push_rows("b", [[3.0f32, 0.0], [4.0, 0.0]]).unwrap());
    put(&|batch| batch.push_empty("empty").unwrap());
    put(&|batch| batch.push("a1", &[5.0f32, 0.0]).unwrap());
    put(&|batch| batch.push("b2", &[6.0f32, 0.0]).unwrap());
    store.delete(&["b2"]).unwrap();
    store
}

fn keys<'a>(entries: impl Iterator<Item = vecstore::Result<vecstore::Entry<'a>>>) -> Vec<String> {
    entries.map(|entry| String::from_utf8_lossy(entry.unwrap().key()).into_owned()).collect()
}

/// Runs a check on segments of single commits, and on one merged segment.
fn each_way(check: impl Fn(&Snapshot)) {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir);
    check(&store.snapshot());
    store.compact_full().unwrap();
    assert_eq!(store.snapshot().segments().len(), 1);
    check(&store.snapshot());
}

#[test]
fn lengths_and_iterations_agree() {
    each_way(|snapshot| {
        assert_eq!((snapshot.len(), snapshot.is_empty()), (4, false));
        let all = ["a0", "b", "empty", "a1"];
        assert_eq!(keys(snapshot.iter()), all);
        assert_eq!(keys(snapshot.into_iter()), all);
        let owned = snapshot.clone().into_iter().map(|entry| entry.unwrap().entry().key().to_vec());
        assert_eq!(owned.collect::<Vec<_>>(), all.map(|key| key.as_bytes().to_vec()));
        let by_segment = snapshot.segments().flat_map(|segment| segment.iter());
        assert_eq!(keys(by_segment), all);
        let totals = snapshot.totals();
        assert_eq!((totals.entries, totals.with_rows, totals.empty, totals.rows), (4, 3, 1, 4));
        let entries: u64 = snapshot.segments().map(|segment| segment.info().entries).sum();
        let rows: u64 = snapshot.segments().map(|segment| segment.info().rows).sum();
        assert_eq!((entries, rows), (4, 4));
    });
}

#[test]
fn new_entries_since_a_commit_are_found_in_merged_segments_too() {
    each_way(|snapshot| {
        let expected: [&[&str]; 7] =
            [&["a0", "b", "empty", "a1"], &["b", "empty", "a1"], &["empty", "a1"], &["a1"], &[], &[], &[]];
        for (commit, expected) in (0..).zip(expected) {
            assert_eq!(keys(snapshot.iter_since(commit)), expected, "since {commit}");
        }
        assert_eq!(keys(snapshot.iter_since(u64::MAX)), [""; 0]);
    });
}

#[test]
fn addresses_and_hits_lead_to_entries() {
    each_way(|snapshot| {
        for entry in snapshot {
            let entry = entry.unwrap();
            for row in 0..entry.row_count() {
                let address = Address { row: entry.address().row + row as u64, ..entry.address() };
                let (found, number) = snapshot.entry_at(address).unwrap().unwrap();
                assert_eq!((found.key(), number), (entry.key(), row));
                let vector = snapshot.row_at(address).unwrap().unwrap();
                assert_eq!(vector, entry.to_f32().unwrap()[2 * row..2 * row + 2]);
            }
        }
        for gone in
            [Address { commit: 1, row: 1 }, Address { commit: 5, row: 0 }, Address { commit: 9, row: 0 }]
        {
            assert!(snapshot.entry_at(gone).unwrap().is_none(), "{gone}");
            assert!(snapshot.row_at(gone).unwrap().is_none(), "{gone}");
        }
        let hits = snapshot.search(&[1.0, 0.0], 9).unwrap();
        assert_eq!(hits.len(), 4);
        for hit in hits {
            let (entry, row) = snapshot.entry_at(hit.address).unwrap().unwrap();
            assert_eq!((entry.key(), row), (&*hit.key, hit.row as usize));
            assert_eq!(snapshot.entry(&hit).unwrap().unwrap().key(), hit.key);
        }
    });
}

#[test]
fn many_keys_are_looked_up_in_their_order() {
    each_way(|snapshot| {
        let asked = ["b2", "b", "a1", "none", "a1", "empty", "a0"];
        let found = snapshot.get_many(&asked).unwrap();
        for (key, found) in asked.iter().zip(found) {
            let single = snapshot.get(key).unwrap();
            assert_eq!(found.map(|entry| entry.address()), single.map(|entry| entry.address()), "{key}");
        }
        assert!(snapshot.get_many::<&str>(&[]).unwrap().is_empty());
    });
}

#[test]
fn keys_with_a_prefix_are_listed_and_deleted() {
    each_way(|snapshot| {
        let found: Vec<&[u8]> = snapshot.keys_with_prefix("a").map(Result::unwrap).collect();
        assert_eq!(found, [b"a0", b"a1"]);
        assert_eq!(snapshot.keys_with_prefix("").count(), snapshot.len());
        assert_eq!(snapshot.keys_with_prefix("a0\0").count(), 0);
    });
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir);
    let done = store.delete_prefix("a").unwrap();
    assert_eq!((done.deleted, done.entries), (2, 0));
    assert_eq!(keys(store.snapshot().iter()), ["b", "empty"]);
    assert_eq!(store.delete_prefix("a").unwrap().commit, None);
}

#[test]
fn segments_are_matrices_with_the_keys_of_their_rows() {
    each_way(|snapshot| {
        let mut seen = Vec::new();
        for segment in snapshot.segments() {
            let rows: &[f32] = segment.rows().unwrap();
            let info = segment.info();
            assert_eq!(rows.len() as u64, info.file_rows * 2);
            for (number, row) in rows.chunks(2).enumerate() {
                if segment.is_live(number).unwrap() {
                    seen.push((row[0], segment.entry_of(number).unwrap().key().to_vec()));
                }
            }
            let beyond = rows.len() / 2;
            assert!(!segment.is_live(beyond).unwrap());
            assert!(matches!(segment.entry_of(beyond), Err(Error::InvalidArgument { .. })));
            assert!(matches!(segment.rows::<f16>(), Err(Error::DTypeMismatch { .. })));
            assert!(matches!(segment.quantized(), Err(Error::DTypeMismatch { .. })));
        }
        let key = |name: &str| name.as_bytes().to_vec();
        assert_eq!(seen, [(1.0, key("a0")), (3.0, key("b")), (4.0, key("b")), (5.0, key("a1"))]);
    });
}

#[test]
fn quantized_segments_are_matrices_with_scales() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(2).dtype(DType::I8);
    let store = on_demand().create(dir.path().join("s"), config).unwrap();
    let mut batch = store.batch();
    batch.entry("a").quantized(&[1, -2], 0.5).quantized(&[3, 4], 0.25).push().unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let snapshot = store.snapshot();
    let segment = snapshot.segments().next().unwrap();
    assert_eq!(segment.quantized().unwrap(), (&[1i8, -2, 3, 4][..], &[0.5, 0.25][..]));
}

#[test]
fn dead_rows_and_reclaimable_bytes_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (dim, entries) = (64, 500);
    let store = on_demand().create(dir.path().join("s"), StoreConfig::new(dim)).unwrap();
    for round in 0..2 {
        let mut batch = store.batch();
        for number in 0..entries {
            let entry = batch.entry(format!("{number}")).row(&vec![round as f32; dim]);
            entry.payload(&[7; 100]).push().unwrap();
        }
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    }
    let before = store.snapshot().totals();
    assert_eq!(before.dead_rows, entries as u64);
    store.compact_full().unwrap();
    let after = store.snapshot().totals();
    assert_eq!((after.dead_rows, after.reclaimable_bytes), (0, 0));
    let (freed, told) = (before.bytes - after.bytes, before.reclaimable_bytes);
    assert!(freed.abs_diff(told) * 10 < freed, "told {told}, gave back {freed}");
    store.delete_prefix("").unwrap();
    let before = store.snapshot().totals();
    store.compact_full().unwrap();
    let (freed, told) = (before.bytes - store.snapshot().totals().bytes, before.reclaimable_bytes);
    assert!(freed.abs_diff(told) * 10 < freed, "of deletions: told {told}, gave back {freed}");
}

#[test]
fn an_exported_array_replaces_a_file_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir);
    let path = dir.path().join("rows.npy");
    std::fs::write(&path, b"what was there").unwrap();
    let error = store.snapshot().write_npy(&path, DType::I8).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there");
    assert_eq!(store.snapshot().write_npy(&path, DType::F32).unwrap(), 4);
    let bytes = std::fs::read(&path).unwrap();
    let header = String::from_utf8_lossy(&bytes[..128]).into_owned();
    assert!(header.contains("'descr': '<f4'") && header.contains("'shape': (4, 2)"), "{header}");
    let rows: Vec<f32> =
        bytes[4096..].chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(rows, [1.0, 0.0, 3.0, 0.0, 4.0, 0.0, 5.0, 0.0]);
    store.snapshot().write_npy(&path, DType::F16).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let rows: Vec<f32> =
        bytes[4096..].chunks(2).map(|two| f16::from_le_bytes(two.try_into().unwrap()).to_f32()).collect();
    assert_eq!(rows, [1.0, 0.0, 3.0, 0.0, 4.0, 0.0, 5.0, 0.0]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    // No file of a store is replaced, neither of this store nor of another one.
    let segment = store.snapshot().segments().next().unwrap().info().path;
    for inside in [store.path().join("MANIFEST"), segment, store.path().join("new.npy")] {
        let error = store.snapshot().write_npy(&inside, DType::F32).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
    let error = store.snapshot().write_npy(dir.path().join("no/rows.npy"), DType::F32).unwrap_err();
    assert!(error.to_string().contains("there is no such directory"), "{error}");
    crate::common::assert_whole(store.path());
}

#[test]
fn a_reader_waits_for_the_commit_of_another_handle() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir);
    let reader = Reader::open(store.path()).unwrap();
    assert_eq!(reader.wait_for_commit(5, LONG).unwrap().last_commit(), 6, "it is there already");
    assert_eq!(reader.wait_for_commit(6, Duration::ZERO).unwrap().last_commit(), 6, "not waited for");
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            barrier.wait();
            reader.wait_for_commit(6, LONG).unwrap()
        });
        barrier.wait();
        store.delete(&["a0"]).unwrap();
        assert_eq!(waiting.join().unwrap().last_commit(), 7);
    });
    let other = Store::open(store.path()).unwrap();
    store.delete(&["b"]).unwrap();
    assert_eq!(other.wait_for_commit(7, LONG).unwrap().last_commit(), 8);
}

#[test]
fn a_reader_at_a_version_stays_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir);
    store.create_version("v").unwrap();
    let reader = ReadOptions::new().at_version("v").open(store.path()).unwrap();
    store.delete(&["a0"]).unwrap();
    assert_eq!(reader.refresh().unwrap().last_commit(), 6);
    assert_eq!(reader.wait_for_commit(6, LONG).unwrap().last_commit(), 6, "there is nothing to wait for");
    assert_eq!(reader.versions().unwrap(), store.versions().unwrap());
    let error = ReadOptions::new().at_version("w").open(store.path()).unwrap_err();
    assert!(matches!(&error, Error::NoSuchVersion { name, .. } if name == "w"), "{error}");
}
