//! Prints the speed of a merge without appends, compared with copying the same bytes with the same
//! durability: `merge_ratio [MIB] [SEGMENTS] [ROUNDS]` (1024 MiB in 64 segments, 5 rounds).
//!
//! A merge reads its inputs and compares all checksums, writes its output and computes checksums, flushes,
//! and reads the output back and compares again. A copy only reads, writes and flushes. Both read from
//! memory, because the inputs were just written. Each round merges anew, in a store made of hard links. Linux
//! only.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};
use vecstore::{MergePolicy, OnDuplicate, OpenOptions, StoreConfig};
use vecstore_benches::{DIM, batch, folder, write_out};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Bytes that a copy reads and writes at a time.
const PIECE: usize = 2 << 20;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual: usize| args.get(at).map_or(Ok(usual), |text| text.parse());
    let (mib, segments, rounds) = (number(0, 1024)?, number(1, 64)?, number(2, 5)?);
    let dir = folder()?;
    let store = dir.path().join("store.vecs");
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    {
        let store = options.create(&store, StoreConfig::new(DIM))?;
        let rows = (mib << 20) / segments / (DIM * 4);
        for number in 0..segments {
            store.append(&mut batch(number, rows, DIM)?, OnDuplicate::Error)?;
        }
        store.close()?;
    }
    let inputs = files(&store.join("segments"))?;
    let bytes: u64 = inputs.iter().map(|path| Ok(fs::metadata(path)?.len())).sum::<Outcome<u64>>()?;
    println!("{} MiB in {} segments, in {}", bytes >> 20, inputs.len(), dir.path().display());
    println!(
        "| round | copy, GB/s | copy, written as it goes, GB/s | merge, GB/s | of the faster copy | \
         processor s |\n\
         |---:|---:|---:|---:|---:|---:|"
    );
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        warm(bytes)?;
        let plain = copied(dir.path(), &inputs, false)?;
        warm(bytes)?;
        let eager = copied(dir.path(), &inputs, true)?;
        warm(bytes)?;
        let again = dir.path().join("again.vecs");
        link(&store, &again)?;
        let (cpu, start) = (processor()?, Instant::now());
        let opened = options.open(&again)?;
        let done = opened.compact_full()?;
        let merge = start.elapsed();
        let cpu = processor()? - cpu;
        opened.close()?;
        if done.segments_after != 1 {
            return Err("more than one segment is left".into());
        }
        fs::remove_dir_all(&again)?;
        // The first round is not counted: it brings memory that no process had before.
        if round == 0 {
            continue;
        }
        let speed = |time: Duration| bytes as f64 / 1e9 / time.as_secs_f64();
        let ratio = speed(merge) / speed(plain.min(eager));
        println!(
            "| {round} | {:.2} | {:.2} | {:.2} | {ratio:.2} | {:.2} |",
            speed(plain),
            speed(eager),
            speed(merge),
            cpu.as_secs_f64()
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
    println!("\nmedian: a merge runs at {median:.2} x the speed of the faster copy");
    Ok(())
}

fn files(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let mut files = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Outcome<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Makes a store of hard links to the files of another.
fn link(from: &Path, to: &Path) -> Outcome<()> {
    fs::create_dir(to)?;
    for path in files(from)? {
        let name = path.file_name().ok_or("no name")?;
        if path.is_dir() {
            link(&path, &to.join(name))?;
        } else if path.extension().is_some_and(|extension| extension == "npy") {
            fs::hard_link(&path, to.join(name))?;
        } else {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Uses memory and gives it back. A virtual machine's memory that was unused for a while must first be
/// provided by the host, which takes longer than a copy; the next measurement is to find memory just used.
fn warm(bytes: u64) -> Outcome<()> {
    let mut memory = MmapMut::map_anon(usize::try_from(bytes + bytes / 4)?)?;
    memory.advise(Advice::HugePage)?;
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    Ok(())
}

/// Copies files into a new, durable file; returns the time.
fn copied(dir: &Path, inputs: &[PathBuf], eager: bool) -> Outcome<Duration> {
    let (tmp, path) = (dir.join("tmp"), dir.join("copy"));
    let mut piece = vec![0; PIECE];
    let start = Instant::now();
    let mut out = File::create_new(&tmp)?;
    // Writes in whole pieces, as a merge does, whatever the lengths of the inputs.
    let (mut filled, mut pending) = (0, 0);
    for input in inputs {
        let mut input = File::open(input)?;
        loop {
            let len = input.read(piece.get_mut(filled..).unwrap_or_default())?;
            filled += len;
            if len == 0 {
                break;
            }
            if filled < PIECE {
                continue;
            }
            out.write_all(&piece)?;
            (filled, pending) = (0, pending + PIECE);
            if eager && pending >= 4 * PIECE {
                pending = 0;
                write_out(&out)?;
            }
        }
    }
    out.write_all(piece.get(..filled).unwrap_or_default())?;
    out.sync_data()?;
    drop(out);
    fs::rename(&tmp, &path)?;
    File::open(dir)?.sync_all()?;
    let time = start.elapsed();
    fs::remove_file(&path)?;
    Ok(time)
}

/// Processor time of this process, including ended threads.
fn processor() -> Outcome<Duration> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    // User and system time, in hundredths of a second.
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
