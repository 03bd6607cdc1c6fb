//! Reading: opening a store, fetching rows by key in random order, reading all rows, and finding which of
//! many keys are missing.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::peer::{Open, PEERS};
use crate::{Outcome, ROW, batch, bytes_of, is_wanted, key, limits, opened, ours, setting};

/// Durable batches in which a store is filled, and segments of the store that is not merged.
const PARTS: usize = 100;
/// Measurements of each figure, of which the best counts: disturbances only make things slower.
const TIMES: usize = 3;

/// The stores that are read: all of them, and one with many segments.
pub fn stores() -> impl Iterator<Item = (&'static str, Open)> {
    PEERS
        .into_iter()
        .take(1)
        .chain([("vecstore, 100 segments", ours::open_unmerged as Open)])
        .chain(PEERS.into_iter().skip(1))
}

/// The work of every store, and the machine's limits for it.
struct Work {
    rows: usize,
    /// Every key, in random order.
    keys: Vec<String>,
    /// As many keys, in random order; a tenth of them was never stored.
    asked: Vec<String>,
    /// Sum of all rows.
    sum: u64,
    /// Time that the machine needs to copy a row, and to add up all rows.
    copy: Duration,
    add_up: Duration,
}

impl Work {
    fn gigabytes(&self) -> f64 {
        (self.rows * ROW) as f64 / 1e9
    }
}

pub fn run(dir: &Path) -> Outcome<()> {
    let rows = setting("PEERS_ROWS", 200_000usize)?.next_multiple_of(PARTS);

    println!("{rows} rows; {rows} keys asked for, a tenth of them not there\n");
    let work = limits(rows)?;
    for (name, open) in stores().filter(|(name, _)| is_wanted(name)) {
        println!("{}", measure(&work, dir, name, open)?);
    }
    println!();
    Ok(())
}

/// Prints the head of the table: the limits of the machine.
fn limits(rows: usize) -> Outcome<Work> {
    let order = shuffled(rows);
    let mut memory = limits::Pages::small(rows * ROW)?;
    for (part, place) in memory.bytes().chunks_mut(rows / PARTS * ROW).enumerate() {
        place.copy_from_slice(bytes_of(&batch(part * (rows / PARTS), rows / PARTS).rows));
    }
    let copy_of = |memory: &[u8]| best(|| limits::copy(memory, &order));
    let add_up_of = |memory: &[u8]| {
        best(|| {
            let start = Instant::now();
            black_box(limits::sum(memory));
            Ok(start.elapsed())
        })
    };
    let (small_copy, small_add) = (copy_of(memory.bytes())?, add_up_of(memory.bytes())?);
    let mut huge = limits::Pages::huge(rows * ROW)?;
    huge.bytes().copy_from_slice(memory.bytes());
    drop(memory);
    let (copy, add_up) = (copy_of(huge.bytes())?, add_up_of(huge.bytes())?);
    let work = Work {
        rows,
        keys: order.iter().map(|number| key(*number)).collect(),
        asked: order.iter().map(|number| key(number + rows / 10)).collect(),
        sum: limits::sum(huge.bytes()),
        copy,
        add_up,
    };
    println!(
        "| | open ms | anonymous KiB | get us | of a copy | scan GB/s | of a loop | missing s | bytes per \
         row |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (what, one, all) in [("4 KiB", small_copy, small_add), ("huge", copy, add_up)] {
        println!(
            "| raw: copy a row, add up a buffer, of {what} pages | | | {:.2} | {:.2} | {:.1} | {:.2} | | \
             {ROW} |",
            micros(one),
            one.as_secs_f64() / copy.as_secs_f64(),
            work.gigabytes() / all.as_secs_f64(),
            add_up.as_secs_f64() / all.as_secs_f64(),
        );
    }
    Ok(work)
}

