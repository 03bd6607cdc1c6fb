//! Looking keys up: single keys in a store of one segment and of a hundred, and the missing ones of a million
//! keys.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::ItemsCount;
use vecstore::{Batch, DType, MergePolicy, OnDuplicate, OpenOptions, Store, StoreConfig};
use vecstore_benches::{DIM, folder, key};

/// Rows of the store in which single keys are looked up.
const ROWS: usize = 100_000;
/// Keys of the store that is asked for missing keys: every second key asked for.
const KEYS: usize = 500_000;

fn main() {
    divan::main();
}

/// A store of `rows` rows in `segments` segments; its keys are the even numbers.
fn store(dir: &tempfile::TempDir, rows: usize, dim: usize, segments: usize) -> Store {
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    let store = options.create(dir.path().join("store.vecs"), StoreConfig::new(dim)).expect("a store");
    let row = vec![1.0f32; dim];
    for part in 0..segments {
        let mut batch = Batch::new(dim, DType::F32);
        for number in part * rows / segments..(part + 1) * rows / segments {
            batch.push(key(number * 2), &row).expect("a row");
        }
        store.append(&mut batch, OnDuplicate::Error).expect("it is stored");
    }
    store
}

/// Looks rows up, and copies them.
fn get(bencher: Bencher, segments: usize) {
    let dir = folder().expect("a folder");
    let store = store(&dir, ROWS, DIM, segments);
    let snapshot = store.snapshot();
    let keys: Vec<String> = (0..ROWS).map(|number| key(number * 7919 % ROWS * 2)).collect();
    // Looks all keys up once, so that the measurement touches no page for the first time.
    for key in &keys {
        black_box(
            snapshot.get(key).expect("no damage").expect("it is stored").rows::<f32>().expect("f32")[DIM - 1],
        );
    }
    let mut row = vec![0f32; DIM];
    let mut next = keys.iter().cycle();
    bencher.bench_local(|| {
        let key = next.next().expect("a cycle");
        let entry = snapshot.get(key).expect("no damage").expect("it is stored");
        row.copy_from_slice(entry.rows().expect("f32"));
        black_box(&mut row);
    });
}

#[divan::bench(sample_count = 20, sample_size = 20_000)]
fn get_of_one_segment(bencher: Bencher) {
    get(bencher, 1);
}

#[divan::bench(sample_count = 20, sample_size = 20_000)]
fn get_of_100_segments(bencher: Bencher) {
    get(bencher, 100);
}

/// The part that no lookup can do without: copying the row.
#[divan::bench(sample_count = 20, sample_size = 20_000)]
fn copy_a_row(bencher: Bencher) {
    let rows = vec![1u8; ROWS * DIM * 4];
    let mut row = vec![0u8; DIM * 4];
    let mut number = 0;
    bencher.bench_local(|| {
        number = (number + 7919) % ROWS;
        let start = number * DIM * 4;
        row.copy_from_slice(&rows[start..start + DIM * 4]);
        black_box(&mut row);
    });
}

/// Asks for keys in random order.
fn missing(bencher: Bencher, segments: usize) {
    let dir = folder().expect("a folder");
    let store = store(&dir, KEYS, 8, segments);
    let snapshot = store.snapshot();
    let keys: Vec<String> = (0..2 * KEYS).map(|number| key(number * 7919 % (2 * KEYS))).collect();
    bencher.counter(ItemsCount::new(keys.len())).bench_local(|| {
        let missing = snapshot.missing(&keys).expect("no damage");
        assert_eq!(missing.len(), KEYS);
    });
}

#[divan::bench(sample_count = 20)]
fn missing_of_1_000_000(bencher: Bencher) {
    missing(bencher, 1);
}

#[divan::bench(sample_count = 20)]
fn missing_of_1_000_000_in_100_segments(bencher: Bencher) {
    missing(bencher, 100);
}
