//! Exact search over rows in memory (the page cache), for each metric and element type.

use divan::Bencher;
use divan::counter::BytesCount;
use vecstore::{Batch, DType, Metric, OnDuplicate, Store, StoreConfig};
use vecstore_benches::{DIM, Numbers, folder, key};

const ROWS: usize = 50_000;

fn main() {
    divan::main();
}

fn store(dir: &tempfile::TempDir, dtype: DType, metric: Metric) -> Store {
    let config = StoreConfig::new(DIM).dtype(dtype).metric(metric);
    let store = Store::create(dir.path().join("store.vecs"), config).expect("a store");
    let mut numbers = Numbers::new(1);
    for part in 0..10 {
        let mut batch = Batch::new(DIM, dtype);
        for row in 0..ROWS / 10 {
            batch.push_converted(key(part * ROWS / 10 + row), &numbers.take(DIM)).expect("a row");
        }
        store.append(&mut batch, OnDuplicate::Error).expect("it is stored");
    }
    store
}

#[divan::bench(args = [Metric::Cosine, Metric::Dot, Metric::L2], sample_count = 20)]
fn f32(bencher: Bencher, metric: Metric) {
    run(bencher, DType::F32, metric);
}

#[divan::bench(args = [Metric::Cosine, Metric::Dot, Metric::L2], sample_count = 20)]
fn f16(bencher: Bencher, metric: Metric) {
    run(bencher, DType::F16, metric);
}

/// Finds the ten nearest of 50,000 rows; the rate is bytes of rows read.
fn run(bencher: Bencher, dtype: DType, metric: Metric) {
    let dir = folder().expect("a folder");
    let store = store(&dir, dtype, metric);
    let snapshot = store.snapshot();
    let query = Numbers::new(2).take(DIM);
    bencher
        .counter(BytesCount::new(ROWS * DIM * dtype.size()))
        .bench_local(|| snapshot.search(&query, 10).expect("hits"));
}
