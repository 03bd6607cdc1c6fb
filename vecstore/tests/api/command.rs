//! The `vecstore` command, run as a process.
#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vecstore::{OnDuplicate, Store, Value};

fn vecstore(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vecstore")).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn ok(args: &[&str]) -> String {
    let output = vecstore(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn filled(dir: &Path) -> PathBuf {
    let path = dir.join("s.vecs");
    ok(&["create", path.to_str().unwrap(), "--dim", "2", "--metric", "l2"]);
    let store = Store::open(&path).unwrap();
    for (key, x) in [("near", 1.0f32), ("nearer", 0.5), ("far", 9.0)] {
        let mut batch = store.batch();
        batch.push(key, &[x, 0.0]).unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    let mut batch = store.batch();
    batch.push("origin", &[0.0f32, 0.0]).unwrap();
    batch.push_rejected("bad", "truncated").unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    path
}

#[test]
fn every_command_answers_in_text_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let path = path.to_str().unwrap();
    assert!(ok(&["info", path]).contains("5: 4 with rows, 0 empty, 1 rejected; 0 deletion(s)"));
    let info: serde_json::Value = serde_json::from_str(&ok(&["info", path, "--json"])).unwrap();
    assert_eq!((info["rows"].as_u64(), info["metric"].as_str()), (Some(4), Some("l2")));
    assert_eq!(ok(&["keys", path]).lines().collect::<Vec<_>>(), ["near", "nearer", "far", "origin", "bad"]);
    assert_eq!(ok(&["keys", path, "--kind", "rejected"]).trim(), "bad");
    assert_eq!(ok(&["keys", path, "--prefix", "nea"]).lines().collect::<Vec<_>>(), ["near", "nearer"]);
    assert!(ok(&["get", path, "bad"]).contains("truncated"));
    let got: serde_json::Value = serde_json::from_str(&ok(&["get", path, "far", "--json"])).unwrap();
    assert_eq!((got["rows"][0][0].as_f64(), got["address"].as_str()), (Some(9.0), Some("3:0")));
    let hits = ok(&["search", path, "--like", "origin", "-k", "2"]);
    assert_eq!(hits.lines().map(|l| l.split("  ").last().unwrap()).collect::<Vec<_>>(), ["nearer", "near"]);
    let hits = ok(&["search", path, "--like", "origin", "-k", "9", "--json"]);
    let scores: Vec<f64> = hits
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["score"].as_f64().unwrap())
        .collect();
    assert_eq!(scores, [0.5, 1.0, 9.0]);
    assert_eq!(ok(&["files", path]).lines().count(), 4);
    assert!(!ok(&["info", path]).contains("damaged"));
    assert!(!ok(&["info", path]).contains("derived"), "{}", ok(&["info", path]));
    let files = ok(&["files", path, "--json"]);
    assert_eq!(files.lines().filter(|line| line.contains("first_commit")).count(), 4, "{files}");
    assert!(ok(&["verify", path]).starts_with("whole: 4 commit(s), 4 row(s)"));
    assert!(ok(&["repair", path]).contains("nothing to do"));
}

#[test]
fn attributes_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let store = Store::open(&path).unwrap();
    let mut batch = store.batch().allow_non_finite(true);
    let entry = batch.entry("all").row(&[0.0f32, 1.0]).attribute("i", i64::MIN).attribute("f", -0.5);
    let entry = entry.attribute("b", true).attribute("a text", "ä").attribute("l", vec!["x", "y"]);
    entry.attribute("nan", f64::NAN).attribute("at", Value::Time(-1)).push().unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    store.close().unwrap();
    let path = path.to_str().unwrap();
    let expected = serde_json::json!({
        "i": i64::MIN, "f": -0.5, "b": true, "a text": "ä", "l": ["x", "y"], "nan": "NaN", "at": -1
    });
    let all = ok(&["keys", path, "--json"]);
    let all: Vec<serde_json::Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(all.last().unwrap()["attributes"], expected);
    assert!(all.iter().rev().skip(1).all(|entry| entry.get("attributes").is_none()), "{all:?}");
    let got: serde_json::Value = serde_json::from_str(&ok(&["get", path, "all", "--json"])).unwrap();
    assert_eq!(got["attributes"], expected);
    let got = ok(&["get", path, "all"]);
    for line in ["a text = \"ä\"", "l = [\"x\",\"y\"]", "at = -1"] {
        assert!(got.lines().any(|found| found == line), "{line}: {got}");
    }
}

