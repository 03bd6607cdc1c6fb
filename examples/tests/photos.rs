//! The pictures in `examples/photos` are what their generator makes, and what the front page says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use vecstore_examples::photos::{TRUNCATED, photos};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("photos")
}

/// An update of an image library may encode differently; then run `make_photos` and commit what it made.
#[test]
fn the_generator_makes_every_byte_again() {
    for (path, bytes) in photos().unwrap() {
        let found = fs::read(folder().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(found == bytes, "{path}: {} bytes, the generator makes {}", found.len(), bytes.len());
    }
}

#[test]
fn nothing_else_lies_in_the_folder() {
    let mut found = BTreeSet::new();
    for group in fs::read_dir(folder()).unwrap() {
        let group = group.unwrap();
        for file in fs::read_dir(group.path()).unwrap() {
            let (group, file) = (group.file_name(), file.unwrap().file_name());
            found.insert(format!("{}/{}", group.to_string_lossy(), file.to_string_lossy()));
        }
    }
    let expected: BTreeSet<String> = photos().unwrap().iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, expected);
}

#[test]
fn one_is_truncated_and_the_others_decode() {
    let mut total = 0;
    let mut formats: BTreeMap<String, usize> = BTreeMap::new();
    for (path, bytes) in photos().unwrap() {
        total += bytes.len();
        let format = image::guess_format(&bytes).unwrap();
        *formats.entry(format!("{format:?}")).or_default() += 1;
        let ends_well = format != image::ImageFormat::Jpeg || bytes.ends_with(&[0xFF, 0xD9]);
        assert_eq!(ends_well, path != TRUNCATED, "{path}");
        if path != TRUNCATED {
            image::load_from_memory(&bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    }
    assert!(total < 600_000, "{total} bytes");
    assert_eq!(formats.len(), 6, "{formats:?}");
}
