//! Prints what a commit takes at the end of a million rows, compared with the beginning, counted instead of
//! timed: `flat [ROWS] [KEEP]`. Batches have 32 rows; merges run in the background, as by default. The store
//! stays in the folder `KEEP`, or is in a temporary folder.
//!
//! `flat --more STORE COUNT` appends COUNT batches to an existing store, and merges only what an append has
//! to. Run under callgrind with two counts, the difference gives the instructions of an append.
//!
//! Bytes are counted at the seam through which all file access goes, by purpose. System calls are counted by
//! the kernel (a `raw_syscalls` tracepoint: needs root), for the appending thread alone and for all threads.
//! So is processor time; and instructions, if the processor lets a program count them, which most virtual
//! machines do not. Linux only.

use std::fs::{self, File};
use std::io::Read;
use std::mem::size_of_val;
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vecstore::{MergePolicy, OnDuplicate, OpenOptions, StoreConfig};
use vecstore_benches::watched::{Call, Watched, Watcher};
use vecstore_benches::{DIM, ROWS, batch, folder};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Parts of the run.
const TENTHS: usize = 10;
/// Purposes of written bytes, and how the names of their files begin.
const PARTS: [(&str, &str); 5] = [
    ("segments of commits", "tmp-commit-"),
    ("merged segments", "tmp-merge-"),
    ("manifests", "tmp-manifest-"),
    ("derived files", "derived/"),
    ("locks and others", ""),
];

/// Bytes written for each purpose.
#[derive(Debug, Default)]
struct Bytes([AtomicU64; PARTS.len()]);

