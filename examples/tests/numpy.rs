//! NumPy reads every segment, mapped, and sees the same bits as Rust.
//!
//! These tests need a Python with NumPy, which a machine with nothing but Rust does not have: `scripts/check-numpy`
//! runs them with each interpreter it is given. `PYTHON` names it, `python3` unless set.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::{bf16, f16};
use vecstore::{DType, Entry, Kind, OnDuplicate, Store, StoreConfig};
use vecstore_examples::random::SplitMix64;

fn python() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| String::from("python3"))
}

/// What NumPy calls the elements.
fn numpy_dtype(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::BF16 => "<u2",
        DType::I8 => "|i1",
        other => panic!("no NumPy type is known for {other}"),
    }
}

/// The rows of an entry as bytes.
fn row_bytes(entry: &Entry<'_>) -> Vec<u8> {
    match entry.dtype() {
        DType::F32 => entry.rows::<f32>().unwrap().iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::F16 => entry.rows::<f16>().unwrap().iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::BF16 => entry.rows::<bf16>().unwrap().iter().flat_map(|value| value.to_le_bytes()).collect(),
        _ => entry.quantized().unwrap().0.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

/// Writes down what Rust sees of every segment, and lets Python compare. No entry of the store may be superseded:
/// its rows would be in the file, but not in what Rust sees.
fn compare(dir: &Path, scratch: &Path) {
    let store = Store::open_read_only(dir).unwrap();
    let snapshot = store.snapshot();
    let mut plan = String::new();
    for (number, segment) in snapshot.segments().enumerate() {
        let (mut expected, mut rows) = (Vec::new(), 0);
        for entry in snapshot.iter().map(Result::unwrap) {
            if entry.kind() == Kind::Rows && entry.location().0 == segment.path {
                assert_eq!(entry.location().1, rows);
                rows += entry.row_count();
                expected.extend(row_bytes(&entry));
            }
        }
        let file = scratch.join(format!("expected-{number}"));
        fs::write(&file, expected).unwrap();
        let (path, file, dtype) = (segment.path.display(), file.display(), numpy_dtype(store.dtype()));
        plan.push_str(&format!("{path}\t{dtype}\t{rows}\t{}\t{file}\n", store.dim()));
    }
    assert!(!plan.is_empty(), "{} has no segments", dir.display());
    let file = scratch.join("plan");
    fs::write(&file, plan).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check_segments.py");
    let output = Command::new(python()).arg(script).arg(file).output().unwrap();
    let (printed, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}{complaint}");
    println!("{printed}");
}

/// Batches of 1, 995 and 0 rows, entries with several, and the kinds that have none.
fn fill(store: &Store) {
    let dim = store.dim();
    let mut random = SplitMix64::new(dim as u64);
    let mut rows = |count: usize| (0..count * dim).map(|_| random.next_signed()).collect::<Vec<f32>>();
    let mut batch = store.batch();
    batch.push_converted("one", &rows(1), b"").unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let mut batch = store.batch();
    for number in 0..250 {
        batch.push_converted(format!("many {number}"), &rows(1 + number % 7), b"").unwrap();
        batch.push_empty(format!("empty {number}"), b"nothing found").unwrap();
    }
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let mut batch = store.batch();
    batch.push_rejected("bad", "cannot be read", b"").unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
}

#[test]
#[ignore = "needs a Python with NumPy: scripts/check-numpy"]
fn numpy_sees_the_same_bits() {
    let place = tempfile::tempdir().unwrap();
    for (dtype, dim) in DType::ALL.into_iter().flat_map(|dtype| [1, 3, 512].map(|dim| (dtype, dim))) {
        let dir = place.path().join(format!("{dtype}-{dim}.vecs"));
        let store = Store::create(&dir, StoreConfig::new(dim).dtype(dtype)).unwrap();
        fill(&store);
        compare(&dir, place.path());
        // And the same in one file, without what was deleted.
        store.delete(&["many 3", "empty 7"]).unwrap();
        assert_eq!(store.compact_full().unwrap().segments_after, 1);
        store.close().unwrap();
        compare(&dir, place.path());
    }
}

/// For stores that another program made: `NUMPY_STORE` names one.
#[test]
#[ignore = "needs a Python with NumPy and a store: scripts/check-numpy"]
fn numpy_sees_the_same_bits_in_the_store_given() {
    let dir = std::env::var_os("NUMPY_STORE").map(PathBuf::from).expect("NUMPY_STORE names a store");
    compare(&dir, tempfile::tempdir().unwrap().path());
}

#[test]
#[ignore = "needs a Python with NumPy: scripts/check-numpy"]
fn the_example_finds_the_same_rows() {
    let place = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_npy_from_python"))
        .arg(place.path().join("example.vecs"))
        .env("PYTHON", python())
        .output()
        .unwrap();
    let (printed, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{printed}{complaint}");
    assert!(printed.ends_with("NumPy found what Rust found\n"), "{printed}");
}

#[test]
fn without_python_the_example_says_what_is_missing() {
    let place = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_npy_from_python"))
        .arg(place.path().join("example.vecs"))
        .env("PYTHON", "no-such-python")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot start no-such-python"));
}
