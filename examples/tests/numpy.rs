//! NumPy reads every segment, mapped, and sees the same bits as Rust.
//!
//! These tests need a Python with NumPy, which a machine with nothing but Rust does not have:
//! `scripts/check-numpy` runs them with each interpreter it is given. `PYTHON` names it, `python3` unless
//! set.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::{bf16, f16};
use vecstore::{DType, Entry, Kind, OnDuplicate, Reader, Store, StoreConfig};
use vecstore_examples::random::SplitMix64;

fn python() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| String::from("python3"))
}

/// NumPy's name of the element type.
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

/// Writes down the rows of each segment as Rust sees them, and lets Python compare. No entry of the store may
/// be superseded: its rows would be in the file, but not among those that Rust sees.
fn compare(dir: &Path, scratch: &Path) {
    let snapshot = Reader::open(dir).unwrap().snapshot();
    let mut plan = String::new();
    for (number, segment) in snapshot.segments().enumerate() {
        let path = segment.info().path;
        let (mut expected, mut rows) = (Vec::new(), 0);
        for entry in snapshot.iter().map(Result::unwrap) {
            if entry.kind() == Kind::Rows && entry.location().0 == path {
                assert_eq!(entry.location().1, rows);
                rows += entry.row_count();
                expected.extend(row_bytes(&entry));
            }
        }
        let file = scratch.join(format!("expected-{number}"));
        fs::write(&file, expected).unwrap();
        let (path, file, dtype) = (path.display(), file.display(), numpy_dtype(snapshot.dtype()));
        plan.push_str(&format!("{path}\t{dtype}\t{rows}\t{}\t{file}\n", snapshot.dim()));
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

/// Appends batches of 1, 995 and 0 rows, with entries of several rows and of the kinds without rows.
fn fill(store: &Store) {
    let dim = store.snapshot().dim();
    let mut random = SplitMix64::new(dim as u64);
    let mut rows = |count: usize| (0..count * dim).map(|_| random.next_signed()).collect::<Vec<f32>>();
    let mut batch = store.batch();
    batch.push_converted("one", &rows(1)).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let mut batch = store.batch();
    for number in 0..250 {
        let many = rows(1 + number % 7);
        let entry = batch.entry(format!("many {number}"));
        many.chunks(dim).fold(entry, |entry, row| entry.converted(row)).push().unwrap();
        batch.entry(format!("empty {number}")).payload(b"nothing found").push_empty().unwrap();
    }
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let mut batch = store.batch();
    batch.push_rejected("bad", "cannot be read").unwrap();
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
        // The same in one file, without deleted entries.
        store.delete(&["many 3", "empty 7"]).unwrap();
        assert_eq!(store.compact_full().unwrap().segments_after, 1);
        store.close().unwrap();
        compare(&dir, place.path());
    }
}

/// For a store that another program made, which `NUMPY_STORE` names.
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
