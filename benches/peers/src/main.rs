//! Does the same work with vecstore and with other stores, compared with the limits of the machine, in one
//! run.
//!
//! `peers [PART]...` with the parts `commits`, `threads` and `reads`; all of them unless given. Sizes come
//! from the environment: `PEERS_SECONDS` for each measurement with threads (3), `PEERS_ROWS` for reading
//! (200,000), and `PEERS_ONLY` for the stores, with semicolons between (all). Reading keeps its stores in the
//! folder that `PEERS_KEEP` names, for the next run. The program works in the folder that
//! `VECSTORE_BENCH_DIR` names, or in the system's temporary folder: it measures mostly the disk under it. It
//! prints tables for docs/PERFORMANCE.md.
//!
//! Every store here promises that a batch survives a power cut once `append` has returned.

mod commits;
mod fjall;
mod limits;
mod lmdb;
mod opened;
mod ours;
mod peer;
mod reads;
mod redb;
mod sqlite;
mod threads;

use std::path::Path;

use tempfile::TempDir;

use peer::{Batch, PEERS, Peer};

/// Result with any error of a store.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Elements of a row.
pub const DIM: usize = 512;
/// Bytes of a row.
pub const ROW: usize = DIM * size_of::<f32>();

/// A part: measures in a folder, and prints a table.
type Part = fn(&Path) -> Outcome<()>;

fn main() -> Outcome<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let [opened::ARGUMENT, name, dir] = asked.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        return opened::report(name, Path::new(dir));
    }
    let parts: [(&str, Part); 3] =
        [("commits", commits::run), ("threads", threads::run), ("reads", reads::run)];
    if let Some(unknown) = asked.iter().find(|asked| parts.iter().all(|(name, _)| name != asked)) {
        return Err(format!("no part called '{unknown}'; there are: commits, threads, reads").into());
    }
    let dir = match std::env::var_os("VECSTORE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    println!("rows of {DIM} x f32, keys of {} bytes, in {}\n", key(0).len(), dir.path().display());
    for (name, part) in parts {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            part(dir.path())?;
        }
    }
    Ok(())
}

/// A number from the environment.
pub fn setting<T: std::str::FromStr>(name: &str, usual: T) -> Outcome<T> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name}: expected a number, found '{text}'").into()),
        Err(_) => Ok(usual),
    }
}

/// A store, its name, and its folder, which is removed with it.
pub struct Fresh {
    pub name: &'static str,
    pub store: Box<dyn Peer>,
    _dir: TempDir,
}

/// True if `PEERS_ONLY` names the store, or is not set.
pub fn is_wanted(name: &str) -> bool {
    std::env::var("PEERS_ONLY").map_or(true, |only| only.split(';').any(|one| one == name))
}

/// Every store that `PEERS_ONLY` names, each new and in a folder of its own.
pub fn fresh(dir: &Path) -> Outcome<Vec<Fresh>> {
    let each = PEERS.iter().filter(|(name, _)| is_wanted(name)).map(|(name, open)| {
        let own = tempfile::tempdir_in(dir)?;
        Ok(Fresh { name, store: open(own.path())?, _dir: own })
    });
    each.collect()
}

/// Key number `number`: 40 bytes.
pub fn key(number: usize) -> String {
    format!("photos/{:012}/IMG_{number:012}.jpg", number / 1000)
}

/// Entries from number `first` on: numbers that look random, and are the same each time.
pub fn batch(first: usize, rows: usize) -> Batch {
    let mut state = (first as u64).wrapping_mul(2).wrapping_add(1);
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Batch {
        keys: (first..first + rows).map(key).collect(),
        rows: (0..rows * DIM).map(|_| number()).collect(),
    }
}

/// A row's bytes.
pub fn bytes_of(row: &[f32]) -> &[u8] {
    // SAFETY: every bit pattern of an f32 is four bytes without padding, and bytes may lie anywhere.
    unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), size_of_val(row)) }
}