#[test]
fn verify_names_file_section_and_block_of_each_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let segment = path.join("segments/0000000002-0000000002.0.npy");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let output = vecstore(&["verify", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    for part in ["0000000002-0000000002.0.npy", "section ROWS, block 0", "nearer", "NOT WHOLE: 1 fault"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let output = vecstore(&["verify", path.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["faults"][0]["keys"][0]["key"], "nearer");
}

#[test]
fn errors_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let path = path.to_str().unwrap();
    let missing = dir.path().join("none");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for (args, code, part) in [
        (vec!["info", missing.to_str().unwrap()], 1, "there is no store here; create one"),
        (vec!["info", file.to_str().unwrap()], 1, "not a store: a file"),
        (vec!["verify", dir.path().to_str().unwrap()], 1, "without a manifest"),
        (vec!["create", path, "--dim", "2"], 1, "a store is there"),
        (vec!["create", missing.to_str().unwrap(), "--dim", "0"], 1, "use 1 to 65536"),
        (
            vec!["create", missing.to_str().unwrap(), "--dim", "2", "--dtype", "f8"],
            2,
            "use f32, f16, bf16 or i8",
        ),
        (vec!["get", path, "nothing"], 1, "no entry has the key"),
        (vec!["search", path, "--like", "bad"], 1, "there is no row 0"),
        (vec!["frobnicate"], 2, "unrecognized subcommand"),
    ] {
        let output = vecstore(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        assert!(text(&output).contains(part), "{args:?}: {}", text(&output));
    }
    std::fs::remove_file(Path::new(path).join("MANIFEST")).unwrap();
    let said = text(&vecstore(&["info", path]));
    assert!(said.contains("no entry is lost") && said.contains("vecstore repair"), "{said}");
    assert!(ok(&["repair", path]).contains("manifest rebuilt: 4 segment(s)"));
    assert!(ok(&["verify", path]).starts_with("whole"));
}

#[test]
fn a_repair_names_lost_keys_and_a_dry_run_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let files = ok(&["files", path.to_str().unwrap()]);
    let segment = Path::new(files.lines().next().unwrap());
    let mut bytes = std::fs::read(segment).unwrap();
    bytes[4096] ^= 1;
    std::fs::write(segment, &bytes).unwrap();
    let path = path.to_str().unwrap();
    let said = ok(&["repair", path, "--dry-run"]);
    assert!(said.contains("section ROWS, block 0") && said.contains("nothing was changed"), "{said}");
    assert_eq!(std::fs::read(segment).unwrap(), bytes);
    let dry: serde_json::Value = serde_json::from_str(&ok(&["repair", path, "--dry-run", "--json"])).unwrap();
    let done: serde_json::Value = serde_json::from_str(&ok(&["repair", path, "--json"])).unwrap();
    assert_eq!((&dry["dry_run"], &done["dry_run"]), (&true.into(), &false.into()));
    assert_eq!(dry["lost_keys"], done["lost_keys"]);
    let lost = done["lost_keys"][0]["key"].as_str().unwrap();
    let list = std::fs::read_to_string(done["findings"][0]["list"].as_str().unwrap()).unwrap();
    assert_eq!(list.lines().next(), Some(lost));
    assert_eq!(std::fs::read(done["findings"][0]["moved_to"].as_str().unwrap()).unwrap(), bytes);
    assert!(!ok(&["keys", path]).lines().any(|key| key == lost));
    assert!(ok(&["verify", path]).starts_with("whole"));
    assert!(ok(&["repair", path]).contains("nothing to do"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    // More output than a pipe holds: the command is still writing when the reader is gone.
    let store = Store::open(&path).unwrap();
    let mut batch = store.batch();
    (0..4000).for_each(|number| batch.push_empty(format!("{number:>60}")).unwrap());
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    store.close().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_vecstore"))
        .args(["keys", path.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_store_is_changed_kept_and_copied_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let path = path.to_str().unwrap();
    let backup = dir.path().join("backup");
    let restored = dir.path().join("restored");
    let (backup, restored) = (backup.to_str().unwrap(), restored.to_str().unwrap());
    assert!(ok(&["get", path, "--address", "3:0"]).contains("9.00000"));
    assert!(ok(&["version", path, "before"]).starts_with("before  up to commit 4, 4 segment(s)"));
    assert!(ok(&["delete", path, "far", "nothing"]).contains("1 key(s) deleted, 1 not stored"));
    assert!(ok(&["info", path]).contains("  derived   1 liveness bitmap(s), 0 key filter(s), "));
    let info: serde_json::Value = serde_json::from_str(&ok(&["info", path, "--json"])).unwrap();
    assert_eq!((info["liveness_bitmaps"].as_u64(), info["key_filters"].as_u64()), (Some(1), Some(0)));
    assert!(text(&vecstore(&["get", path, "--address", "3:0"])).contains("no row at 3:0"));
    assert!(ok(&["compact", path, "--full"]).starts_with("1 segment(s), before 5; 2 superseded"));
    assert_eq!(ok(&["files", path]).lines().count(), 1);
    assert_eq!(ok(&["keys", path]).lines().count(), 4);
    assert_eq!(ok(&["keys", path, "--at", "before"]).lines().count(), 5);
    assert!(ok(&["get", path, "--address", "2:0"]).contains("0.50000"), "addresses survive");
    assert!(ok(&["version", "list", path, "--json"]).contains("\"last_commit\":4"));
    // A segment that only the version needs.
    let pinned = Path::new(path).join("segments/0000000002-0000000002.0.npy");
    std::fs::rename(&pinned, dir.path().join("aside")).unwrap();
    let output = vecstore(&["verify", path]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("the version \"before\" lists it"), "{}", text(&output));
    std::fs::rename(dir.path().join("aside"), &pinned).unwrap();
    assert!(
        ok(&["version", "restore", path, "before"]).contains("0 key(s) replaced, 1 brought back, 0 deleted")
    );
    assert_eq!(ok(&["keys", path]).lines().count(), 5);
    assert!(ok(&["delete", path, "--prefix", "fa"]).contains("1 key(s) deleted, 0 not stored"));
    assert!(ok(&["info", path]).contains("  dead      1 row(s) replaced or deleted; `vecstore compact"));
    ok(&["compact", path, "--full"]);
    let at = dir.path().join("at");
    ok(&["backup", path, at.to_str().unwrap(), "--at", "before", "--link"]);
    assert_eq!(ok(&["keys", at.to_str().unwrap()]).lines().count(), 5);
    assert!(ok(&["version", "remove", path, "before"]).contains("removed before"));
    assert_eq!(ok(&["version", "list", path]), "");
    assert!(ok(&["backup", path, backup]).contains("0 linked, 1 copied"));
    assert!(ok(&["backup", path, backup, "--json"]).contains("\"kept\":1"));
    assert!(ok(&["restore", backup, restored]).contains("1 copied"));
    assert_eq!(ok(&["keys", restored]), ok(&["keys", path]));
    for store in [path, backup, restored] {
        assert!(ok(&["verify", store]).starts_with("whole"), "{store}");
    }
    let dated = dir.path().join("dated");
    for _ in 0..3 {
        ok(&["backup", path, dated.to_str().unwrap(), "--keep", "2"]);
    }
    assert_eq!(std::fs::read_dir(&dated).unwrap().count(), 2);
    // A name from a clock that was in the year 2100: the backup just made stays all the same, and the one
    // before it is removed.
    let newest = std::fs::read_dir(&dated).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    std::fs::rename(newest, dated.join("2100-01-01T00-00-00.000Z")).unwrap();
    for millis in 1..3 {
        ok(&["backup", path, dated.to_str().unwrap(), "--keep", "1"]);
        let left: Vec<_> =
            std::fs::read_dir(&dated).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [format!("2100-01-01T00-00-00.{millis:03}Z").as_str()]);
    }
    for (args, code, part) in [
        (vec!["get", path], 2, "required"),
        (vec!["get", path, "--address", "x"], 2, "write COMMIT:ROW"),
        (vec!["keys", path, "--at", "never"], 1, "there is no version"),
        (vec!["version", path, "a/b"], 1, "cannot name a version"),
        (vec!["delete", path, "--prefix", ""], 1, "at least one byte"),
        (vec!["restore", backup, path], 1, "a store is there"),
        (vec!["restore", restored, "/dev/null"], 1, "cannot create a store here"),
    ] {
        let output = vecstore(&args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
        assert!(text(&output).contains(part), "{args:?}: {}", text(&output));
    }
}

#[test]
fn damage_found_by_merges_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    let victim = path.join("segments/0000000002-0000000002.0.npy");
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[4097] ^= 4;
    std::fs::write(&victim, bytes).unwrap();
    let path = path.to_str().unwrap();
    let said = ok(&["compact", path]);
    assert!(
        said.contains("1 damaged segment(s)") && said.contains(&format!("`vecstore repair {path}`")),
        "{said}"
    );
    let said = ok(&["info", path]);
    assert!(
        said.contains("1 segment(s), which") && said.contains(&format!("`vecstore repair {path}`")),
        "{said}"
    );
    let info: serde_json::Value = serde_json::from_str(&ok(&["info", path, "--json"])).unwrap();
    assert_eq!(info["damaged_segments"].as_u64(), Some(1));
}

/// The exit code of `verify` is its verdict, even if the reader of its output is gone.
#[test]
fn verify_fails_on_damage_although_its_pipe_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = filled(dir.path());
    for keys in [1, 4000] {
        // 4000 keys are more output than the command buffers before it writes.
        let store = Store::open(&path).unwrap();
        let mut batch = store.batch();
        (0..keys).for_each(|number| batch.push_empty(format!("{keys}:{number:>60}")).unwrap());
        store.append(&mut batch, OnDuplicate::Error).unwrap();
        let file = store.snapshot().segments().last().unwrap().info().path;
        store.close().unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        let key = format!("{:>60}", 0);
        let at = bytes.windows(60).position(|window| window == key.as_bytes()).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_vecstore"))
            .args(["verify", path.to_str().unwrap()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(1), "{keys} key(s)");
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
}
