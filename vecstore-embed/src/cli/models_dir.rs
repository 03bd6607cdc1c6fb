//! Models by name: `--models-dir DIR --model NAME`.

use std::fs;
use std::path::{Path, PathBuf};

use vecstore_embed::{Error, Result};

/// The file of the model `asked`: that path if there is something, or the model of that name in `dir`, which
/// is `DIR/NAME.onnx`, `DIR/NAME/model.onnx`, `DIR/NAME/onnx/model.onnx`, or the one `.onnx` file in
/// `DIR/NAME`.
pub(super) fn find(asked: &Path, dir: Option<&Path>) -> Result<PathBuf> {
    let wrong = |found: String, remedy: &str| Error::Model {
        model: asked.display().to_string(),
        expected: "a file, or the name of a model in --models-dir".to_owned(),
        found,
        remedy: remedy.to_owned(),
    };
    if asked.is_file() {
        return Ok(asked.to_owned());
    }
    let Some(dir) = dir else {
        let found = if asked.exists() { "something that is no file" } else { "no such file" };
        let remedy = "give the path of an ONNX file, or name the folder of models with --models-dir";
        return Err(wrong(found.to_owned(), remedy));
    };
    let folder = dir.join(asked);
    let mut with_extension = folder.clone().into_os_string();
    with_extension.push(".onnx");
    let usual =
        [folder.clone(), with_extension.into(), folder.join("model.onnx"), folder.join("onnx/model.onnx")];
    if let Some(found) = usual.into_iter().find(|path| path.is_file()) {
        return Ok(found);
    }
    let is_model =
        |path: &Path| path.extension().is_some_and(|extension| extension == "onnx") && path.is_file();
    let has = |folder: &Path, paths: &[PathBuf]| format!("{} has {}", folder.display(), names(paths));
    match &listed(&folder, is_model)[..] {
        [only] => Ok(only.clone()),
        [] => {
            let known = listed(dir, |path| path.is_dir() || is_model(path));
            Err(wrong(has(dir, &known), "give one of these, or a path"))
        }
        several => Err(wrong(has(&folder, several), "give the path of one")),
    }
}

/// What is meant of the entries of a folder, sorted.
fn listed(folder: &Path, is_meant: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| is_meant(path)).collect();
    paths.sort_unstable();
    paths
}

fn names(paths: &[PathBuf]) -> String {
    let names = paths.iter().filter_map(|path| path.file_stem()).map(|name| name.to_string_lossy());
    if paths.is_empty() { "none".to_owned() } else { names.collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_the_usual_places() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [
            "plain.onnx",
            "clip/model.onnx",
            "hub/onnx/model.onnx",
            "one/vision.onnx",
            "two/a.onnx",
            "two/b.onnx",
        ] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
        }
        let find = |asked: &str| find(asked.as_ref(), Some(dir.path()));
        for (asked, expected) in [
            ("plain", "plain.onnx"),
            ("plain.onnx", "plain.onnx"),
            ("clip", "clip/model.onnx"),
            ("hub", "hub/onnx/model.onnx"),
            ("one", "one/vision.onnx"),
            ("two/b", "two/b.onnx"),
        ] {
            assert_eq!(find(asked).unwrap(), at(expected), "{asked}");
        }
        let path = at("clip/model.onnx");
        assert_eq!(find(path.to_str().unwrap()).unwrap(), path, "a path is a path");
        let several = find("two").unwrap_err().to_string();
        assert!(several.contains("has a, b; give the path of one"), "{several}");
        let none = find("three").unwrap_err().to_string();
        assert!(none.contains("has clip, hub, one, plain, two; give one of these"), "{none}");
        let nowhere = super::find("x".as_ref(), None).unwrap_err().to_string();
        assert!(nowhere.contains("no such file; give the path of an ONNX file"), "{nowhere}");
    }
}
