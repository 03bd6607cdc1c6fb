//! Searches with options: a filter, a minimum score, a number of threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use vecstore::{DType, Metric, OnDuplicate, SearchOptions, Store, StoreConfig, Value};

use crate::common::on_demand;

/// Rows `[number, 1]`, with `number` as an attribute; every third row is replaced, every fifth deleted.
fn filled(dir: &tempfile::TempDir, metric: Metric, dtype: DType, rows: i64) -> Store {
    let config = StoreConfig::new(2).metric(metric).dtype(dtype);
    let store = on_demand().create(dir.path().join(format!("{metric}-{dtype}-{rows}")), config).unwrap();
    for round in 0..2 {
        let mut batch = store.batch();
        for number in (0..rows).filter(|number| round == 0 || number % 3 == 0) {
            let entry = batch.entry(format!("{number}")).converted(&[number as f32, 1.0]);
            entry.attribute("number", number).push().unwrap();
        }
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    }
    let deleted: Vec<String> = (0..rows).step_by(5).map(|number| number.to_string()).collect();
    store.delete(&deleted).unwrap();
    store
}

#[test]
fn options_give_the_same_as_filtering_all_hits() {
    let dir = tempfile::tempdir().unwrap();
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::I8] {
            let store = filled(&dir, metric, dtype, 100);
            let snapshot = store.snapshot();
            let query = [7.0, 1.0];
            let all = snapshot.search(&query, usize::MAX).unwrap();
            assert_eq!(all.len(), 80, "deleted rows are not found");
            let even = |key: &[u8]| std::str::from_utf8(key).unwrap().parse::<u32>().unwrap() % 2 == 0;
            for limit in [0, 3, 20, 79].map(|at| all[at].score) {
                let is_near = |score: f32| if metric == Metric::L2 { score <= limit } else { score >= limit };
                let mut expected = all.clone();
                expected.retain(|hit| is_near(hit.score) && even(&hit.key));
                let calls = AtomicUsize::new(0);
                let filter = |entry: &vecstore::Entry<'_>| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    let Some(Value::I64(number)) = entry.attribute("number").unwrap() else { panic!() };
                    number % 2 == 0
                };
                let options = SearchOptions::new(usize::MAX).min_score(limit).filter(filter);
                assert_eq!(
                    snapshot.search_with(&query, &options).unwrap(),
                    expected,
                    "{metric} {dtype} {limit}"
                );
                let asked = calls.load(Ordering::Relaxed);
                assert!(asked <= 80, "asked of {asked} rows: of rows that are dead or too far");
                let some = SearchOptions::new(5).min_score(limit).filter(|entry| even(entry.key()));
                expected.truncate(5);
                assert_eq!(snapshot.search_with(&query, &some).unwrap(), expected);
            }
        }
    }
}

#[test]
fn any_number_of_threads_finds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir, Metric::L2, DType::F32, 70_000);
    let snapshot = store.snapshot();
    let find =
        |threads| snapshot.search_with(&[35_000.0, 1.0], &SearchOptions::new(50).threads(threads)).unwrap();
    let all = snapshot.search(&[35_000.0, 1.0], 50).unwrap();
    assert_eq!(all.len(), 50);
    for threads in [0, 1, 2, 7] {
        assert_eq!(find(threads), all, "{threads} threads");
    }
}

#[test]
fn a_search_for_nothing_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir, Metric::Cosine, DType::F32, 10);
    let find = |options| store.snapshot().search_with(&[1.0, 0.0], &options).unwrap();
    assert!(find(SearchOptions::new(0)).is_empty());
    assert!(find(SearchOptions::new(5).min_score(1.5)).is_empty());
    assert!(find(SearchOptions::new(5).min_score(f32::NAN)).is_empty());
    assert!(find(SearchOptions::new(5).filter(|_| false)).is_empty());
}
