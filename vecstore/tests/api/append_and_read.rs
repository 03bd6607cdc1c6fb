//! Basic operations of a store: create, append, read, reopen.

use vecstore::{
    Address, Batch, DType, Error, Kind, Metric, OnDuplicate, OpenOptions, Reader, Snapshot, Store,
    StoreConfig,
};

fn store(dir: &tempfile::TempDir, dim: usize) -> Store {
    Store::create(dir.path().join("s.vecs"), StoreConfig::new(dim)).unwrap()
}

fn one(store: &Store, key: &str, row: &[f32]) -> Batch {
    let mut batch = store.batch();
    batch.push(key, row).unwrap();
    batch
}

fn keys(snapshot: &Snapshot) -> Vec<String> {
    snapshot.iter().map(|e| String::from_utf8_lossy(e.unwrap().key()).into_owned()).collect()
}

#[test]
fn appended_entries_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, 2);
    let mut batch = store.batch();
    batch.entry("two faces").rows([[1.0f32, 2.0], [3.0, 4.0]]).payload(b"boxes").push().unwrap();
    batch.push_empty("no face").unwrap();
    batch.entry("broken").payload(b"its payload").push_rejected("truncated").unwrap();
    let appended = store.append(&mut batch, OnDuplicate::Skip).unwrap();
    assert_eq!((appended.commit, appended.entries, appended.rows), (Some(1), 3, 2));
    drop(store);

    let path = dir.path().join("s.vecs");
    for snapshot in [Store::open(&path).unwrap().snapshot(), Reader::open(&path).unwrap().snapshot()] {
        let entry = snapshot.get("two faces").unwrap().unwrap();
        assert_eq!(entry.rows::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!((entry.payload(), entry.row_count(), entry.kind()), (&b"boxes"[..], 2, Kind::Rows));
        assert_eq!(entry.address(), Address { commit: 1, row: 0 });
        assert_eq!(snapshot.get("no face").unwrap().unwrap().kind(), Kind::Empty);
        let broken = snapshot.get("broken").unwrap().unwrap();
        assert_eq!((broken.reason(), broken.payload()), (Some("truncated"), &b"its payload"[..]));
        assert!(snapshot.get("other").unwrap().is_none());
        assert_eq!(snapshot.row_at(Address { commit: 1, row: 1 }).unwrap().unwrap(), [3.0, 4.0]);
        assert_eq!(snapshot.row_at(Address { commit: 1, row: 2 }).unwrap(), None);
        assert_eq!(snapshot.row_at(Address { commit: 2, row: 0 }).unwrap(), None);
        let totals = snapshot.totals();
        assert_eq!((totals.entries, totals.with_rows, totals.empty, totals.rejected), (3, 1, 1, 1));
        assert_eq!((totals.rows, snapshot.len()), (2, 3));
        assert_eq!(keys(&snapshot), ["two faces", "no face", "broken"]);
    }
}

#[test]
fn an_append_empties_the_batch_and_an_error_leaves_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, 1);
    let mut batch = one(&store, "a", &[1.0]);
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    assert_eq!((batch.len(), batch.row_count(), batch.dim()), (0, 0, 1));

    batch.entry("b").row(&[2.0f32]).payload(b"p").push().unwrap();
    batch.push("a", &[3.0f32]).unwrap();
    let refused = store.append(&mut batch, OnDuplicate::Error);
    assert!(matches!(refused, Err(Error::DuplicateKey { .. })), "{refused:?}");
    assert_eq!((batch.len(), batch.row_count()), (2, 2), "it can be appended again");
    assert_eq!(store.append(&mut batch, OnDuplicate::Replace).unwrap().replaced, 1);
    assert_eq!(keys(&store.snapshot()), ["b", "a"]);

    batch.push("c", &[4.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Skip).unwrap();
    assert_eq!(keys(&store.snapshot()), ["b", "a", "c"]);
    batch.push("d", &[5.0f32]).unwrap();
    batch.clear();
    batch.push("e", &[6.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Skip).unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.get("e").unwrap().unwrap().rows::<f32>().unwrap(), [6.0]);
    assert!(snapshot.get("d").unwrap().is_none());
}

