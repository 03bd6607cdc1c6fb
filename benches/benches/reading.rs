//! Opening a store of one segment and of a hundred, and reading all of its rows, compared with a plain loop
//! over the rows.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use vecstore::{Batch, DType, MergePolicy, OnDuplicate, OpenOptions, Store, StoreConfig};
use vecstore_benches::{DIM, folder, key};

/// Rows of the store.
const ROWS: usize = 100_000;

fn main() {
    divan::main();
}

fn options() -> OpenOptions {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand)
}

/// A store of `segments` segments.
fn store(dir: &tempfile::TempDir, segments: usize) -> Store {
    let store = options().create(dir.path().join("store.vecs"), StoreConfig::new(DIM)).expect("a store");
    let row = vec![1.0f32; DIM];
    for part in 0..segments {
        let mut batch = Batch::new(DIM, DType::F32);
        for number in part * ROWS / segments..(part + 1) * ROWS / segments {
            batch.push(key(number), &row).expect("a row");
        }
        store.append(&mut batch, OnDuplicate::Error).expect("it is stored");
    }
    store
}

/// Opens to read. A writer would first make sure that every name in the store is durable.
#[divan::bench(args = [1, 100], sample_count = 100)]
fn open(bencher: Bencher, segments: usize) {
    let dir = folder().expect("a folder");
    store(&dir, segments).close().expect("it is closed");
    let (path, options) = (dir.path().join("store.vecs"), options().for_reading());
    bencher.bench_local(|| black_box(options.open(&path).expect("a store")));
}

/// Adds up words: the least work of any reader that looks at every byte.
fn sum(bytes: &[u8]) -> u64 {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    bytes.chunks_exact(8).fold(0u64, |sum, chunk| sum.wrapping_add(word(chunk)))
}

#[divan::bench(args = [1, 100], sample_count = 20)]
fn all_rows(bencher: Bencher, segments: usize) {
    let dir = folder().expect("a folder");
    let snapshot = store(&dir, segments).snapshot();
    bencher.counter(BytesCount::new(ROWS * DIM * 4)).bench_local(|| {
        let mut total = 0u64;
        for entry in snapshot.iter() {
            let row = entry.expect("no damage").rows::<f32>().expect("f32");
            // SAFETY: every bit pattern of an f32 is four bytes without padding, and bytes may lie anywhere.
            let bytes = unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), size_of_val(row)) };
            total = total.wrapping_add(sum(bytes));
        }
        black_box(total)
    });
}

/// The part that no scan can do without: a loop over a buffer of the same size.
#[divan::bench(sample_count = 20)]
fn a_buffer_of_that_size(bencher: Bencher) {
    let rows = vec![1u8; ROWS * DIM * 4];
    bencher.counter(BytesCount::new(rows.len())).bench_local(|| black_box(sum(black_box(&rows))));
}
