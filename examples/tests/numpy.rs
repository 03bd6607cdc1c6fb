//! NumPy reads every segment, mapped, and sees the same bits as Rust.
//!
//! These tests need a Python with NumPy, which a machine with nothing but Rust does not have: `scripts/check-numpy`
//! runs them with each interpreter it is given. `PYTHON` names it, `python3` unless set.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use half::f16;
use vecstore::{DType, Element, Kind, OnDuplicate, Store, StoreConfig};
use vecstore_examples::random::SplitMix64;

fn python() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| String::from("python3"))
}

/// Writes down what Rust sees of every segment, and lets Python compare. The store must have no replaced entries.
fn compare(dir: &Path, scratch: &Path) {
    let store = Store::open_read_only(dir).unwrap();
    let snapshot = store.snapshot();
    let mut plan = String::new();
    for (number, segment) in snapshot.segments().enumerate() {
        let (mut expected, mut rows) = (Vec::new(), 0);
        for entry in snapshot.iter().map(Result::unwrap) {
            if entry.kind() == Kind::Rows
                && (segment.first_commit..=segment.last_commit).contains(&entry.address().commit)
            {
                rows += entry.row_count();
                match store.dtype() {
                    DType::F32 => {
                        expected.extend(
                            entry.rows::<f32>().unwrap().iter().flat_map(|value| value.to_le_bytes()),
                        );
                    }
                    DType::F16 => {
                        expected.extend(
                            entry.rows::<f16>().unwrap().iter().flat_map(|value| value.to_le_bytes()),
                        );
                    }
                    other => panic!("no NumPy type is known for {other}"),
                }
            }
        }
        let file = scratch.join(format!("expected-{number}"));
        fs::write(&file, expected).unwrap();
        let dtype = if store.dtype() == DType::F16 { "<f2" } else { "<f4" };
        let (segment, file) = (segment.path.display(), file.display());
        plan.push_str(&format!("{segment}\t{dtype}\t{rows}\t{}\t{file}\n", store.dim()));
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

/// Batches of 1, 1000 and 0 rows, entries with several, and the kinds that have none.
fn fill<T: Element>(dir: &Path, dim: usize, convert: impl Fn(f32) -> T) {
    let store = Store::create(dir, StoreConfig::new(dim).dtype(T::DTYPE)).unwrap();
    let mut random = SplitMix64::new(dim as u64);
    let mut rows = |count: usize| (0..count * dim).map(|_| convert(random.next_signed())).collect::<Vec<T>>();
    let mut batch = store.batch();
    batch.push("one", &rows(1)).unwrap();
    store.append(batch, OnDuplicate::Error).unwrap();
    let mut batch = store.batch();
    for number in 0..250 {
        batch.push(format!("many {number}"), &rows(1 + number % 7)).unwrap();
        batch.push_empty(format!("empty {number}"), b"nothing found").unwrap();
    }
    store.append(batch, OnDuplicate::Error).unwrap();
    let mut batch = store.batch();
    batch.push_rejected("bad", "cannot be read").unwrap();
    store.append(batch, OnDuplicate::Error).unwrap();
    store.close().unwrap();
}

#[test]
#[ignore = "needs a Python with NumPy: scripts/check-numpy"]
fn numpy_sees_the_same_bits() {
    let place = tempfile::tempdir().unwrap();
    for dim in [1, 3, 512] {
        let dir = place.path().join(format!("f32-{dim}.vecs"));
        fill::<f32>(&dir, dim, |value| value);
        compare(&dir, place.path());
        let dir = place.path().join(format!("f16-{dim}.vecs"));
        fill::<f16>(&dir, dim, f16::from_f32);
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
