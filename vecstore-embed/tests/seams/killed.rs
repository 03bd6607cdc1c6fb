//! A program that dies in the middle of an entry of seven rows.

use std::process::Command;

use vecstore::Reader;
use vecstore_embed::{Error, Run};

use crate::common::{Letters, Table, embedder, vector};

/// The batch that ends the process, and the store, for the process that is to die.
const DIES: &str = "VECSTORE_EMBED_TEST_DIES_IN_BATCH";
const STORE: &str = "VECSTORE_EMBED_TEST_STORE";

/// Entries of seven rows, which lie in three batches each: three items go into one.
fn texts() -> Vec<(String, String)> {
    let line = |text: usize, line: usize| format!("{text}{line}{}", "x".repeat(line % 3));
    let text = |text: usize| (0..7).map(|at| line(text, at)).collect::<Vec<_>>().join("\n");
    (0..6).map(|at| (format!("text-{at}"), text(at))).collect()
}

fn table() -> Table {
    let table = Table::default();
    texts().iter().for_each(|(key, text)| table.set(key, text, 1));
    table
}

/// All or nothing of each entry, and how many there are.
fn whole_entries(store: &std::path::Path) -> usize {
    let Ok(reader) = Reader::open(store) else { return 0 };
    let snapshot = reader.snapshot();
    let mut whole = 0;
    for (key, text) in texts() {
        if let Some(entry) = snapshot.get(&key).unwrap() {
            let vectors: Vec<f32> = text.lines().flat_map(vector).collect();
            assert_eq!(entry.to_f32().unwrap(), vectors, "{key}");
            whole += 1;
        }
    }
    assert_eq!(snapshot.totals().rows, 7 * whole as u64);
    whole
}

/// Dies when it is run by `a_process_that_dies_leaves_whole_entries`; does nothing otherwise.
#[test]
fn process_that_dies() {
    let Ok(batch) = std::env::var(DIES) else { return };
    let batch: usize = batch.parse().unwrap();
    let dying = Letters::boxed(move |number, _| {
        if number == batch {
            std::process::abort();
        }
        Ok(())
    });
    let run = Run::new(table(), std::env::var_os(STORE).unwrap()).with_commit_rows(1);
    let _ = run.run(&embedder(dying).readers(1).workers(1).build());
}

#[test]
fn a_process_that_dies_leaves_whole_entries_and_the_next_run_does_the_rest() {
    let mut kept = Vec::new();
    // 42 items in batches of three.
    for batch in [0, 1, 2, 3, 7, 13] {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("texts.vecs");
        let died = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::process_that_dies"])
            .env(DIES, batch.to_string())
            .env(STORE, &store)
            .output()
            .unwrap();
        assert!(!died.status.success(), "batch {batch}: {died:?}");
        let before = whole_entries(&store);
        let summary =
            Run::new(table(), &store).run(&embedder(Letters::boxed(|_, _| Ok(()))).build()).unwrap();
        assert_eq!((summary.already, summary.embedded), (before as u64, 6 - before as u64), "batch {batch}");
        assert_eq!(whole_entries(&store), 6);
        kept.push(before);
    }
    assert_eq!(kept[..2], [0, 0], "two batches hold no whole entry: {kept:?}");
}

#[test]
fn a_model_that_fails_in_the_middle_of_an_entry_leaves_none_of_it() {
    for batch in 0..14 {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("texts.vecs");
        // It fails from then on, on a blank item too: the run ends.
        let failing = Letters::boxed(move |number, _| match number >= batch {
            true => Err(Error::Inference {
                backend: "letters".to_owned(),
                model: "letters".to_owned(),
                found: "the device is gone".to_owned(),
            }),
            false => Ok(()),
        });
        let run = Run::new(table(), &store);
        let error = run.run(&embedder(failing).build()).unwrap_err();
        assert!(error.to_string().contains("the device is gone"), "{error}");
        let before = whole_entries(&store);
        let summary = run.run(&embedder(Letters::boxed(|_, _| Ok(()))).build()).unwrap();
        assert_eq!(summary.embedded, 6 - before as u64);
        assert_eq!(whole_entries(&store), 6);
    }
}
