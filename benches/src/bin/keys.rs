//! Measures the key index at scale: `keys [COUNT] [DIM] [COMPACT] [KEEP]` stores COUNT keys with rows of DIM
//! elements (100,000,000 and 8 unless given), compacts, and measures opening, looking up, and asking for
//! missing keys: time, memory, bytes.
//!
//! The store is filled in large durable batches. `COMPACT` is `full` (one segment; the default), `some`
//! (segments up to 4 GiB) or `none`. The store is in the folder `KEEP`, where it stays for the next run, or
//! in a temporary folder. Compacting needs disk space for another copy of the largest segment. Linux only:
//! memory comes from `/proc/self`.

use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memmap2::Mmap;
use vecstore::{Batch, DType, MergePolicy, OnDuplicate, OpenOptions, Reader, StoreConfig};
use vecstore_benches::{Numbers, folder};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Number of keys that are looked up, and that are asked for.
const ASKED: usize = 1_000_000;
/// Most bytes of rows in a batch, and most entries. (Every key of a batch is looked up in every segment, and
/// each batch is a segment.)
const BATCH: (usize, usize) = (256 << 20, 5_000_000);
/// Keys that are replaced at the end, so that there is a liveness bitmap besides the key filters.
const REPLACED: usize = 1_000;
/// Measurements of each figure, of which the best counts.
const TIMES: usize = 3;
/// Bytes before the rows of a segment.
const HEAD: usize = 4096;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual: usize| args.get(at).map_or(Ok(usual), |text| text.parse());
    let (count, dim) = (number(0, 100_000_000)?, number(1, 8)?);
    let temporary = folder()?;
    let path = args.get(3).map_or_else(|| temporary.path().join("store.vecs"), PathBuf::from);
    if !path.exists() {
        fill(&path, count, dim)?;
    }
    compact(&path, args.get(2).map_or("full", String::as_str))?;
    measure(&path, count, dim)
}

/// Key number `number`: 16 bytes.
fn key(number: usize) -> String {
    format!("IMG_{number:012}")
}

fn options() -> OpenOptions {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand)
}

/// Appends all entries.
fn fill(path: &Path, count: usize, dim: usize) -> Outcome<()> {
    let store = options().create(path, StoreConfig::new(dim))?;
    let each = (BATCH.0 / (dim * 4)).clamp(1, BATCH.1);
    let start = Instant::now();
    for first in (0..count).step_by(each) {
        let mut numbers = Numbers::new(first as u64);
        let mut batch = Batch::new(dim, DType::F32);
        for number in first..count.min(first + each) {
            batch.push(key(number), &numbers.take(dim))?;
        }
        store.append(&mut batch, OnDuplicate::Error)?;
    }
    let files = store.snapshot().segments().count();
    println!(
        "filled in {:.1} s, in batches of {each}: {files} files; {}",
        start.elapsed().as_secs_f64(),
        memory()?
    );
    let mut batch = Batch::new(dim, DType::F32);
    for number in 0..count.min(REPLACED) {
        batch.push(key(number), &Numbers::new(number as u64).take(dim))?;
    }
    store.append(&mut batch, OnDuplicate::Replace)?;
    store.close()?;
    Ok(())
}

fn compact(path: &Path, how: &str) -> Outcome<()> {
    let store = options().open(path)?;
    let start = Instant::now();
    let done = match how {
        "full" => store.compact_full()?,
        "some" => store.compact()?,
        "none" => return Ok(()),
        other => return Err(format!("compact: expected full, some or none, found '{other}'").into()),
    };
    println!(
        "compacted in {:.1} s: {} MiB written; {}",
        start.elapsed().as_secs_f64(),
        done.bytes_written >> 20,
        memory()?
    );
    store.close()?;
    Ok(())
}

