//! `npy_from_python [DIR]`: NumPy reads the files that Rust wrote, without any conversion.
//!
//! Makes a store (a new `npy_from_python.vecs` unless DIR is given), searches it, lets a few lines of Python
//! (`npy_from_python.py`) search the same files with `numpy.load(mmap_mode="r")`, and compares both results.
//! `PYTHON` names the interpreter, `python3` unless set. Exit code 69: there is no Python, or it has no
//! NumPy.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use vecstore::{OnDuplicate, Reader, Store, StoreConfig};
use vecstore_examples::args::failed;
use vecstore_examples::random::SplitMix64;

const DIM: usize = 32;
const K: usize = 5;

/// EX_UNAVAILABLE of sysexits.h: something that this program needs is not installed.
const EXIT_UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let dir = std::env::args().nth(1).unwrap_or_else(|| String::from("npy_from_python.vecs"));
    match run(Path::new(&dir)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_UNAVAILABLE),
        Err(why) => failed(format_args!("npy_from_python: {why}")),
    }
}

/// Returns false if there is no Python with NumPy to compare with.
fn run(dir: &Path) -> Result<bool, Box<dyn Error>> {
    fill(dir)?;
    let snapshot = Reader::open(dir)?.snapshot();
    let mut random = SplitMix64::new(7);
    let query: Vec<f32> = (0..DIM).map(|_| random.next_signed()).collect();
    let query_file = dir.with_extension("query.f32");
    fs::write(&query_file, query.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;

    // Segments in commit order, as `vecstore files DIR` prints them.
    let segments: Vec<PathBuf> = snapshot.segments().map(|segment| segment.info().path).collect();
    let python = std::env::var("PYTHON").unwrap_or_else(|_| String::from("python3"));
    let output = Command::new(&python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("npy_from_python.py"))
        .arg(&query_file)
        .arg(K.to_string())
        .args(&segments)
        .output();
    fs::remove_file(&query_file)?;
    let output = match output {
        Ok(output) if output.status.code() == Some(i32::from(EXIT_UNAVAILABLE)) => {
            eprintln!("npy_from_python: {python} has no NumPy; `{python} -m pip install numpy` installs it");
            return Ok(false);
        }
        Ok(output) if output.status.success() => String::from_utf8(output.stdout)?,
        Ok(output) => return Err(format!("{python}: {}", String::from_utf8_lossy(&output.stderr)).into()),
        Err(error) => {
            eprintln!("npy_from_python: cannot start {python} ({error}); install Python 3 or set PYTHON");
            return Ok(false);
        }
    };

    print!("{output}");
    let mut lines = output.lines().skip(1);
    for hit in snapshot.search(&query, K)? {
        let line = lines.next().ok_or("Python found fewer rows")?;
        let mut words = line.split_whitespace();
        let mut word = || words.next().ok_or_else(|| format!("what Python printed: {line}"));
        let (segment, row, score) =
            (word()?.parse::<usize>()?, word()?.parse::<u64>()?, word()?.parse::<f32>()?);
        println!("{:.7}  {}", hit.score, String::from_utf8_lossy(&hit.key));
        let segment = segments.get(segment).ok_or("Python found a row in no segment")?;
        // The row's file and its place there, which is not its address any more once segments were merged.
        let entry = snapshot.get(&hit.key)?.ok_or("a hit without an entry")?;
        let (path, first_row) = entry.location();
        let same_place = segment == path && row == first_row as u64 + u64::from(hit.row);
        if !same_place || (score - hit.score).abs() > 1e-5 {
            return Err(format!("Rust finds {} at {}, NumPy: {line}", hit.score, hit.address).into());
        }
    }
    println!("NumPy found what Rust found");
    Ok(true)
}

/// Makes the store: three batches of a hundred rows.
fn fill(dir: &Path) -> vecstore::Result<()> {
    let store = Store::create(dir, StoreConfig::new(DIM))?;
    let mut random = SplitMix64::new(1);
    for number in 0..3 {
        let mut batch = store.batch();
        for row in 0..100 {
            let vector: Vec<f32> = (0..DIM).map(|_| random.next_signed()).collect();
            batch.push(format!("batch {number}, row {row}"), &vector)?;
        }
        store.append(&mut batch, OnDuplicate::Error)?;
    }
    store.close()
}
