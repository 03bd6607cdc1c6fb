//! Prints the share of their throughput that appends keep while segments are merged, the throughput of four
//! writers compared with one, and the time of a refresh when nothing has changed:
//! `concurrency [SECONDS] [merging|writers|refresh]` (6 seconds for each measurement unless given).
//!
//! Each result is a ratio to a measurement taken in turn with it, on the same disk.

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vecstore::{Event, MergePolicy, OnDuplicate, OpenOptions, Reader, Store, StoreConfig};
use vecstore_benches::{DIM, ROWS, batch, folder};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Rounds of each comparison.
const ROUNDS: usize = 9;
/// Rows of the segments to be merged: 17 MiB each, which is large. Smaller ones are merged within 0.1 s,
/// without rests.
const LARGE: usize = 8704;
/// Appends measured without a merge, before it and after it; each time, one manifest is written.
const QUIET: usize = 64;
/// Pause before a measurement: a disk that has just taken much data is slower for a while.
const SETTLE: Duration = Duration::from_secs(1);

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, child, dir] = args.as_slice()
        && child == "--compact"
    {
        let store = OpenOptions::new().merge_policy(MergePolicy::OnDemand).open(dir)?;
        let done = store.compact_full()?;
        std::fs::write(Path::new(dir).with_extension("merges"), done.merges.to_string())?;
        return Ok(());
    }
    if let [_, child, dir, first, seconds] = args.as_slice()
        && child == "--writer"
    {
        let store = Store::open(dir)?;
        let count = append_for(&store, first.parse()?, Duration::from_secs_f64(seconds.parse()?))?;
        std::fs::write(Path::new(dir).with_extension(format!("count-{first}")), count.to_string())?;
        return Ok(());
    }
    let seconds: f64 = args.get(1).map_or(Ok(6.0), |text| text.parse())?;
    let dir = folder()?;
    println!("batches of {ROWS} x {DIM} f32, {} rounds of {seconds} s, in {}", ROUNDS, dir.path().display());
    let asked = |part: &str| args.get(2).is_none_or(|only| only == part);
    if asked("merging") {
        while_merging(dir.path(), Merging::Background)?;
        while_merging(dir.path(), Merging::Compact)?;
    }
    if asked("writers") {
        four_writers(dir.path(), seconds)?;
    }
    if asked("refresh") {
        refreshes(dir.path())?;
    }
    Ok(())
}

/// Appends batches for `time`; returns how many.
fn append_for(store: &Store, first: usize, time: Duration) -> Outcome<usize> {
    let mut count = 0;
    let start = Instant::now();
    while start.elapsed() < time {
        store.append(&mut batch(first + count, ROWS, DIM)?, OnDuplicate::Skip)?;
        count += 1;
    }
    Ok(count)
}

#[derive(Clone, Copy, PartialEq)]
enum Merging {
    /// The handle's own merger.
    Background,
    /// Another process that runs `vecstore compact --full` again and again.
    Compact,
}

/// Appends per second during a merge, compared with appends right before and after it.
fn while_merging(dir: &Path, merging: Merging) -> Outcome<()> {
    let quiet = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    let name = if merging == Merging::Background { "background merge" } else { "compact --full" };
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let path = dir.join("merging.vecs");
        // Segments to merge: 24 of 17 MiB. (With more, the disk is slower even while nothing is merged.)
        let store = quiet.create(&path, StoreConfig::new(DIM))?;
        for number in 0..24 {
            store.append(&mut batch(number, LARGE, DIM)?, OnDuplicate::Error)?;
        }
        let mut first = 24 * LARGE / ROWS;
        let mut alone = timed(&store, &mut first)?;
        store.close()?;

        let (merges, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, seen) = (Arc::clone(&merges), Arc::clone(&over));
        let options = OpenOptions::new().on_event(move |event| {
            if let Event::Merged { bytes, .. } = event {
                counted.fetch_add(1, Ordering::Relaxed);
                if *bytes > 64 << 20 {
                    seen.store(true, Ordering::Relaxed);
                }
            }
        });
        let policy =
            if merging == Merging::Background { MergePolicy::Background } else { MergePolicy::OnDemand };
        let store = options.merge_policy(policy).open(&path)?;
        let mut compacting = match merging {
            Merging::Background => None,
            Merging::Compact => {
                Some(Command::new(std::env::current_exe()?).arg("--compact").arg(&path).spawn()?)
            }
        };
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < Duration::from_secs(100) {
            let ended = match &mut compacting {
                None => over.load(Ordering::Relaxed),
                Some(child) => child.try_wait()?.is_some(),
            };
            if ended {
                break;
            }
            store.append(&mut batch(first + count, ROWS, DIM)?, OnDuplicate::Error)?;
            count += 1;
        }
        let took = start.elapsed();
        if let Some(child) = &mut compacting {
            let status = child.wait()?;
            let merged = std::fs::read_to_string(path.with_extension("merges"))?;
            merges.fetch_add(merged.parse()?, Ordering::Relaxed);
            if !status.success() {
                return Err("compacting failed".into());
            }
        }
        first += count;
        store.close()?;
        let store = quiet.open(&path)?;
        // Without this, the handle would merge the rest during the measurement.
        store.compact_full()?;
        alone += timed(&store, &mut first)?;
        store.close()?;
        std::fs::remove_dir_all(&path)?;
        let alone = (2 * QUIET) as f64 / alone.as_secs_f64();
        let meanwhile = count as f64 / took.as_secs_f64();
        ratios.push(meanwhile / alone);
        println!(
            "{name:<20}round {round}: {alone:>6.0} appends/s without, {meanwhile:>6.0} with ({:.1} s, {} \
             merges)",
            took.as_secs_f64(),
            merges.load(Ordering::Relaxed)
        );
    }
    println!("{:<20}median ratio {:.2}", "", median(ratios));
    Ok(())
}

