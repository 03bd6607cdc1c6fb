//! Durable batches of 32 rows by four threads at once, next to one.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::peer::Peer;
use crate::{Outcome, batch, fresh, setting};

const ROWS: usize = 32;
const ROUNDS: usize = 3;

pub fn run(dir: &Path) -> Outcome<()> {
    let time = Duration::from_secs_f64(setting("PEERS_SECONDS", 3.0)?);
    println!("| batches of {ROWS} rows per second | one thread | four threads | |\n|---|---:|---:|---:|");
    let mut all: Vec<(&str, Vec<f64>, Vec<f64>)> = Vec::new();
    for _ in 0..ROUNDS {
        for (number, fresh) in fresh(dir)?.into_iter().enumerate() {
            let next = AtomicUsize::new(0);
            let one = rate(&*fresh.store, 1, &next, time)?;
            let four = rate(&*fresh.store, 4, &next, time)?;
            match all.get_mut(number) {
                Some((_, ones, fours)) => {
                    ones.push(one);
                    fours.push(four);
                }
                None => all.push((fresh.name, vec![one], vec![four])),
            }
        }
    }
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
