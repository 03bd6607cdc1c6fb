//! The three examples of whole tasks do them: `cache`, `documents` and `maintain`.

use std::fs;
use std::path::Path;
use std::process::Command;

use vecstore::{OnDuplicate, Reader, Store, StoreConfig};

fn printed(program: &str, args: &[&Path]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_cache_is_filled_by_threads_while_a_process_reads() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("cache.vecs");
    let first = printed(env!("CARGO_BIN_EXE_cache"), &[&dir]);
    assert!(first.contains("0 of 400 pages are in the cache"), "{first}");
    assert!(first.contains("reader: 400 pages in all"), "{first}");
    assert!(first.contains("reader: 1.000  the text of https://example.org/7\n"), "{first}");
    let second = printed(env!("CARGO_BIN_EXE_cache"), &[&dir]);
    assert!(second.contains("400 of 400 pages are in the cache"), "{second}");
    assert_eq!(Reader::open(&dir).unwrap().snapshot().len(), 401);
}

#[test]
fn documents_are_filtered_versioned_and_backed_up() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("documents.vecs");
    for run in 0..2 {
        let text = printed(env!("CARGO_BIN_EXE_documents"), &[&dir]);
        assert!(text.contains("4 documents with 8 chunks"), "{run}: {text}");
        let after = |title: &str| {
            text.lines().skip_while(|line| !line.starts_with(title)).nth(1).unwrap_or_default().to_owned()
        };
        assert!(after("anything about").contains("ducks.txt: Ducks swim on ponds."), "{run}: {text}");
        assert!(after("in English").contains("trains.txt: "), "{run}: {text}");
        assert!(
            text.contains(
                "after a change: [\"ducks.txt\", \"empty.txt\", \"enten.txt\", \"old/trains.txt\"]"
            ),
            "{text}"
        );
        for state in ["at the version: ", "gone back:      "] {
            let line = format!("{state}[\"ducks.txt\", \"empty.txt\", \"enten.txt\", \"trains.txt\"]");
            assert!(text.contains(&line), "{run}: {text}");
        }
        assert!(text.contains("it holds 4 documents"), "{run}: {text}");
    }
    assert!(vecstore::verify(&dir).unwrap().is_whole());
}

#[test]
fn a_store_is_exported_looked_at_for_duplicates_and_repaired() {
    let place = tempfile::tempdir().unwrap();
    let (dir, out) = (place.path().join("s"), place.path().join("out"));
    let store = Store::create(&dir, StoreConfig::new(2)).unwrap();
    for (key, row) in [("a", [1.0f32, 0.0]), ("b", [0.0, 1.0]), ("a again", [0.999, 0.01])] {
        let mut batch = store.batch();
        batch.push(key, &row).unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    let file = store.snapshot().segments().nth(1).unwrap().info().path;
    store.close().unwrap();
    let text = printed(env!("CARGO_BIN_EXE_maintain"), &[&dir, &out]);
    assert!(text.contains("whole: ") && text.contains("exported 3 rows"), "{text}");
    assert!(text.contains("near: 1.000  a again  a"), "{text}");
    assert_eq!(text.matches("near:").count(), 1, "{text}");
    assert_eq!(fs::metadata(out.join("vectors.npy")).unwrap().len(), 4096 + 3 * 2 * 4);
    assert_eq!(fs::read_to_string(out.join("keys.tsv")).unwrap(), "a\t1\t\nb\t1\t\na again\t1\t\n");

    fs::remove_file(&file).unwrap();
    let text = printed(env!("CARGO_BIN_EXE_maintain"), &[&dir, &out]);
    assert!(text.contains("fault: ") && text.contains("what was in 1 file(s), at most 1 entries"), "{text}");
    assert!(text.contains("exported 2 rows"), "{text}");
    let text = printed(env!("CARGO_BIN_EXE_maintain"), &[Path::new("--repair"), &dir]);
    assert!(text.contains("embed lost keys again"), "{text}");
    assert!(vecstore::verify(&dir).unwrap().is_whole());
}
