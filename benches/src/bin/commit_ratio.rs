//! Prints how long a durable commit takes, next to the raw file operations that it cannot do without, measured in
//! turn on the same disk: `commit_ratio [COMMITS]` (400 unless given).
//!
//! Raw is: write a temporary file of the same length as the segment, fdatasync, rename, fsync of the directory.

use std::fs;
use std::time::{Duration, Instant};

use vecstore::{OnDuplicate, Store, StoreConfig};
use vecstore_benches::{DIM, ROWS, batch, folder, raw_commit};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let commits: usize = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 400,
    };
    let dir = folder()?;
    let raw = dir.path().join("raw");
    fs::create_dir(&raw)?;
    let store = Store::create(dir.path().join("store.vecs"), StoreConfig::new(DIM))?;
    // The same bytes as the first segment's, so that both write as much.
    store.append(batch(0, ROWS, DIM)?, OnDuplicate::Error)?;
    let first = store.snapshot().segments().next().map(|segment| segment.path).ok_or("no segment")?;
    let bytes = fs::read(first)?;

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 1..=commits {
        let batch = batch(number, ROWS, DIM)?;
        // In turn, so that a disk that slows down or speeds up does so for both; each goes first as often.
        for step in [number, number + 1] {
            let ours_now = batch.clone();
            let start = Instant::now();
            if step.is_multiple_of(2) {
                store.append(ours_now, OnDuplicate::Error)?;
                ours.push(start.elapsed());
            } else {
                raw_commit(&raw, number, &bytes)?;
                theirs.push(start.elapsed());
            }
        }
    }
    println!(
        "{commits} commits of {ROWS} x {DIM} f32 ({} bytes each) in {}",
        bytes.len(),
        dir.path().display()
    );
    println!("{:<22}{:>12}{:>12}{:>12}", "", "mean ms", "p50 ms", "p99 ms");
    let ours = line("vecstore append", ours);
    let theirs = line("raw file operations", theirs);
    let ratio: Vec<String> = ours.iter().zip(theirs).map(|(a, b)| format!("{:>12.2}", a / b)).collect();
    println!("{:<22}{}", "ratio", ratio.concat());
    Ok(())
}

/// Prints mean, median and 99th percentile in milliseconds, and returns them.
fn line(name: &str, mut times: Vec<Duration>) -> [f64; 3] {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() - 1) as f64 * share).round() as usize;
        times.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    let mean = times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len() as f64;
    let numbers = [mean, at(0.5), at(0.99)];
    let columns: Vec<String> = numbers.iter().map(|number| format!("{number:>12.3}")).collect();
    println!("{name:<22}{}", columns.concat());
    numbers
}