/// The time of `QUIET` appends.
fn timed(store: &Store, first: &mut usize) -> Outcome<Duration> {
    std::thread::sleep(SETTLE);
    let start = Instant::now();
    for _ in 0..QUIET {
        store.append(&mut batch(*first, ROWS, DIM)?, OnDuplicate::Error)?;
        *first += 1;
    }
    Ok(start.elapsed())
}

/// Batches per second of four processes and of four threads, compared with those of one.
fn four_writers(dir: &Path, seconds: f64) -> Outcome<()> {
    let (mut processes, mut threads) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let one = of_processes(&dir.join("one.vecs"), 1, seconds)?;
        let four = of_processes(&dir.join("four.vecs"), 4, seconds)?;
        let thread = of_threads(&dir.join("thread.vecs"), 1, seconds)?;
        let group = of_threads(&dir.join("threads.vecs"), 4, seconds)?;
        println!(
            "writers             round {round}: 1 process {one:>6.0}/s, 4 processes {four:>6.0}/s; 1 thread \
             {thread:>6.0}/s, 4 threads {group:>6.0}/s"
        );
        processes.push(four / one);
        threads.push(group / thread);
    }
    println!("{:<20}median ratio: processes {:.2}, threads {:.2}", "", median(processes), median(threads));
    Ok(())
}

fn of_processes(path: &Path, count: usize, seconds: f64) -> Outcome<f64> {
    Store::create(path, StoreConfig::new(DIM))?.close()?;
    let program = std::env::current_exe()?;
    let start = Instant::now();
    let writers: Vec<(usize, Child)> = (0..count)
        .map(|writer| {
            let first = writer * 10_000_000;
            let mut command = Command::new(&program);
            command.arg("--writer").arg(path).arg(first.to_string()).arg(seconds.to_string());
            command.spawn().map(|child| (first, child))
        })
        .collect::<Result<_, _>>()?;
    let mut batches = 0;
    for (first, mut child) in writers {
        if !child.wait()?.success() {
            return Err("a writer failed".into());
        }
        let counted = path.with_extension(format!("count-{first}"));
        batches += std::fs::read_to_string(&counted)?.parse::<usize>()?;
        std::fs::remove_file(counted)?;
    }
    let took = start.elapsed();
    let rows = Reader::open(path)?.snapshot().totals().rows;
    if rows != (batches * ROWS) as u64 {
        return Err(format!("{rows} rows are stored, {} were acknowledged", batches * ROWS).into());
    }
    std::fs::remove_dir_all(path)?;
    Ok(batches as f64 / took.as_secs_f64())
}

fn of_threads(path: &Path, count: usize, seconds: f64) -> Outcome<f64> {
    let store = Store::create(path, StoreConfig::new(DIM))?;
    let batches = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..count {
            let (store, batches) = (&store, &batches);
            scope.spawn(move || {
                match append_for(store, thread * 10_000_000, Duration::from_secs_f64(seconds)) {
                    Ok(count) => drop(batches.fetch_add(count, Ordering::Relaxed)),
                    Err(error) => eprintln!("a thread failed: {error}"),
                }
            });
        }
    });
    let rate = batches.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    store.close()?;
    std::fs::remove_dir_all(path)?;
    Ok(rate)
}

/// Prints the microseconds of a refresh when nothing has changed, in a store of 100 segments with another
/// handle that writes.
fn refreshes(dir: &Path) -> Outcome<()> {
    let path = dir.join("refresh.vecs");
    let store =
        OpenOptions::new().merge_policy(MergePolicy::OnDemand).create(&path, StoreConfig::new(DIM))?;
    for number in 0..100 {
        store.append(&mut batch(number, ROWS, DIM)?, OnDuplicate::Error)?;
    }
    let reader = Reader::open(&path)?;
    let count = 100_000u32;
    let start = Instant::now();
    for _ in 0..count {
        std::hint::black_box(reader.refresh()?);
    }
    let nothing = start.elapsed() / count;
    let mut changed = Duration::ZERO;
    for number in 100..200 {
        store.append(&mut batch(number, ROWS, DIM)?, OnDuplicate::Error)?;
        let start = Instant::now();
        std::hint::black_box(reader.refresh()?);
        changed += start.elapsed();
    }
    println!(
        "refresh             {:.2} us when nothing has changed, {:.0} us after a commit of another process \
         (100 to \
         200 files)",
        nothing.as_secs_f64() * 1e6,
        changed.as_secs_f64() * 1e4
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
