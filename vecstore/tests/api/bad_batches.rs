//! An invalid batch is refused as a whole: nothing is written, no commit number is used, and the store stays
//! usable.

use vecstore::{Batch, DType, Error, OnDuplicate, Store, StoreConfig};

fn names(path: &std::path::Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        std::fs::read_dir(path.join("segments")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn an_invalid_batch_is_refused_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(2)).unwrap();
    let mut batch = store.batch();
    batch.push("a", &[1.0f32, 2.0]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let before = names(&path);

    let mut wide = Batch::new(3, DType::F32);
    wide.push("b", &[1.0f32, 2.0, 3.0]).unwrap();
    let error = store.append(&mut wide, OnDuplicate::Skip).unwrap_err();
    assert!(matches!(error, Error::DimensionMismatch { expected: 2, found: 3, .. }), "{error}");

    let mut half = Batch::new(2, DType::F16);
    half.push("b", &[half::f16::ONE; 2]).unwrap();
    let error = store.append(&mut half, OnDuplicate::Skip).unwrap_err();
    assert!(matches!(error, Error::DTypeMismatch { expected: DType::F32, found: DType::F16, .. }), "{error}");

    let mut twice = store.batch();
    for key in ["c", "b", "c"] {
        twice.push(key, &[1.0f32, 2.0]).unwrap();
    }
    let error = store.append(&mut twice, OnDuplicate::Error).unwrap_err();
    assert!(matches!(&error, Error::DuplicateKey { key, count: 1, .. } if key == b"c"), "{error}");
    assert_eq!(twice.len(), 3, "as it was");

    for dim in [0, vecstore::MAX_DIM + 1, usize::MAX] {
        let other = dir.path().join("other");
        assert!(
            matches!(Store::create(&other, StoreConfig::new(dim)), Err(Error::InvalidArgument { .. })),
            "{dim}"
        );
        assert!(!other.exists());
    }

    assert_eq!(names(&path), before);
    let mut batch = store.batch();
    batch.push("b", &[5.0f32, 6.0]).unwrap();
    assert_eq!(store.append(&mut batch, OnDuplicate::Error).unwrap().commit, Some(2));
}
