//! Reading: a store that is opened, rows by key in random order, all rows, and which of many keys are missing.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::peer::PEERS;
use crate::{Outcome, ROW, batch, bytes_of, key, limits, setting};

/// Rows per batch while the store is filled.
const FILL: usize = 4096;
/// Each figure is the best of so many: what disturbs only makes things slower.
const TIMES: usize = 3;

pub fn run(dir: &Path) -> Outcome<()> {
    let rows = setting("PEERS_ROWS", 200_000usize)?.next_multiple_of(FILL);
    let order = shuffled(rows);
    // Half of them were never stored.
    let asked: Vec<String> = shuffled(2 * rows).into_iter().map(key).collect();
    let keys: Vec<String> = order.iter().map(|number| key(*number)).collect();

    let mut memory = Vec::with_capacity(rows * ROW);
    for first in (0..rows).step_by(FILL) {
        memory.extend_from_slice(bytes_of(&batch(first, FILL).rows));
    }
    let copy = best(|| limits::copy(&memory, &order))?;
    let sum = best(|| {
        let start = Instant::now();
        black_box(limits::sum(&memory));
        Ok(start.elapsed())
    })?;
    let wanted = limits::sum(&memory);
    let gigabytes = memory.len() as f64 / 1e9;
    drop(memory);

    println!("{rows} rows; {} keys asked for, half of them there\n", asked.len());
    println!("| | open ms | get us | of a copy | scan GB/s | of a loop | missing s | bytes per row |");
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    println!(
        "| raw: copy a row, add up a buffer | | {:.2} | 1.0 | {:.1} | 1.00 | | {ROW} |",
        micros(copy),
        gigabytes / sum.as_secs_f64()
    );
    for (name, open) in PEERS {
        let own = tempfile::tempdir_in(dir)?;
        let store = open(own.path())?;
        for first in (0..rows).step_by(FILL) {
            store.append(&batch(first, FILL))?;
        }
        store.settle()?;
        let opens_again = store.opens_again();
        let store = if opens_again {
            drop(store);
            open(own.path())?
        } else {
            store
        };
        let mut row = vec![0; ROW];
        // Pages come into memory, and are right.
        let mut found = 0u64;
        store.scan(&mut |row| found = found.wrapping_add(limits::sum(row)))?;
        if found != wanted || store.fetch(&keys, &mut row)? != rows {
            return Err(format!("{name}: what was read is not what was written").into());
        }
        let get = best(|| {
            let start = Instant::now();
            store.fetch(&keys, &mut row)?;
            Ok(start.elapsed() / u32::try_from(rows)?)
        })?;
        let scan = best(|| {
            let start = Instant::now();
            let mut total = 0u64;
            store.scan(&mut |row| total = total.wrapping_add(limits::sum(row)))?;
            black_box(total);
            Ok(start.elapsed())
        })?;
        let missing = best(|| {
            let start = Instant::now();
            if store.missing(&asked)? != rows {
                return Err(format!("{name}: another number of keys is missing").into());
            }
            Ok(start.elapsed())
        })?;
        drop(store);
        let opened = if opens_again {
            let opened = best(|| {
                let start = Instant::now();
                let store = open(own.path())?;
                let took = start.elapsed();
                drop(store);
                Ok(took)
            })?;
            format!("{:.2}", opened.as_secs_f64() * 1e3)
        } else {
            String::new()
        };
        println!(
            "| {name} | {opened} | {:.2} | {:.1} | {:.1} | {:.2} | {:.3} | {} |",
            micros(get),
            get.as_secs_f64() / copy.as_secs_f64(),
            gigabytes / scan.as_secs_f64(),
            sum.as_secs_f64() / scan.as_secs_f64(),
            missing.as_secs_f64(),
            size(own.path())? / rows as u64
        );
    }
    println!();
    Ok(())
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
