//! What `doctor` says of this machine.

use std::fs;
use std::path::Path;

use crate::command::{json, program, said};
use crate::common::Place;

fn models() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models")
}

#[test]
fn a_machine_and_a_model_are_examined() {
    let place = Place::new();
    let photos = place.photos(3);
    let quick = ["--seconds=0.01", "--batch-size=4", "--lanes=2", "--workers=1"];
    let doctor = || {
        let mut command = program(&[&"doctor", &"--folder", &photos]);
        command.args(quick);
        command
    };
    let found = json({
        let mut command = doctor();
        command.arg("--json");
        command
    });
    assert_eq!(
        (&found["backend"], &found["dim"], &found["lanes"]),
        (&"plain Rust".into(), &512.into(), &2.into())
    );
    assert_eq!((&found["batch"]["same"], &found["batch"]["pictures"]), (&true.into(), &4.into()), "{found}");
    for (name, rate) in found["pictures_per_second"].as_object().unwrap() {
        assert!(rate.as_f64().unwrap() > 0.0, "{name}: {found}");
    }
    assert!(
        found["libraries"].is_array() && found["driver"].is_object() && found["library"].is_null(),
        "{found}"
    );

    let text = said(doctor());
    assert_eq!(text.code, 0, "{}{}", text.out, text.err);
    for words in [
        "driver ",
        "model      descriptor-1, vectors of 512",
        "batch      of 4",
        ": the same",
        "decode ",
        "limit ",
    ] {
        assert!(text.out.contains(words), "{words:?} is not in: {}", text.out);
    }
    assert_eq!(fs::read_dir(&place.path).unwrap().count(), 1, "nothing is stored");
}

#[test]
fn what_cannot_be_used_is_said_after_what_there_is() {
    let place = Place::new();
    let refused = |more: &[&str]| {
        let mut command = program(&[&"doctor", &"--seconds=0", &"--pictures=1"]);
        command.args(more);
        said(command)
    };
    let card = refused(&["--device=cuda"]);
    assert_eq!(card.code, 1);
    assert!(
        card.out.contains("driver ")
            && card.err.contains("the built-in descriptor computes on the processor alone"),
        "{}",
        card.err
    );
    let card = refused(&["--device=cuda", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&card.out).unwrap();
    assert!(card.code == 1 && found["error"].as_str().unwrap().contains("built-in descriptor"), "{found}");
    let empty = refused(&["--folder", place.path.to_str().unwrap()]);
    assert!(
        empty.code == 1 && empty.err.contains("found none among its 0 file(s); name a folder"),
        "{}",
        empty.err
    );
    let model = models().join("tokens.onnx");
    let model = refused(&["--model", model.to_str().unwrap(), "--size=8x8", "--mean=0", "--std=1"]);
    assert!(model.code == 1 && model.err.contains("--output-name"), "{}", model.err);
    assert_eq!(refused(&["--device=gpu"]).code, 2);
}
