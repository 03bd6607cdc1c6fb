//! Prints how long a durable commit takes, compared with the raw file operations that it cannot do without,
//! measured in turn on the same disk: `commit_ratio [COMMITS [ROWS]]` (400 commits of 32 rows unless given).
//! Then, in another store, prints how much of a commit is the store's own work around its file calls, and the
//! time of each call.
//!
//! The raw operations: write a temporary file as long as the segment, fdatasync, rename, fsync of the
//! directory.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vecstore::{OnDuplicate, OpenOptions, Store, StoreConfig};
use vecstore_benches::timed::{self, Clock, Spent};
use vecstore_benches::watched::Watched;
use vecstore_benches::{DIM, ROWS, batch, folder, raw_commit};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |number: usize, usual: usize| match std::env::args().nth(number) {
        Some(text) => text.parse(),
        None => Ok(usual),
    };
    let (commits, rows) = (argument(1, 400)?, argument(2, ROWS)?);
    let dir = folder()?;
    let raw = dir.path().join("raw");
    fs::create_dir(&raw)?;
    let store = Store::create(dir.path().join("store.vecs"), StoreConfig::new(DIM))?;
    // The raw file has the bytes of the first segment, so that both ways write as much.
    store.append(&mut batch(0, rows, DIM)?, OnDuplicate::Error)?;
    let first = store.snapshot().segments().next().map(|segment| segment.info().path).ok_or("no segment")?;
    let bytes = fs::read(first)?;

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 1..=commits {
        let batch = batch(number, rows, DIM)?;
        // Both ways take turns, so that a disk whose speed changes affects both; each goes first equally
        // often.
        for step in [number, number + 1] {
            let mut ours_now = batch.clone();
            let start = Instant::now();
            if step.is_multiple_of(2) {
                store.append(&mut ours_now, OnDuplicate::Error)?;
                ours.push(start.elapsed());
            } else {
                raw_commit(&raw, number, &bytes)?;
                theirs.push(start.elapsed());
            }
        }
    }
    println!(
        "{commits} commits of {rows} x {DIM} f32 ({} bytes each) in {}",
        bytes.len(),
        dir.path().display()
    );
    println!("{:<22}{:>12}{:>12}{:>12}", "", "mean ms", "p50 ms", "p99 ms");
    let ours = line("vecstore append", ours);
    let theirs = line("raw file operations", theirs);
    let ratio: Vec<String> = ours.iter().zip(theirs).map(|(a, b)| format!("{:>12.2}", a / b)).collect();
    println!("{:<22}{}", "ratio", ratio.concat());
    drop(store);
    own_work(dir.path(), commits, rows)
}

/// Prints the time of a commit outside of its file calls, and these calls.
fn own_work(dir: &Path, commits: usize, rows: usize) -> Result<(), Box<dyn std::error::Error>> {
    let options = OpenOptions::new().vfs(Arc::new(Watched(Clock)));
    let store = options.create(dir.join("timed.vecs"), StoreConfig::new(DIM))?;
    let (mut own, mut calls) = (Vec::new(), Vec::<Spent>::new());
    let clock = timed::own_time();
    for number in 0..commits {
        let mut batch = batch(number, rows, DIM)?;
        timed::spent();
        let start = Instant::now();
        store.append(&mut batch, OnDuplicate::Error)?;
        let all = start.elapsed();
        let spent = timed::spent();
        let inside: Duration = spent.iter().map(|spent| spent.time + clock * spent.calls as u32).sum();
        own.push(all.saturating_sub(inside));
        for spent in spent {
            match calls.iter_mut().find(|known| known.what == spent.what) {
                Some(known) => {
                    known.calls += spent.calls;
                    known.time += spent.time;
                }
                None => calls.push(spent),
            }
        }
    }
    line("around the file calls", own);
    println!("{:<22}{:>12.0} ns a call, not counted", "the clock", clock.as_secs_f64() * 1e9);
    println!("\n{:<22}{:>12}{:>12}", "file calls", "a commit", "us each");
    calls.sort_by_key(|call| std::cmp::Reverse(call.time));
    for Spent { what, calls, time } in calls {
        let (a_commit, each) = (calls as f64 / commits as f64, time.as_secs_f64() * 1e6 / calls as f64);
        println!("{what:<22}{a_commit:>12.2}{each:>12.2}");
    }
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
