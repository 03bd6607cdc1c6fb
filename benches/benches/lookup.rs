//! Finding keys: one, and which of many are missing.

use divan::Bencher;
use divan::counter::ItemsCount;
use vecstore::{Batch, DType, OnDuplicate, Store, StoreConfig};
use vecstore_benches::{folder, key};

const STORED: usize = 200_000;

fn main() {
    divan::main();
}

/// A store of 200,000 keys in ten segments, every second number.
fn store(dir: &tempfile::TempDir) -> Store {
    let store = Store::create(dir.path().join("store.vecs"), StoreConfig::new(1)).expect("a store");
    for part in 0..10 {
        let mut batch = Batch::new(1, DType::F32);
        for number in 0..STORED / 10 {
            let number = part * STORED / 10 + number;
            batch.push(key(number * 2), &[number as f32]).expect("a row");
        }
        store.append(batch, OnDuplicate::Error).expect("it is stored");
    }
    store
}

#[divan::bench]
fn get(bencher: Bencher) {
    let dir = folder().expect("a folder");
    let store = store(&dir);
    let snapshot = store.snapshot();
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number = (number + 7919) % (2 * STORED);
            key(number)
        })
        .bench_local_values(|key| snapshot.get(key).expect("no damage").is_some());
}

#[divan::bench(sample_count = 20)]
fn missing_of_400_000(bencher: Bencher) {
    let dir = folder().expect("a folder");
    let store = store(&dir);
    let snapshot = store.snapshot();
    let keys: Vec<String> = (0..2 * STORED).map(key).collect();
    bencher.counter(ItemsCount::new(keys.len())).bench_local(|| {
        let missing = snapshot.missing(&keys).expect("no damage");
        assert_eq!(missing.len(), STORED);
    });
}
