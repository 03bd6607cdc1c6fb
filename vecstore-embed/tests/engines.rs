//! An ONNX model, and nothing in the program that runs it.
//!
//! The workspace is tested with every engine, so these tests are run by themselves: `cargo test -p
//! vecstore-embed --test engines`, with `--no-default-features --features cli`, too.

#![cfg(not(feature = "tract"))]

use std::path::Path;
use std::process::Command;

/// The program where no library can be found but in the system's own folders.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
    for variable in ["ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "HOME"] {
        command.env_remove(variable);
    }
    command
}

/// What `run` says of a model.
fn refused(choice: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    image::RgbImage::new(8, 8).save(photos.join("a.png")).unwrap();
    let mut command = program();
    command.args(["run", "--backend", choice, "--size=8x8", "--mean=0", "--std=1", "--model"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/plain.onnx"));
    command.arg("--folder").arg(&photos).arg("--store").arg(folder.path().join("photos.vecs"));
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!folder.path().join("photos.vecs").exists(), "nothing was made");
    text
}

#[test]
fn an_engine_that_is_not_built_in_names_both_ways_to_one() {
    let text = refused("tract");
    for words in ["plain.onnx", "tract was asked for", "pip install onnxruntime", "the feature tract"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

#[test]
fn without_any_engine_both_ways_to_one_are_named() {
    let doctor = program()
        .args(["doctor", "--json", "--seconds=0.01", "--pictures=1", "--batch-size=1"])
        .output()
        .unwrap();
    let found: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let libraries = found["libraries"].as_array().unwrap();
    if !libraries.is_empty() {
        return eprintln!("the system has ONNX Runtime, what is said without it is left out: {libraries:?}");
    }
    let text = refused("auto");
    for words in
        ["plain.onnx", "tract: not built in", "pip install onnxruntime", "--ort-lib", "the feature tract"]
    {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let needs_a_build = !cfg!(feature = "onnxruntime");
    assert_eq!(text.contains("built without the feature onnxruntime"), needs_a_build, "{text}");
    assert_eq!(refused("onnxruntime").contains("built without the feature onnxruntime"), needs_a_build);
}
