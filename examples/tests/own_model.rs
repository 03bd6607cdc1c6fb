//! The example `own_model`, run as a user runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `cargo test` builds examples into a folder beside the one of the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().parent().unwrap().join("examples/own_model");
    assert!(
        example.exists(),
        "cargo test with --test builds no examples: cargo build -p vecstore-examples --examples"
    );
    example
}

#[test]
fn pictures_are_embedded_with_nothing_installed() {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let model = dir.path().join("model.onnx");
    fs::copy(root.join("vecstore-embed/tests/models/plain.onnx"), &model).unwrap();
    let config = r#"{"image_processor_type": "ViTImageProcessor", "size": 8}"#;
    fs::write(dir.path().join("preprocessor_config.json"), config).unwrap();
    for wanted in ["20 embedded, 1 rejected, 0 already there", "0 embedded, 0 rejected, 21 already there"] {
        let mut command = Command::new(example());
        command.arg(&model).arg(root.join("examples/photos")).arg(dir.path().join("photos.vecs"));
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        assert!(out.contains(wanted) && out.contains("20 rows of 4 numbers, by model.onnx"), "{out}");
    }
}
