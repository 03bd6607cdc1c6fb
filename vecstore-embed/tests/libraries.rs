//! Everything that a file given as ONNX Runtime library can be, but a good one.
//!
//! Apart from `backends.rs`, because a process that has loaded a good library keeps it.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use vecstore_embed::Error;
use vecstore_embed::backend::{BackendChoice, BackendOptions, open_backend};
use vecstore_embed::model::Model;

/// What opening a backend with this library says.
fn refused(library: &Path, choice: BackendChoice) -> String {
    let options =
        BackendOptions { choice, ort_lib: Some(library.to_owned()), threads: 1, ..BackendOptions::default() };
    match open_backend(&Model::builtin().unwrap(), &options) {
        Ok(backend) => panic!("{} opened {}", library.display(), backend.name()),
        Err(error) => {
            assert!(matches!(error, Error::RuntimeLibrary { .. }), "{error}");
            error.to_string()
        }
    }
}

/// Says what is wrong, which file, what is needed and how to get it, also when ONNX Runtime was only the first choice.
#[track_caller]
fn assert_refused(library: &Path, found: &str) {
    for choice in [BackendChoice::OnnxRuntime, BackendChoice::Auto] {
        let text = refused(library, choice);
        let name = library.file_name().unwrap_or_default().to_str().unwrap();
        for words in [name, found, "ONNX Runtime 1.17 or newer", "pip install onnxruntime", "--ort-lib"] {
            assert!(text.contains(words), "{words:?} is not in: {text}");
        }
    }
}

#[test]
fn what_is_not_there_or_no_library() {
    let folder = tempfile::tempdir().unwrap();
    assert_refused(&folder.path().join("libonnxruntime.so"), "No such file");
    assert_refused(folder.path(), "no regular file");
    let text = folder.path().join("text.so");
    std::fs::write(&text, "Dear diary,\n").unwrap();
    assert_refused(&text, "no 64-bit ELF library");
    std::fs::write(&text, "").unwrap();
    assert_refused(&text, "no 64-bit ELF library");
}

/// Builds a library from C source with the compiler that Rust links with.
fn compile(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (from, to) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    std::fs::write(&from, source).unwrap();
    let done = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&to, &from]).status().unwrap();
    assert!(done.success());
    to
}

/// A library with ONNX Runtime's entry point and nothing behind it.
fn stub(folder: &Path, name: &str, version: &str) -> PathBuf {
    let source = format!(
        "static const void *api(unsigned v) {{ (void)v; return 0; }}
         static const char *version(void) {{ return {version}; }}
         static const struct {{ const void *(*a)(unsigned); const char *(*v)(void); }} base = {{ api, version }};
         const void *OrtGetApiBase(void) {{ return &base; }}"
    );
    compile(folder, name, &source)
}

#[test]
fn libraries_that_are_not_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    assert_refused(
        &compile(folder, "other", "int answer(void) { return 42; }"),
        "a library that is not ONNX Runtime",
    );
    let nothing = "const void *OrtGetApiBase(void) { return 0; }";
    assert_refused(&compile(folder, "nothing", nothing), "offers no interface");
    let needs = "extern int missing_symbol; int *use(void) { return &missing_symbol; }";
    assert_refused(&compile(folder, "needs", needs), "undefined symbol: missing_symbol");
    assert_refused(&stub(folder, "old", "\"1.16.3\""), "found version 1.16.3;");
    assert_refused(&stub(folder, "ancient", "\"0.5.0\""), "found version 0.5.0;");
    assert_refused(&stub(folder, "strange", "\"one\""), "version one");
    assert_refused(&stub(folder, "mute", "0"), "without a version");
    assert_refused(
        &stub(folder, "hollow", "\"1.31.1\""),
        "version 1.31.1, which does not offer the interface of 1.17",
    );

    // Cut anywhere, a library would end the process when it is loaded.
    let whole = std::fs::read(folder.join("old.so")).unwrap();
    let cut = folder.join("cut.so");
    for length in [100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        assert_refused(&cut, &format!("ends after {length} bytes"));
    }
}

#[test]
fn tract_needs_no_library() {
    let options = BackendOptions {
        choice: BackendChoice::Tract,
        ort_lib: Some("/nowhere/lib.so".into()),
        threads: 1,
        ..BackendOptions::default()
    };
    let backend = open_backend(&Model::builtin().unwrap(), &options).unwrap();
    assert_eq!(backend.name(), "tract 0.23");
}