fn measure(path: &Path, count: usize, dim: usize) -> Outcome<()> {
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(state) * below as u128) >> 64) as usize
    };
    let places: Vec<usize> = (0..ASKED).map(|_| random(count)).collect();
    let keys: Vec<String> = places.iter().map(|number| key(*number)).collect();
    // A tenth of the keys was never stored.
    let asked: Vec<String> =
        (0..ASKED).map(|at| key(random(count) + if at % 10 == 0 { count } else { 0 })).collect();

    let before = anonymous()?;
    let start = Instant::now();
    let store = options().open(path)?;
    let cold = start.elapsed();
    let snapshot = store.snapshot();
    let bytes: u64 = snapshot.segments().map(|segment| segment.info().bytes).sum();
    let files = snapshot.segments().count();
    let derived = fs::read_dir(path.join("derived")).map_or(0, Iterator::count);
    println!(
        "{count} keys of {} bytes, {dim} x f32, {files} file(s), {derived} derived, {} bytes per row",
        key(0).len(),
        bytes / count.max(1) as u64
    );
    println!(
        "open: {:.3} ms at first, {} KiB of anonymous memory more",
        millis(cold),
        (anonymous()? - before) / 1024
    );
    let mut row = vec![0f32; dim];
    let mut get = || {
        let start = Instant::now();
        for key in &keys {
            let entry = snapshot.get(key)?.ok_or("a key is not there")?;
            row.copy_from_slice(entry.rows()?);
            black_box(&mut row);
        }
        Ok(start.elapsed())
    };
    println!("{ASKED} lookups, at first: {:.2} us each", micros(get()?));
    let get = best(get)?;
    println!(
        "get: {:.3} us; {} KiB of anonymous memory since before it was opened",
        micros(get),
        (anonymous()? - before) / 1024
    );
    let first_missing = Instant::now();
    let found = snapshot.missing(&asked)?.len();
    let first_missing = first_missing.elapsed();
    if found != ASKED.div_ceil(10) {
        return Err(format!("{found} keys are missing").into());
    }
    let missing = best(|| {
        let start = Instant::now();
        black_box(snapshot.missing(&asked)?);
        Ok(start.elapsed())
    })?;
    println!(
        "missing of {ASKED}: {:.3} s at first, {:.3} s",
        first_missing.as_secs_f64(),
        missing.as_secs_f64()
    );
    let open = best(|| {
        let start = Instant::now();
        let again = Reader::open(path)?;
        let took = start.elapsed();
        drop(again);
        Ok(took)
    })?;
    println!("open again: {:.3} ms", millis(open));
    if files == 1 {
        let segment = snapshot.segments().next().ok_or("no segment")?;
        // SAFETY: no program changes a published segment.
        let map = unsafe { Mmap::map(&File::open(segment.info().path)?)? };
        let mut row = vec![0u8; dim * 4];
        let copy = best(|| {
            let start = Instant::now();
            for place in &places {
                let from = HEAD + place * dim * 4;
                row.copy_from_slice(map.get(from..from + dim * 4).ok_or("no such row")?);
                black_box(&mut row);
            }
            Ok(start.elapsed())
        })?;
        println!("copying such a row from a mapping of the file: {:.3} us", micros(copy));
    }
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let huge: u64 = smaps
        .lines()
        .filter_map(|line| {
            line.strip_prefix("FilePmdMapped:")?.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum();
    println!("{} MiB of the files are mapped by huge pages", huge / 1024);
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Time per key asked for, in microseconds.
fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6 / ASKED as f64
}

fn best(mut measure: impl FnMut() -> Outcome<Duration>) -> Outcome<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..TIMES {
        best = best.min(measure()?);
    }
    Ok(best)
}

fn status(name: &str) -> Outcome<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("not in /proc")?;
    Ok(rest.split_whitespace().next().ok_or("no number in /proc")?.parse::<u64>()? * 1024)
}

/// Bytes of anonymous memory: neither a file's nor shared.
fn anonymous() -> Outcome<u64> {
    status("RssAnon:")
}

fn memory() -> Outcome<String> {
    Ok(format!("{} MiB of anonymous memory", anonymous()? >> 20))
}
