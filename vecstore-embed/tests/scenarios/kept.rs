//! Spellings and JSON fields that scripts rely on: they stay, whatever else is added.

use crate::command::{json, program, said};
use crate::common::Place;

#[test]
fn spellings_that_scripts_use_stay() {
    let place = Place::new();
    let photos = place.photos(3);
    let plain = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/plain.onnx");
    let model = ["--model", plain, "--size=8x8", "--mean=0", "--std=1", "--filter", "bilinear"];
    for (store, recursive, more) in [
        ("long.vecs", "--recursive", &[][..]),
        ("short.vecs", "-r", &[][..]),
        ("model.vecs", "-r", &model[..]),
    ] {
        if !more.is_empty() && !cfg!(feature = "tract") {
            eprintln!("this program has no engine: --model and --filter are left out");
            continue;
        }
        let store = place.join(store);
        // `program` adds `--backend=tract`, as scripts do that want the same engine everywhere.
        let mut command = program(&[&"run", &"--folder", &photos, &recursive, &"--store", &store]);
        command.args(more);
        let run = said(command);
        assert!(run.code == 0 && run.out.contains("3 embedded"), "{}{}", run.out, run.err);
    }
}

#[test]
fn fields_of_status_stay() {
    let place = Place::new();
    let (photos, store) = (place.photos(2), place.join("photos.vecs"));
    std::fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();
    let run = json(program(&[&"run", &"--folder", &photos, &"-r", &"--store", &store, &"--json"]));
    for field in [
        "ended",
        "complete",
        "found",
        "already",
        "embedded",
        "stages",
        "changed",
        "gone",
        "pruned",
        "prune_refused",
        "excluded",
        "too_few",
        "rejected",
        "unread",
        "left",
        "ignored",
        "skipped",
        "commits",
        "seconds",
        "rejected_first",
        "unread_first",
    ] {
        assert!(run.get(field).is_some(), "{field} is not in {run}");
    }
    let status = json(program(&[&"status", &"--store", &store, &"--rejected", &"--json"]));
    for field in [
        "done",
        "empty",
        "rejected",
        "rows",
        "bytes",
        "commits",
        "dim",
        "dtype",
        "metric",
        "model",
        "fingerprint",
        "roots",
        "live",
        "left",
        "missing",
        "rate",
        "seconds_left",
        "runs",
        "rejected_list",
    ] {
        assert!(status.get(field).is_some(), "{field} is not in {status}");
    }
    assert!(
        status["rejected_list"][0]["key"] == "a/bad.jpg" && status["rejected_list"][0]["reason"].is_string()
    );
}