/// Measures a store, and returns its line of the table.
fn measure(work: &Work, dir: &Path, name: &str, open: Open) -> Outcome<String> {
    let place = Place::new(dir, name, work.rows)?;
    let own = place.path.as_path();
    if !place.is_filled() {
        let store = open(own)?;
        for part in 0..PARTS {
            store.append(&batch(part * (work.rows / PARTS), work.rows / PARTS))?;
        }
        store.settle()?;
        drop(store);
        place.filled()?;
    }
    let opened = opened::measure(name, own)?;
    let store = open(own)?;
    let mut row = vec![0; ROW];
    // This brings the pages into memory, and checks the contents.
    let mut found = 0u64;
    store.scan(&mut |row| found = found.wrapping_add(limits::sum(row)))?;
    if found != work.sum || store.fetch(&work.keys, &mut row)? != work.rows {
        return Err(format!("{name}: what was read is not what was written").into());
    }
    let get = best(|| {
        let start = Instant::now();
        store.fetch(&work.keys, &mut row)?;
        Ok(start.elapsed() / u32::try_from(work.rows)?)
    })?;
    let scan = best(|| {
        let start = Instant::now();
        let mut total = 0u64;
        store.scan(&mut |row| total = total.wrapping_add(limits::sum(row)))?;
        black_box(total);
        Ok(start.elapsed())
    })?;
    // If the rows are an array in a mapped file, a loop over the array is the limit.
    let add_up = best(|| {
        let start = Instant::now();
        let plain = store.plain_loop()?;
        Ok(if plain.is_some_and(|sum| sum == work.sum) { start.elapsed() } else { work.add_up })
    })?;
    let missing = best(|| {
        let start = Instant::now();
        if store.missing(&work.asked)? != work.rows / 10 {
            return Err(format!("{name}: another number of keys is missing").into());
        }
        Ok(start.elapsed())
    })?;
    Ok(format!(
        "| {name} | {:.2} | {} | {:.2} | {:.2} | {:.1} | {:.2} | {:.3} | {} |",
        opened.time.as_secs_f64() * 1e3,
        opened.anonymous / 1024,
        micros(get),
        get.as_secs_f64() / work.copy.as_secs_f64(),
        work.gigabytes() / scan.as_secs_f64(),
        add_up.as_secs_f64() / scan.as_secs_f64(),
        missing.as_secs_f64(),
        size(own)? / work.rows as u64
    ))
}

/// The folder of a store: temporary or, if `PEERS_KEEP` names a folder, one in there that stays, so that the
/// next run need not fill it.
struct Place {
    path: PathBuf,
    _goes: Option<TempDir>,
}

impl Place {
    fn new(dir: &Path, name: &str, rows: usize) -> Outcome<Self> {
        let Some(kept) = std::env::var_os("PEERS_KEEP") else {
            let own = tempfile::tempdir_in(dir)?;
            return Ok(Place { path: own.path().to_owned(), _goes: Some(own) });
        };
        let path = Path::new(&kept).join(format!("{rows} {name}"));
        let place = Place { path, _goes: None };
        if !place.is_filled() {
            if place.path.exists() {
                fs::remove_dir_all(&place.path)?;
            }
            fs::create_dir_all(&place.path)?;
        }
        Ok(place)
    }

    fn mark(&self) -> PathBuf {
        self.path.join("filled")
    }

    fn is_filled(&self) -> bool {
        self.mark().exists()
    }

    fn filled(&self) -> Outcome<()> {
        Ok(fs::write(self.mark(), "")?)
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn best(mut measure: impl FnMut() -> Outcome<Duration>) -> Outcome<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..TIMES {
        best = best.min(measure()?);
    }
    Ok(best)
}

/// All numbers below `count`, in an order that looks random and is the same each time.
fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..count).collect();
    let mut state = 1u64;
    for last in (1..count).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(last, (state >> 33) as usize % (last + 1));
    }
    numbers
}

/// Bytes that the files in a folder take.
fn size(dir: &Path) -> Outcome<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.metadata()?;
        total += if found.is_dir() {
            size(&entry.path())?
        } else {
            std::os::unix::fs::MetadataExt::blocks(&found) * 512
        };
    }
    Ok(total)
}
