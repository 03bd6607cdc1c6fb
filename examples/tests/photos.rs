//! The pictures in `examples/photos` are those that their generator makes, and as the front page describes
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use vecstore_examples::photos::{TRUNCATED, photos};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("photos")
}

/// After an update of an image library that encodes differently, run `make_photos` and commit the result.
#[test]
fn the_generator_makes_every_byte_again() {
    for (path, bytes) in photos().unwrap() {
        let found = fs::read(folder().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(found == bytes, "{path}: {} bytes, the generator makes {}", found.len(), bytes.len());
    }
}

#[test]
fn the_folder_has_no_other_files() {
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
fn one_picture_is_truncated_and_the_others_decode() {
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