#[test]
fn each_policy_treats_a_stored_key_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, 1);
    store.append(&mut one(&store, "a", &[1.0]), OnDuplicate::Skip).unwrap();

    let skipped = store.append(&mut one(&store, "a", &[2.0]), OnDuplicate::Skip).unwrap();
    assert_eq!((skipped.commit, skipped.skipped), (None, 1), "nothing to write takes no number");
    assert_eq!(store.snapshot().last_commit(), 1);

    let mut batch = one(&store, "b", &[5.0]);
    batch.push("a", &[2.0f32]).unwrap();
    let error = store.append(&mut batch, OnDuplicate::Error).unwrap_err();
    assert!(matches!(&error, Error::DuplicateKey { key, count: 1, .. } if key == b"a"), "{error}");
    assert!(!store.snapshot().contains("b").unwrap(), "nothing of the batch was written");

    let replaced = store.append(&mut one(&store, "a", &[3.0]), OnDuplicate::Replace).unwrap();
    assert_eq!((replaced.commit, replaced.replaced), (Some(2), 1));
    let snapshot = store.snapshot();
    assert_eq!(snapshot.get("a").unwrap().unwrap().rows::<f32>().unwrap(), [3.0]);
    assert_eq!(snapshot.totals().entries, 1);
    assert_eq!(snapshot.iter().count(), 1);
    assert_eq!(snapshot.search(&[1.0], 10).unwrap().len(), 1, "search never shows a superseded row");
    assert_eq!(snapshot.row_at(Address { commit: 1, row: 0 }).unwrap(), None);
}

/// Counts of an append and of the store, for entries with no, one or many rows.
#[test]
fn an_append_counts_entries_and_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, 5);
    let batch = |rows: [(&str, usize); 3]| {
        let mut batch = store.batch();
        for (key, rows) in rows {
            match rows {
                0 => batch.push_empty(key).unwrap(),
                rows => batch.push_rows(key, vec![[0.5f32; 5]; rows]).unwrap(),
            }
        }
        batch
    };
    let counts = |appended: vecstore::Appended| (appended.entries, appended.rows, appended.replaced);
    let appended = store.append(&mut batch([("a", 7), ("b", 0), ("c", 1)]), OnDuplicate::Replace).unwrap();
    assert_eq!(counts(appended), (3, 8, 0));
    let appended = store.append(&mut batch([("a", 2), ("c", 9), ("d", 3)]), OnDuplicate::Replace).unwrap();
    assert_eq!(counts(appended), (3, 14, 2));
    let totals = store.snapshot().totals();
    assert_eq!((totals.entries, totals.with_rows, totals.empty, totals.rows), (4, 3, 1, 14));
    assert_eq!(totals.dead_rows, 8);
    let snapshot = store.snapshot();
    for (key, address) in [("a", (2, 0)), ("c", (2, 2)), ("d", (2, 11))] {
        let found = snapshot.get(key).unwrap().unwrap().address();
        assert_eq!((found.commit, found.row), address, "{key}");
    }
}

#[test]
fn a_deleted_key_is_absent_and_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, 1);
    store.append(&mut one(&store, "a", &[1.0]), OnDuplicate::Skip).unwrap();
    let mut batch = store.batch();
    batch.delete("a").unwrap();
    batch.delete("never stored").unwrap();
    let outcome = store.append(&mut batch, OnDuplicate::Skip).unwrap();
    assert_eq!((outcome.entries, outcome.deleted, outcome.skipped), (0, 1, 1));
    let snapshot = store.snapshot();
    assert!(snapshot.get("a").unwrap().is_none());
    assert_eq!(snapshot.missing(&["a"]).unwrap(), [0]);
    assert_eq!(snapshot.iter().count(), 0);
    assert_eq!((snapshot.totals().entries, snapshot.totals().tombstones, snapshot.totals().rows), (0, 1, 0));

    store.append(&mut one(&store, "a", &[2.0]), OnDuplicate::Error).unwrap();
    drop(store);
    let store = Store::open(dir.path().join("s.vecs")).unwrap();
    let totals = store.snapshot().totals();
    assert_eq!((totals.entries, totals.tombstones, totals.rows), (1, 0, 1));
    assert_eq!(keys(&store.snapshot()), ["a"]);
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, 1);
    store.append(&mut one(&store, "a", &[1.0]), OnDuplicate::Skip).unwrap();
    let before = store.snapshot();
    store.append(&mut one(&store, "a", &[2.0]), OnDuplicate::Replace).unwrap();
    store.append(&mut one(&store, "b", &[3.0]), OnDuplicate::Skip).unwrap();
    assert_eq!(before.get("a").unwrap().unwrap().rows::<f32>().unwrap(), [1.0]);
    assert_eq!((before.iter().count(), before.last_commit()), (1, 1));
}

