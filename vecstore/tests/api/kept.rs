//! The spellings and JSON fields of the `vecstore` command that scripts rely on stay as they are, whatever is
//! added.
#![cfg(feature = "cli")]

use std::process::Command;

use serde_json::Value;

/// Standard output of a command that must succeed.
fn ok(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vecstore")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn has(answer: &str, fields: &[&str]) {
    let answer: Value = serde_json::from_str(answer).unwrap();
    for field in fields {
        assert!(answer.get(field).is_some(), "{field} is not in {answer}");
    }
}

#[test]
fn spellings_and_fields_that_scripts_use_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.vecs");
    let path = path.to_str().unwrap();
    ok(&["create", path, "--dim", "2", "--metric", "l2"]);
    let store = vecstore::Store::open(path).unwrap();
    let mut batch = store.batch();
    batch.entry("a").row(&[1.0f32, 2.0]).payload(b"note").push().unwrap();
    batch.push_rejected("b", "cut off").unwrap();
    store.append(&mut batch, vecstore::OnDuplicate::Error).unwrap();
    drop(store);

    has(
        &ok(&["info", path, "--json"]),
        &[
            "store",
            "dim",
            "dtype",
            "metric",
            "model",
            "fingerprint",
            "entries",
            "empty",
            "rejected",
            "tombstones",
            "rows",
            "commits",
            "segments",
            "damaged_segments",
            "bytes",
            "liveness_bitmaps",
            "key_filters",
            "derived_bytes",
            "settings",
        ],
    );
    let keys = ok(&["keys", path, "--json"]);
    let entry = ["key", "kind", "address", "row_count", "payload_bytes"];
    for line in keys.lines() {
        has(line, &entry);
    }
    has(keys.lines().next().unwrap(), &["file", "file_row"]);
    has(keys.lines().nth(1).unwrap(), &["reason"]);
    let got = ok(&["get", path, "a", "--json"]);
    has(&got, &entry);
    has(&got, &["rows", "file", "file_row"]);
    ok(&["version", path, "monday"]);
}
