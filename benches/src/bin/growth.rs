//! Appends a million rows in batches of 32. Prints for each tenth of them the cost of a commit compared with
//! raw file operations at the same time, the number of files, the bytes written and the memory used:
//! `growth [ROWS] [CHART.svg]`.
//!
//! Merges run in the background, as by default. Linux only: the numbers come from `/proc/self`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use vecstore::{OnDuplicate, Store, StoreConfig};
use vecstore_benches::{DIM, ROWS, batch, folder, raw_commit};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// One raw commit is timed after this many commits of the store.
const RAW_EVERY: usize = 8;
/// Parts of the run.
const PARTS: usize = 10;

/// Cost of one part of the run.
#[derive(Clone, Debug, Default)]
struct Part {
    rows: usize,
    /// Milliseconds of each commit.
    commits: Vec<f64>,
    /// Milliseconds of each raw commit.
    raw: Vec<f64>,
    /// Processor time of the appending thread per commit, in microseconds.
    cpu: f64,
    /// Most segment files at any time.
    files: usize,
    /// Bytes written by the store, merges included, since the start.
    written: u64,
    /// Bytes of the store's files.
    stored: u64,
    /// Most anonymous memory in use at any time.
    anonymous: u64,
    manifest: u64,
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().collect();
    let rows: usize = args.get(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let per_part = rows / ROWS / PARTS;
    let dir = folder()?;
    let raw = dir.path().join("raw");
    fs::create_dir(&raw)?;
    let path = dir.path().join("store.vecs");
    let store = Store::create(&path, StoreConfig::new(DIM))?;
    println!("{rows} rows of {DIM} f32 in batches of {ROWS}, in {}", dir.path().display());
    println!(
        "{:>9}{:>11}{:>9}{:>9}{:>8}{:>8}{:>9}{:>7}{:>10}{:>10}{:>7}{:>10}{:>10}",
        "rows",
        "commit ms",
        "p50",
        "p99",
        "raw ms",
        "ratio",
        "cpu us",
        "files",
        "stored",
        "written",
        "amp",
        "anon MiB",
        "manifest"
    );
    let mut bytes = Vec::new();
    let mut raw_bytes = 0u64;
    let mut parts: Vec<Part> = Vec::new();
    let before = written()?;
    for number in 0..PARTS {
        let mut part = Part { rows: (number + 1) * per_part * ROWS, ..Part::default() };
        let mut cpu = Duration::ZERO;
        for index in number * per_part..(number + 1) * per_part {
            let mut batch = batch(index, ROWS, DIM)?;
            let (start, cpu_start) = (Instant::now(), thread_cpu()?);
            store.append(&mut batch, OnDuplicate::Error)?;
            part.commits.push(start.elapsed().as_secs_f64() * 1e3);
            cpu += thread_cpu()?.saturating_sub(cpu_start);
            if index == 0 {
                let first = store.snapshot().segments().next().map(|segment| segment.info().path);
                bytes = fs::read(first.ok_or("no segment")?)?;
            }
            if index.is_multiple_of(RAW_EVERY) {
                let start = Instant::now();
                raw_commit(&raw, 0, &bytes)?;
                part.raw.push(start.elapsed().as_secs_f64() * 1e3);
                raw_bytes += bytes.len() as u64;
                part.anonymous = part.anonymous.max(anonymous()?);
                part.files = part.files.max(fs::read_dir(path.join("segments"))?.count());
            }
        }
        part.cpu = cpu.as_secs_f64() * 1e6 / per_part as f64;
        part.written = (written()? - before).saturating_sub(raw_bytes);
        part.stored = size_of_dir(&path)?;
        part.manifest = fs::metadata(path.join("MANIFEST"))?.len();
        line(&mut part);
        parts.push(part);
    }
    store.close()?;
    let files = fs::read_dir(path.join("segments"))?.count();
    println!("closed: {files} files, {:.1} MiB", mib(size_of_dir(&path)?));
    if let Some(chart) = args.get(2) {
        fs::write(chart, svg(&parts))?;
        println!("chart: {chart}");
    }
    Ok(())
}

fn line(part: &mut Part) {
    part.commits.sort_by(f64::total_cmp);
    let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len().max(1) as f64;
    let at = |share: f64| {
        let index = (part.commits.len().saturating_sub(1) as f64 * share).round() as usize;
        part.commits.get(index).copied().unwrap_or_default()
    };
    let (commit, raw) = (mean(&part.commits), mean(&part.raw));
    let appended = (part.rows * DIM * 4) as f64;
    println!(
        "{:>9}{commit:>11.3}{:>9.3}{:>9.3}{raw:>8.3}{:>8.2}{:>9.0}{:>7}{:>10.1}{:>10.1}{:>7.2}{:>10.1}{:>10}",
        part.rows,
        at(0.5),
        at(0.99),
        commit / raw,
        part.cpu,
        part.files,
        mib(part.stored),
        mib(part.written),
        part.written as f64 / appended,
        mib(part.anonymous),
        part.manifest
    );
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Number after a name in a file of `/proc/self`.
fn number(file: &str, name: &str) -> Outcome<u64> {
    let text = fs::read_to_string(file)?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("not in /proc")?;
    Ok(rest.split_whitespace().next().ok_or("no number in /proc")?.parse()?)
}

/// Bytes that this process has handed to the kernel for writing.
fn written() -> Outcome<u64> {
    number("/proc/self/io", "wchar:")
}

/// Bytes of anonymous memory: neither a file's nor shared.
fn anonymous() -> Outcome<u64> {
    Ok(number("/proc/self/status", "RssAnon:")? * 1024)
}

/// Processor time of this thread.
fn thread_cpu() -> Outcome<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split_whitespace().next().ok_or("no number in /proc")?.parse()?))
}

fn size_of_dir(dir: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A merge may remove files while they are being counted.
        bytes += match entry.metadata() {
            Ok(found) if found.is_dir() => size_of_dir(&entry.path())?,
            Ok(found) => found.len(),
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

/// A line per quantity, each relative to its largest value.
fn svg(parts: &[Part]) -> String {
    let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len().max(1) as f64;
    let (width, height, left, top) = (640.0, 260.0, 20.0, 40.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        width + 260.0,
        height + 2.0 * top
    );
    let series: [(&str, &str, Vec<f64>); 4] = [
        ("#1f77b4", "commit / raw commit", parts.iter().map(|p| mean(&p.commits) / mean(&p.raw)).collect()),
        ("#2ca02c", "processor time, us", parts.iter().map(|p| p.cpu).collect()),
        ("#ff7f0e", "segment files", parts.iter().map(|p| p.files as f64).collect()),
        ("#9467bd", "stored, MiB", parts.iter().map(|p| mib(p.stored)).collect()),
    ];
    for (at, (colour, name, values)) in series.iter().enumerate() {
        let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let step = width / values.len().max(2) as f64;
        let points: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(i, value)| {
                let x = left + step * (i as f64 + 0.5);
                format!("{x:.1},{:.1}", top + height * (1.0 - value / most))
            })
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}: at most {most:.2}</text>",
            points.join(" "),
            left + width + 10.0,
            top + 20.0 * (at as f64 + 1.0)
        );
    }
    let rows = parts.last().map_or(0, |part| part.rows);
    let _ = writeln!(
        out,
        "<path d=\"M{left} {top}V{}H{}\" fill=\"none\" stroke=\"black\"/>\n\
         <text x=\"{left}\" y=\"{}\">0 to {rows} rows; each line relative to its largest \
         value</text>\n</svg>",
        top + height,
        left + width,
        top + height + 20.0
    );
    out
}