#[test]
fn missing_is_right_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, 1);
    let all: Vec<String> = (0..500).map(|i| format!("key {i}")).collect();
    for group in all.chunks(7).step_by(2) {
        let mut batch = store.batch();
        for key in group {
            batch.push(key, &[1.0f32]).unwrap();
        }
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    let mut batch = store.batch();
    batch.delete("key 0").unwrap();
    store.append(&mut batch, OnDuplicate::Skip).unwrap();
    let snapshot = store.snapshot();
    let expected: Vec<usize> = (0..all.len()).filter(|i| *i == 0 || (i / 7) % 2 == 1).collect();
    assert_eq!(snapshot.missing(&all).unwrap(), expected);
    assert_eq!(snapshot.missing(&["key 1", "key 1", "x", "x"]).unwrap(), [2, 3], "keys may repeat");
    assert_eq!(snapshot.missing::<&str>(&[]).unwrap(), Vec::<usize>::new());
}

#[test]
fn search_agrees_with_a_plain_loop_for_every_metric_and_type() {
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        for dtype in DType::ALL {
            let dir = tempfile::tempdir().unwrap();
            let config = StoreConfig::new(5).metric(metric).dtype(dtype);
            let store = Store::create(dir.path().join("s"), config).unwrap();
            let row = |i: usize| -> Vec<f32> {
                (0..5)
                    .map(|j| half::f16::from_f32(((i * 37 + j * 11) % 64) as f32 / 32.0 - 1.0).to_f32())
                    .collect()
            };
            for first in (0..300).step_by(50) {
                let mut batch = store.batch();
                for i in first..first + 50 {
                    batch.push_converted(format!("{i}"), &row(i)).unwrap();
                }
                store.append(&mut batch, OnDuplicate::Error).unwrap();
            }
            let query = [0.3, -0.2, 0.9, 0.1, -0.7];
            let snapshot = store.snapshot();
            let score = |i: usize| -> f64 {
                let stored = snapshot.get(format!("{i}")).unwrap().unwrap().to_f32().unwrap();
                assert!(stored.iter().zip(row(i)).all(|(a, b)| (a - b).abs() < 0.005), "{dtype}");
                let row = stored;
                let pairs = || query.iter().zip(&row).map(|(a, b)| (f64::from(*a), f64::from(*b)));
                let dot: f64 = pairs().map(|(a, b)| a * b).sum();
                let norms: f64 =
                    pairs().map(|(a, _)| a * a).sum::<f64>() * pairs().map(|(_, b)| b * b).sum::<f64>();
                match metric {
                    Metric::Dot => dot,
                    Metric::Cosine => dot / norms.sqrt(),
                    _ => -pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
                }
            };
            let mut expected: Vec<f64> = (0..300).map(score).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            let hits = store.snapshot().search(&query, 20).unwrap();
            assert_eq!(hits.len(), 20);
            for (hit, expected) in hits.iter().zip(&expected) {
                let i: usize = String::from_utf8_lossy(&hit.key).parse().unwrap();
                let sign = if metric == Metric::L2 { -1.0 } else { 1.0 };
                assert!((f64::from(hit.score) * sign - expected).abs() < 1e-5, "{metric} {dtype}: {hit:?}");
                assert!((score(i) - expected).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn threads_that_append_together_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir, 4);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..40 {
                    let mut batch = store.batch();
                    batch
                        .push(format!("{thread}/{number}"), &[thread as f32, number as f32, 0.0, 1.0])
                        .unwrap();
                    batch.push(format!("shared {number}"), &[0.0f32; 4]).unwrap();
                    // Each append returns the commit number of its own entries, even if several batches share
                    // a segment.
                    let told = store.append(&mut batch, OnDuplicate::Skip).unwrap().commit;
                    let snapshot = store.snapshot();
                    let entry = snapshot.get(format!("{thread}/{number}")).unwrap().unwrap();
                    assert_eq!(told, Some(entry.address().commit));
                }
            });
        }
    });
    let expected = 4 * 40 + 40;
    assert_eq!(store.snapshot().totals().entries, expected);
    drop(store);
    let path = dir.path().join("s.vecs");
    let store = Store::open(&path).unwrap();
    let mut found = keys(&store.snapshot());
    found.sort();
    found.dedup();
    assert_eq!(found.len() as u64, expected);
    assert_eq!(store.snapshot().last_commit(), 160);
    assert!(vecstore::verify(&path).unwrap().is_whole());
}

