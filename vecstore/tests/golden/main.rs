//! Golden stores: every kind of file that a version of this project has written, or that must be refused,
//! with the expected findings. Golden stores never change, because a file written once must stay readable.
//!
//! `stores/must-open/NAME` and `stores/must-refuse/NAME` hold a store and `expected.json`. A store that only
//! `verify` refuses is in `must-refuse`, too: its `open` is null.

#[path = "../common/mod.rs"]
mod common;
mod describe;
mod make;
mod shown;

use std::fs;
use std::path::{Path, PathBuf};

use common::{copy_dir, on_demand};
use describe::{describe, refusal};
use serde_json::Value;
use vecstore::{Error, OnDuplicate};

/// Folder of the golden stores of a kind.
fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/stores").join(kind)
}

/// The golden stores of a kind, and what is expected of each.
fn stores(kind: &str) -> Vec<(PathBuf, Value)> {
    let mut stores: Vec<PathBuf> =
        fs::read_dir(folder(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    stores.sort();
    assert!(stores.len() >= 10, "{stores:?}");
    let expected = |store: &PathBuf| {
        let text = fs::read(store.join("expected.json")).unwrap();
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", store.display()))
    };
    let store_in = |folder: &PathBuf| {
        let store = folder.join("store.vecs");
        // Git keeps no empty folder.
        let _ = fs::create_dir(store.join("segments"));
        store
    };
    stores.iter().map(|folder| (store_in(folder), expected(folder))).collect()
}

#[test]
fn golden_stores_are_read() {
    for (store, expected) in stores("must-open") {
        assert_eq!(describe(&store), expected, "{}", store.display());
    }
}

/// A copy of each store can be appended to and merged (or the error says why not), and is whole.
#[test]
fn golden_stores_are_written_to_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (golden, expected)) in stores("must-open").into_iter().enumerate() {
        let path = dir.path().join(number.to_string());
        copy_dir(&golden, &path);
        let what = golden.display();
        let store = match on_demand().open(&path) {
            Ok(store) => store,
            Err(error @ Error::UnsupportedVersion { .. }) => {
                assert_eq!(expected["writable"], false, "{what}: {error}");
                continue;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        assert_eq!(expected["writable"], true, "{what}");
        let mut batch = store.batch();
        batch.push_empty("appended").unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
        let merged = store.compact_full();
        assert_eq!(merged.is_ok(), expected["merges"] == true, "{what}: {merged:?}");
        store.close().unwrap();
        let entries = expected["entries"].as_array().unwrap();
        let store = on_demand().for_reading().open(&path).unwrap();
        assert_eq!(store.snapshot().iter().count(), entries.len() + 1, "{what}");
        common::assert_whole(&path);
        assert!(vecstore::repair(&path).unwrap().was_whole(), "{what}");
    }
}

/// Merge rules of unknown sections: drop, copy, or copy the elements of the entries and rows that stay.
#[test]
fn merges_follow_the_rules_of_unknown_sections() {
    let dir = tempfile::tempdir().unwrap();
    for both in [true, false] {
        let path = dir.path().join(both.to_string());
        make::two_commits(&path);
        fs::remove_dir_all(path.join("derived")).unwrap();
        // The manifest lists derived files of the segments as they were before this change.
        fs::remove_file(path.join("MANIFEST")).unwrap();
        if both {
            make::add_sections(&path, make::ONE, [1, 1]);
        }
        make::add_sections(&path, make::TWO, [2, 2]);
        vecstore::repair(&path).unwrap();
        on_demand().open(&path).unwrap().compact_full().unwrap();
        let merged = path.join("segments/0000000001-0000000002.0.npy");
        let bytes = fs::read(&merged).unwrap();
        let content = |name: &str| {
            let sections = common::layout::sections_of(&bytes);
            let section = sections.into_iter().find(|section| section.name == name)?;
            Some(bytes[section.offset..section.offset + section.len].to_vec())
        };
        assert_eq!((content("DROP"), content("PACK")), (None, None));
        let notes = if both { &b"about the fileabout the file"[..] } else { b"about the file" };
        assert_eq!(content("NOTE").as_deref(), Some(notes));
        // The first commit's entry is superseded. Elements are copied only if every input has the section.
        assert_eq!(content("enum"), both.then(|| vec![1, 2, 3, 4]));
        assert_eq!(content("BOXX"), both.then(|| vec![9; 16]));
        common::assert_whole(&path);
    }
}

/// A repair that writes a segment anew names the unknown sections that it cannot take over.
#[test]
fn a_repair_names_the_unknown_sections_that_it_drops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    make::two_commits(&path);
    fs::remove_dir_all(path.join("derived")).unwrap();
    fs::remove_file(path.join("MANIFEST")).unwrap();
    make::add_sections(&path, make::TWO, [2, 2]);
    let file = path.join(make::TWO);
    let mut bytes = fs::read(&file).unwrap();
    let keys =
        common::layout::sections_of(&bytes).into_iter().find(|section| section.name == "KEYS").unwrap();
    bytes[keys.offset] ^= 1;
    fs::write(&file, bytes).unwrap();
    let report = vecstore::repair(&path).unwrap();
    let notes: Vec<&String> = report.findings.iter().flat_map(|finding| &finding.notes).collect();
    assert!(
        notes.iter().any(|note| note.contains("only a later version knows") && note.contains("NOTE")),
        "{notes:?}"
    );
    common::assert_whole(&path);
}

#[test]
fn stores_that_no_program_writes_are_refused() {
    for (store, expected) in stores("must-refuse") {
        assert_eq!(refusal(&store), expected, "{}", store.display());
    }
}

/// No refused store is a dead end: after a repair it is whole and can be written to, or the repair says why
/// not.
#[test]
fn refused_stores_are_repaired_or_the_repair_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (golden, expected)) in stores("must-refuse").into_iter().enumerate() {
        let path = dir.path().join(number.to_string());
        copy_dir(&golden, &path);
        let what = golden.display();
        let repaired = vecstore::repair(&path).map(|report| report.findings.len());
        assert_eq!(repaired.is_ok(), expected["repairs"] == true, "{what}: {repaired:?}");
        let Ok(findings) = repaired else { continue };
        assert!(findings > 0, "{what}");
        common::assert_whole(&path);
        let store = on_demand().open(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut batch = store.batch();
        batch.push_empty("appended").unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
        store.compact_full().unwrap_or_else(|error| panic!("{what}: {error}"));
        let snapshot = store.snapshot();
        for entry in snapshot.iter() {
            let entry = entry.unwrap();
            assert_eq!(
                snapshot.get(entry.key()).unwrap().map(|same| same.address()),
                Some(entry.address()),
                "{what}"
            );
        }
        store.close().unwrap();
        common::assert_whole(&path);
    }
}

/// Makes the golden stores that do not exist yet; existing ones stay as they are.
#[test]
#[ignore = "writes golden stores"]
fn make_stores() {
    make::all();
    for kind in ["must-open", "must-refuse"] {
        for entry in fs::read_dir(folder(kind)).unwrap() {
            let entry = entry.unwrap().path();
            let (store, file) = (entry.join("store.vecs"), entry.join("expected.json"));
            if !file.exists() {
                let expected = if kind == "must-open" { describe(&store) } else { refusal(&store) };
                fs::write(file, serde_json::to_string_pretty(&expected).unwrap() + "\n").unwrap();
            }
        }
    }
}
