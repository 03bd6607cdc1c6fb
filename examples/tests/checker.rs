//! `crash_checker` on stores whose files are whole, but whose contents `crash_writer` would not have left.

use std::path::Path;
use std::process::Command;

use vecstore::{OnDuplicate, Store, StoreConfig};
use vecstore_examples::crash::{Recipe, fill_vector, key};

const DIM: usize = 4;
const RECIPE: Recipe = Recipe { seed: 1, rows: 2, delete_every: 0 };

/// An entry to append: writer, batch, row.
type Row = (&'static str, u64, u32);

/// Appends these rows as one batch, made as `crash_writer` makes them.
fn append(store: &Store, rows: &[Row]) {
    let mut batch = store.batch();
    for &(writer, number, row) in rows {
        let mut vector = [0.0_f32; DIM];
        fill_vector(RECIPE.seed, writer, number, row, &mut vector);
        batch.entry(key(writer, number, row)).row(&vector).payload(&RECIPE.to_payload()).push().unwrap();
    }
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

/// Runs the checker on a store that `fill` filled; returns its exit code and its one line on stderr.
fn judge(fill: impl FnOnce(&Store)) -> (Option<i32>, String) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("s.vecs");
    let store = Store::create(&dir, StoreConfig::new(DIM)).unwrap();
    fill(&store);
    store.close().unwrap();
    check(&dir)
}

fn check(dir: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_crash_checker")).arg(dir).arg("0").output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn refused(fill: impl FnOnce(&Store), part: &str) {
    let (code, line) = judge(fill);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains(part) && line.lines().count() == 1, "{line}");
}

#[test]
fn contents_that_the_writer_leaves_are_accepted() {
    let (code, line) = judge(|store| {
        append(store, &[("V", 1, 0), ("V", 1, 1)]);
        append(store, &[("W", 1, 0), ("W", 1, 1)]);
        append(store, &[("V", 2, 0), ("V", 2, 1)]);
    });
    assert_eq!(code, Some(0), "{line}");
}

#[test]
fn a_torn_batch_is_refused() {
    refused(|store| append(store, &[("V", 1, 0)]), "batch 1 of V ends at row 1 of 2");
    refused(
        |store| {
            append(store, &[("V", 1, 0)]);
            append(store, &[("W", 1, 0), ("W", 1, 1)]);
        },
        "expected batch 1 of V, row 1",
    );
    refused(
        |store| {
            append(store, &[("V", 1, 0)]);
            append(store, &[("V", 1, 1)]);
        },
        "expected behind commit 1, at row 1 of one commit",
    );
}

#[test]
fn a_gap_is_refused() {
    refused(|store| append(store, &[("V", 2, 0), ("V", 2, 1)]), "expected batch 1 of V, row 0");
    refused(
        |store| {
            append(store, &[("V", 1, 0), ("V", 1, 1)]);
            append(store, &[("V", 3, 0), ("V", 3, 1)]);
        },
        "expected batch 2 of V, row 0",
    );
}

#[test]
fn rows_of_two_batches_in_one_commit_are_refused() {
    refused(|store| append(store, &[("V", 1, 0), ("W", 1, 1)]), "expected batch 1 of V, row 1");
    refused(
        |store| append(store, &[("V", 1, 0), ("V", 1, 1), ("V", 2, 0), ("V", 2, 1)]),
        "expected behind commit 1, at row 0 of one commit",
    );
}

#[test]
fn a_batch_that_was_written_twice_is_refused() {
    refused(
        |store| {
            append(store, &[("V", 1, 0), ("V", 1, 1)]);
            append(store, &[("V", 1, 0), ("V", 1, 1)]);
        },
        "there are 2 commits, but 1 batches and 0 deletions",
    );
    refused(
        |store| {
            append(store, &[("V", 1, 0), ("V", 1, 1)]);
            append(store, &[("V", 2, 0), ("V", 2, 1)]);
            append(store, &[("V", 1, 0)]);
        },
        "expected batch 1 of V, row 0",
    );
}

#[test]
fn a_vector_of_another_seed_is_refused() {
    refused(
        |store| {
            let mut batch = store.batch();
            for row in 0..2 {
                let mut vector = [0.0_f32; DIM];
                fill_vector(RECIPE.seed, "V", 1, row, &mut vector);
                // The last bit of the last value of the last row.
                if row == 1 {
                    vector[DIM - 1] = f32::from_bits(vector[DIM - 1].to_bits() ^ 1);
                }
                batch.entry(key("V", 1, row)).row(&vector).payload(&RECIPE.to_payload()).push().unwrap();
            }
            store.append(&mut batch, OnDuplicate::Error).unwrap();
        },
        "the vector is not what seed 1 makes",
    );
}

#[test]
fn entries_that_the_writer_does_not_make_are_refused() {
    let vector = [1.0_f32; DIM];
    let push = |store: &Store, fill: &dyn Fn(&mut vecstore::Batch)| {
        let mut batch = store.batch();
        fill(&mut batch);
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    };
    refused(
        |store| push(store, &|batch| batch.push("photo.jpg", &vector).unwrap()),
        "not a key of crash_writer",
    );
    refused(|store| push(store, &|batch| batch.push("V/00000001/0000", &vector).unwrap()), "not a payload");
    refused(
        |store| {
            push(store, &|batch| {
                batch.entry("V/00000001/0000").payload(&RECIPE.to_payload()).push_empty().unwrap()
            })
        },
        "is empty with 0 rows",
    );
}