#[test]
fn two_handles_see_each_other_after_refresh() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(&dir, 1);
    let second = Store::open(first.path()).unwrap();
    let reader = Reader::open(first.path()).unwrap();
    for number in 0..200 {
        let handle = if number % 2 == 0 { &first } else { &second };
        handle.append(&mut one(handle, &number.to_string(), &[1.0]), OnDuplicate::Error).unwrap();
    }
    let error = second.append(&mut one(&second, "198", &[1.0]), OnDuplicate::Error);
    assert!(matches!(error, Err(Error::DuplicateKey { .. })), "keys of the other handle count");
    assert_eq!(reader.snapshot().last_commit(), 0);
    assert_eq!(reader.refresh().unwrap().last_commit(), 200);
    assert_eq!(keys(&reader.snapshot()), (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn an_append_succeeds_with_verified_saves() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions::new().verify_saves(true);
    let store = options.create(dir.path().join("s"), StoreConfig::new(1)).unwrap();
    store.append(&mut one(&store, "a", &[1.0]), OnDuplicate::Skip).unwrap();
    assert!(store.snapshot().contains("a").unwrap());
}

#[test]
fn quantized_rows_keep_their_scales_through_merges() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().join("s"), StoreConfig::new(3).dtype(DType::I8)).unwrap();
    for i in 0..5i8 {
        let mut batch = store.batch();
        let entry = batch.entry(format!("{i}")).quantized(&[i, 2, 3], 0.5);
        entry.quantized(&[-i, 5, 6], f32::from(i)).push().unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    store.delete(&["1"]).unwrap();
    store.compact_full().unwrap();
    let snapshot = store.snapshot();
    let entry = snapshot.get("3").unwrap().unwrap();
    assert_eq!(entry.quantized().unwrap(), (&[3, 2, 3, -3, 5, 6][..], &[0.5, 3.0][..]));
    assert_eq!(entry.to_f32().unwrap(), [1.5, 1.0, 1.5, -9.0, 15.0, 18.0]);
    assert!(matches!(entry.rows::<f32>(), Err(Error::DTypeMismatch { .. })));
    let mut batch = store.batch();
    assert!(batch.push("x", &[1.0f32; 3]).is_err(), "conversion is explicit");
    assert!(batch.entry("x").quantized(&[1, 2, 3], f32::NAN).push().is_err());
    assert!(vecstore::verify(store.path()).unwrap().is_whole());
}

#[test]
fn conversion_refuses_values_that_the_type_cannot_hold() {
    let mut batch = Batch::new(1, DType::F16);
    assert!(batch.push_converted("x", &[70_000.0]).unwrap_err().to_string().contains("as f16"));
    let mut batch = Batch::new(1, DType::BF16);
    batch.push_converted("x", &[70_000.0]).unwrap();
}
