//! Durable batches of 32 rows by four threads at once, compared with one thread, and with raw file
//! operations: a new file for each batch, or for each four batches.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vecstore::{OnDuplicate, Store, StoreConfig};
use vecstore_benches::raw_commit;

use crate::peer::Peer;
use crate::{Batch, DIM, Outcome, batch, fresh, setting};

const ROWS: usize = 32;
const ROUNDS: usize = 3;
const THREADS: usize = 4;

pub fn run(dir: &Path) -> Outcome<()> {
    let time = Duration::from_secs_f64(setting("PEERS_SECONDS", 3.0)?);
    println!("| batches of {ROWS} rows per second | one thread | four threads | |\n|---|---:|---:|---:|");
    let mut all: Vec<(&str, Vec<f64>, Vec<f64>)> = Vec::new();
    let mut limits = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        limits.0.push(raw(dir, 1, round, time / 2)?);
        limits.1.push(raw(dir, THREADS, round, time / 2)?);
        for (number, fresh) in fresh(dir)?.into_iter().enumerate() {
            let next = AtomicUsize::new(0);
            let one = rate(&*fresh.store, 1, &next, time)?;
            let four = rate(&*fresh.store, THREADS, &next, time)?;
            match all.get_mut(number) {
                Some((_, ones, fours)) => {
                    ones.push(one);
                    fours.push(four);
                }
                None => all.push((fresh.name, vec![one], vec![four])),
            }
        }
    }
    all.insert(0, ("raw: a new file for each batch, for each four", limits.0, limits.1));
    for (name, ones, fours) in all {
        let (one, four) = (median(ones), median(fours));
        println!("| {name} | {one:.0} | {four:.0} | {:.2} x |", four / one);
    }
    println!();
    Ok(())
}

fn rate(store: &dyn Peer, threads: usize, next: &AtomicUsize, time: Duration) -> Outcome<f64> {
    let start = Instant::now();
    let append = || -> Outcome<usize> {
        let mut count = 0;
        while start.elapsed() < time {
            store.append(&batch(next.fetch_add(ROWS, Ordering::Relaxed), ROWS))?;
            count += 1;
        }
        Ok(count)
    };
    let count = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(append)).collect();
        let counts = threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?);
        counts.sum::<Outcome<usize>>()
    })?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Batches per second, with `batches` batches in each new file.
fn raw(dir: &Path, batches: usize, round: usize, time: Duration) -> Outcome<f64> {
    let own = tempfile::tempdir_in(dir)?;
    let store = Store::create(own.path().join("one.vecs"), StoreConfig::new(DIM))?;
    let mut rows = store.batch();
    let Batch { keys, rows: numbers } = batch(round, batches * ROWS);
    keys.iter().zip(numbers.chunks_exact(DIM)).try_for_each(|(key, row)| rows.push(key, row))?;
    store.append(&mut rows, OnDuplicate::Error)?;
    let path = store.snapshot().segments().next().ok_or("no segment")?.info().path;
    let bytes = std::fs::read(path)?;
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time {
        raw_commit(own.path(), count, &bytes)?;
        count += 1;
    }
    Ok((count * batches) as f64 / start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