impl Bytes {
    fn add(&self, part: usize, bytes: usize) {
        if let Some(count) = self.0.get(part) {
            count.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    fn now(&self) -> [u64; PARTS.len()] {
        std::array::from_fn(|part| self.0.get(part).map_or(0, |count| count.load(Ordering::Relaxed)))
    }
}

/// Counts written bytes.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<Bytes>);

impl Counting {
    fn part_of(path: &Path) -> usize {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
        // Temporary files made under LOCK.manifest have the same name, but not the same folder.
        let name = if folder == "derived" { format!("derived/{name}") } else { name.into_owned() };
        PARTS.iter().position(|(_, begin)| name.starts_with(begin)).unwrap_or(PARTS.len() - 1)
    }
}

impl Watcher for Counting {
    fn call<T>(&self, call: Call<'_>, make: impl FnOnce() -> T) -> T {
        match call.what {
            "write" => self.0.add(Self::part_of(call.path), call.bytes),
            "write record" => self.0.add(PARTS.len() - 1, call.bytes),
            _ => {}
        }
        make()
    }
}

/// A counter of the kernel; `None` if the kernel has none.
struct Counter(Option<File>);

/// Events that the kernel counts.
#[derive(Clone, Copy)]
enum Event {
    SystemCalls,
    Instructions,
    Nanoseconds,
}

impl Counter {
    /// Counts events of this thread or, with `all`, also of the threads that it starts from now on.
    fn new(event: Event, all: bool) -> Self {
        const SYSTEM_CALLS: &str = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id";
        let (kind, config) = match event {
            Event::SystemCalls => {
                match fs::read_to_string(SYSTEM_CALLS).ok().and_then(|id| id.trim().parse().ok()) {
                    Some(id) => (2u32, id),
                    None => return Counter(None),
                }
            }
            Event::Instructions => (0, 1u64),
            Event::Nanoseconds => (1, 1),
        };
        // `struct perf_event_attr`, of which only the type, the length, the event and the flags are not zero.
        let mut attributes = [0u64; 16];
        let flags = if all { 1 << 1 } else { 0 };
        for (place, value) in [(0, u64::from(kind) | 128 << 32), (1, config), (5, flags)] {
            attributes.get_mut(place).into_iter().for_each(|word| *word = value);
        }
        assert_eq!(size_of_val(&attributes), 128);
        // SAFETY: the call reads 128 bytes, as the upper half of the first word says, and no other memory of
        // this process.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0);
        // SAFETY: the descriptor was just made, and has no other owner.
        Counter(fd.map(|fd| unsafe { File::from_raw_fd(fd) }))
    }

    fn now(&self) -> Option<u64> {
        let mut number = [0; 8];
        self.0.as_ref()?.read_exact(&mut number).ok()?;
        Some(u64::from_ne_bytes(number))
    }
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [more, store, count] = args.as_slice()
        && more == "--more"
    {
        return append_more(Path::new(store), count.parse()?);
    }
    let rows: usize = args.first().map_or(Ok(1_000_000), |text| text.parse())?;
    let each = rows / ROWS / TENTHS;
    let dir = folder()?;
    let path = args.get(1).map_or_else(|| dir.path().join("store.vecs"), PathBuf::from);
    let files = Counting::default();
    let kinds = [
        ("system calls", Event::SystemCalls),
        ("processor us", Event::Nanoseconds),
        ("instructions", Event::Instructions),
    ];
    let counters: Vec<(&str, Counter, Counter)> = kinds
        .into_iter()
        .map(|(name, event)| (name, Counter::new(event, false), Counter::new(event, true)))
        .collect();
    let reading = counters.iter().filter(|(_, one, _)| one.0.is_some()).count() as f64;
    let options = OpenOptions::new().vfs(Arc::new(Watched(files.clone())));
    let store = options.create(&path, StoreConfig::new(DIM))?;
    println!(
        "{rows} rows of {DIM} f32 in batches of {ROWS}, in {}; all numbers are per commit\n",
        dir.path().display()
    );
    print!("| rows | KiB written | of that by commits | files |");
    counters.iter().for_each(|(name, ..)| print!(" {name} | of all threads |"));
    println!("\n|---:|---:|---:|---:|{}", "---:|---:|".repeat(counters.len()));
    let mut lines: Vec<Vec<Option<f64>>> = Vec::new();
    for tenth in 0..TENTHS {
        // The appending thread's work between two appends (making a batch, counting) is not the store's.
        let mut appends = vec![0u64; counters.len()];
        let written = files.0.now();
        let began: Vec<_> = counters.iter().map(|(_, one, all)| (one.now(), all.now())).collect();
        let mut most_files = 0;
        for index in tenth * each..(tenth + 1) * each {
            let mut batch = batch(index, ROWS, DIM)?;
            let before: Vec<_> = counters.iter().map(|(_, one, _)| one.now()).collect();
            store.append(&mut batch, OnDuplicate::Error)?;
            for ((count, (_, one, _)), before) in appends.iter_mut().zip(&counters).zip(before) {
                *count += one.now().zip(before).map_or(0, |(now, then)| now - then);
            }
            if index.is_multiple_of(64) {
                most_files = most_files.max(fs::read_dir(path.join("segments"))?.count());
            }
        }
        let commits = each as f64;
        let delta: Vec<f64> =
            files.0.now().iter().zip(written).map(|(now, then)| (now - then) as f64 / commits).collect();
        let all: f64 = delta.iter().sum();
        let merges = delta.get(1).copied().unwrap_or_default();
        let mut line = vec![Some(all / 1024.0), Some((all - merges) / 1024.0), Some(most_files as f64)];
        for (((name, one, all), append), began) in counters.iter().zip(appends).zip(began) {
            let scale = if *name == "processor us" { 1e3 } else { 1.0 } * commits;
            // Reading a counter is a system call, too.
            let own = if *name == "system calls" { reading } else { 0.0 };
            let (one, all) = match (began, one.now(), all.now()) {
                ((Some(one_then), Some(all_then)), Some(one_now), Some(all_now)) => {
                    let others = (all_now - all_then).saturating_sub(one_now - one_then);
                    (Some(append), Some(append + others))
                }
                _ => (None, None),
            };
            line.extend([one, all].map(|count| count.map(|count| count as f64 / scale - own)));
        }
        println!("| {} | {} |", (tenth + 1) * each * ROWS, cells(&line, 1));
        lines.push(line);
    }
    let ratio = |first: &Option<f64>, last: &Option<f64>| Some((*last)? / (*first)?);
    if let (Some(first), Some(last)) = (lines.first(), lines.last()) {
        let ratios: Vec<_> = first.iter().zip(last).map(|(first, last)| ratio(first, last)).collect();
        println!("| last / first | {} |", cells(&ratios, 2));
    }
    store.close()?;
    let appended = (each * TENTHS * ROWS * DIM * 4) as f64;
    println!("\n| written for | of the rows' bytes |\n|---|---:|");
    let written = files.0.now();
    for ((name, _), bytes) in PARTS.iter().zip(written) {
        println!("| {name} | {:.3} |", bytes as f64 / appended);
    }
    println!("| all | {:.2} |", written.iter().sum::<u64>() as f64 / appended);
    Ok(())
}

fn append_more(path: &Path, count: usize) -> Outcome<()> {
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    let store =
        if path.exists() { options.open(path)? } else { options.create(path, StoreConfig::new(DIM))? };
    let first = usize::try_from(store.snapshot().totals().entries)? / ROWS;
    for index in first..first + count {
        store.append(&mut batch(index, ROWS, DIM)?, OnDuplicate::Error)?;
    }
    println!("{count} batches after {first} others, {} segments", store.snapshot().segments().count());
    // Closing would merge and list the new segments, which is not to be counted.
    std::process::exit(0);
}

fn cells(line: &[Option<f64>], digits: usize) -> String {
    let cell = |number: &Option<f64>| number.map_or_else(String::new, |number| format!("{number:.digits$}"));
    line.iter().map(cell).collect::<Vec<_>>().join(" | ")
}
