//! What opening a store takes: measured in a process of its own, where nothing else is.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{Outcome, reads};

/// First argument of the process that opens a store: then its name, and its folder.
pub const ARGUMENT: &str = "--opened";
/// The best of so many processes counts.
const TIMES: usize = 5;

/// Time, and anonymous memory that was added.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub time: Duration,
    pub anonymous: u64,
}

/// Opens a store whose pages are in memory.
pub fn measure(name: &str, dir: &Path) -> Outcome<Opened> {
    let mut best = Opened { time: Duration::MAX, anonymous: u64::MAX };
    for _ in 0..TIMES {
        let program = std::env::current_exe()?;
        let done = Command::new(program).args([ARGUMENT, name]).arg(dir).output()?;
        let text = String::from_utf8(done.stdout)?;
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(nanos)), Some(Ok(bytes)), true) =
            (numbers.next(), numbers.next(), done.status.success())
        else {
            return Err(format!("{name}: cannot be opened: {}", String::from_utf8_lossy(&done.stderr)).into());
        };
        best =
            Opened { time: best.time.min(Duration::from_nanos(nanos)), anonymous: best.anonymous.min(bytes) };
    }
    Ok(best)
}

/// What that process does. One call before, of another kind, has brought nothing but the program itself into memory.
pub fn report(name: &str, dir: &Path) -> Outcome<()> {
    let (_, open) = reads::stores().find(|(known, _)| *known == name).ok_or("no such store")?;
    let before = anonymous()?;
    let start = Instant::now();
    let store = open(dir)?;
    let time = start.elapsed();
    println!("{} {}", time.as_nanos(), anonymous()?.saturating_sub(before));
    drop(store);
    Ok(())
}

/// Bytes of memory that is neither a file's nor shared.
fn anonymous() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .ok_or("no RssAnon in /proc/self/status")?;
    Ok(line.split_whitespace().next().ok_or("no number in /proc")?.parse::<u64>()? * 1024)
}
