//! Time and memory of opening a store, measured in a process of its own, without other work.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{Outcome, reads};

/// First argument of the process that opens a store; the store's name and folder follow.
pub const ARGUMENT: &str = "--opened";
/// Processes tried, of which the best counts.
const TIMES: usize = 5;

/// Time of opening, and anonymous memory added by it.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub time: Duration,
    pub anonymous: u64,
}

/// Measures opening a store whose pages are in memory.
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

/// Opens the store, in the process of its own, and prints the result. One call before, of another kind, has
/// brought only the program itself into memory.
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

/// Bytes of anonymous memory: neither a file's nor shared.
fn anonymous() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .ok_or("no RssAnon in /proc/self/status")?;
    Ok(line.split_whitespace().next().ok_or("no number in /proc")?.parse::<u64>()? * 1024)
}
