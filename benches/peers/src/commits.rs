//! Time of a durable batch, for batches of several sizes. All stores take turns with raw file operations, so
//! that a disk that slows down affects them equally.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Outcome, batch, bytes_of, fresh, limits};

/// Rows per batch, and number of batches.
const SIZES: [(usize, usize); 3] = [(32, 300), (256, 100), (4096, 12)];

pub fn run(dir: &Path) -> Outcome<()> {
    println!("| rows per batch | | mean ms | p50 | p99 | of raw |\n|---|---|---:|---:|---:|---:|");
    for (rows, batches) in SIZES {
        let raw = tempfile::tempdir_in(dir)?;
        let mut log = File::create_new(raw.path().join("log"))?;
        let stores = fresh(dir)?;
        let mut times = vec![Vec::new(); stores.len() + 2];
        for number in 0..batches {
            let batch = batch(number * rows, rows);
            let bytes = bytes_of(&batch.rows);
            // The order changes each time, because the predecessor's writes affect the next store.
            let mut order: Vec<usize> = (0..times.len()).collect();
            order.sort_by_key(|turn| ((number * 31 + turn) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20);
            for turn in order {
                let start = Instant::now();
                match (turn, turn.checked_sub(2).and_then(|store| stores.get(store))) {
                    (_, Some(fresh)) => fresh.store.append(&batch)?,
                    (0, None) => vecstore_benches::raw_commit(raw.path(), number, bytes)?,
                    _ => limits::append(&mut log, bytes)?,
                }
                if let Some(times) = times.get_mut(turn) {
                    times.push(start.elapsed());
                }
            }
        }
        let names = ["raw: new file, rename, flush twice", "raw: append to a log, flush"];
        let names = names.into_iter().chain(stores.iter().map(|fresh| fresh.name));
        let raw = times.first().map_or(0.0, |times| mean(times));
        for (name, mut times) in names.zip(times) {
            let mean = mean(&times);
            times.sort_unstable();
            let (p50, p99) = (at(&times, 0.5), at(&times, 0.99));
            println!("| {rows} | {name} | {mean:.2} | {p50:.2} | {p99:.2} | {:.2} |", mean / raw);
        }
    }
    println!();
    Ok(())
}

fn mean(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len().max(1) as f64
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
