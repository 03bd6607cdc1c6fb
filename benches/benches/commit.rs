//! A durable commit of a usual batch, compared with the raw file operations.

use std::fs;

use divan::Bencher;
use vecstore::{OnDuplicate, Store, StoreConfig};
use vecstore_benches::{DIM, ROWS, batch, folder, raw_commit};

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 200, sample_size = 1)]
fn append(bencher: Bencher) {
    let dir = folder().expect("a folder");
    let store = Store::create(dir.path().join("store.vecs"), StoreConfig::new(DIM)).expect("a store");
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number += 1;
            batch(number, ROWS, DIM).expect("a batch")
        })
        .bench_local_values(|mut batch| store.append(&mut batch, OnDuplicate::Error).expect("it is stored"));
}

#[divan::bench(sample_count = 200, sample_size = 1)]
fn raw_file_operations(bencher: Bencher) {
    let dir = folder().expect("a folder");
    let path = dir.path().join("one.vecs");
    let store = Store::create(&path, StoreConfig::new(DIM)).expect("a store");
    store.append(&mut batch(0, ROWS, DIM).expect("a batch"), OnDuplicate::Error).expect("it is stored");
    let segment = store.snapshot().segments().next().expect("one segment").info().path;
    let bytes = fs::read(segment).expect("its bytes");
    let raw = dir.path().join("raw");
    fs::create_dir(&raw).expect("a folder");
    let mut number = 0;
    bencher.bench_local(|| {
        number += 1;
        raw_commit(&raw, number, &bytes).expect("the disk works");
    });
}
