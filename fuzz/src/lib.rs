//! Checks of the fuzz targets, as plain functions of bytes: a hostile file gives an error or a right answer,
//! never a panic, and never takes more memory than its size justifies.
//!
//! A file that fails its checksum teaches little: [`manifest`], [`segment`], [`npy`] and [`store_dir`]
//! correct checksums first, so that the input reaches the code behind them.

mod checksums;
mod files;
mod literal;
mod memory;
mod npy;
mod operations;
#[path = "../../vecstore/tests/sim/mod.rs"]
mod sim;
mod time;

use std::path::Path;

use sim::run::{STORE, options};
use vecstore::{Error, OnDuplicate, Progress, Reader, RepairOptions, Snapshot};

pub use checksums::{fix_derived, fix_manifest, fix_segment};
pub use files::{Files, files, folder, read};
pub use memory::{ALLOWED, bounded, most_beyond};
pub use npy::{Header, header, npy};
pub use operations::operations;
pub use time::timely;

/// A target's name and its check.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 5] = [
    ("manifest", manifest),
    ("segment", segment),
    ("store_dir", store_dir),
    ("npy", npy),
    ("operations", operations),
];

/// Uses the input as the store's manifest, with checksum and length corrected.
pub fn manifest(data: &[u8]) {
    let mut files = files();
    files.insert("MANIFEST".to_owned(), fix_manifest(data));
    check(&files);
}

/// Replaces the segment that the first byte chooses by the other bytes, with all checksums corrected.
pub fn segment(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let mut files = files();
    let segments: Vec<String> = files.keys().filter(|path| path.starts_with("segments/")).cloned().collect();
    files.insert(segments[usize::from(*which) % segments.len()].clone(), fix_segment(bytes));
    check(&files);
}

/// Edits the store's directory as the input says: files are overwritten, cut, extended, removed, renamed,
/// copied.
pub fn store_dir(data: &[u8]) {
    let mut files = files();
    let mut rest = data;
    for _ in 0..16 {
        let Some(([which, action, high, low, len], after)) = rest.split_first_chunk::<5>() else { break };
        let (bytes, after) = after.split_at(after.len().min(usize::from(*len)));
        rest = after;
        let Some(name) = files.keys().nth(usize::from(*which) % files.len().max(1)).cloned() else { break };
        let Some(mut file) = files.remove(&name) else { break };
        // Positions in the upper half count from the end of the file, where tables and footer are.
        let at = usize::from(u16::from_be_bytes([*high & 0x7F, *low])).min(file.len());
        let at = if *high & 0x80 == 0 { at } else { file.len() - at };
        match action % 8 {
            0 | 1 => {
                for (to, from) in file.iter_mut().skip(at).zip(bytes) {
                    *to = *from;
                }
            }
            2 => file.truncate(at),
            3 => {
                file.splice(at..at, bytes.iter().copied());
            }
            4 => continue,
            5 | 6 => {
                if action % 8 == 6 {
                    files.insert(name.clone(), file.clone());
                }
                files.insert(another_name(action / 64, bytes), file);
                continue;
            }
            _ => file = fix(&name, &file),
        }
        files.insert(name, file);
    }
    check(&files);
}

/// A name for a file in the store, of a kind that the library looks at.
fn another_name(generation: u8, bytes: &[u8]) -> String {
    let Some((first, rest)) = bytes.split_first() else { return "LOCK".to_owned() };
    let last = rest.first().unwrap_or(first);
    match rest.get(1).map(|kind| kind % 4) {
        Some(0) => "MANIFEST".to_owned(),
        Some(1) => format!("versions/v{last}"),
        Some(2) => format!("derived/{first:010}-{last:010}.{generation}.{last:016x}.live"),
        _ => format!("segments/{first:010}-{last:010}.{generation}.npy"),
    }
}

/// Corrects the checksums of a file of the kind that its name tells.
fn fix(name: &str, file: &[u8]) -> Vec<u8> {
    if name.ends_with(".npy") {
        fix_segment(file)
    } else if name.ends_with(".live") {
        fix_derived(file)
    } else {
        fix_manifest(file)
    }
}

/// Factor on the memory that a merge may take: it holds the tables of its inputs and its output, and the
/// simulated disk holds both files.
const MERGING: usize = 4;

/// Verifies, reads, appends, merges and repairs, each within the memory that the files justify. A store that
/// `verify` calls whole must be readable without an error.
pub fn check(files: &Files) {
    let fs = files::disk(files);
    let total: usize = files.values().map(Vec::len).sum();
    let report = bounded(total, "verifying", || vecstore::verify_on(&fs, Path::new(STORE), &Progress::new()));
    let whole = report.is_ok_and(|report| report.is_whole());
    let read = bounded(total, "reading", || {
        options(&fs).for_reading().open(STORE).and_then(|reader| read_everything(&reader))
    });
    if let (true, Err(error)) = (whole, &read) {
        panic!("verify calls this whole, and reading it fails: {error}");
    }
    if whole {
        what_is_listed_is_found(&options(&fs).for_reading().open(STORE).expect("it was read").snapshot());
    }
    assert_eq!(fs.changes(), 0, "verifying and reading change nothing");

    let appended = bounded(total, "appending", || {
        let store = options(&fs).open(STORE)?;
        let mut batch = store.batch();
        batch.push_empty("appended by the check")?;
        store.append(&mut batch, OnDuplicate::Replace)?;
        Ok(store)
    });
    let used = usize::try_from(fs.used()).unwrap_or(usize::MAX);
    let changed =
        appended.and_then(|store| bounded(used * MERGING, "merging", || store.compact_full().map(drop)));
    if whole {
        if let Err(error) = &changed {
            // Flags that forbid writing are valid.
            let may = matches!(error, Error::UnsupportedVersion { .. });
            assert!(may, "verify calls this whole, and appending or merging fails: {error}");
        }
        let report =
            vecstore::verify_on(&fs, Path::new(STORE), &Progress::new()).expect("it was a store before");
        assert!(report.is_whole(), "after one more append and a merge: {:?}", report.faults);
    }

    let fs = files::disk(files);
    let repaired =
        bounded(total, "repairing", || vecstore::repair_on(&fs, Path::new(STORE), RepairOptions::new()));
    if let Err(error) = &repaired {
        let may = matches!(
            error,
            Error::NotAStore { .. } | Error::NotFound { .. } | Error::UnsupportedVersion { .. }
        );
        assert!(may, "a repair fails: {error}");
    } else {
        let opened = options(&fs).for_reading().open(STORE);
        let reader = opened.unwrap_or_else(|error| panic!("repaired, and opening fails: {error}"));
        what_is_listed_is_found(&reader.snapshot());
        let report = vecstore::verify_on(&fs, Path::new(STORE), &Progress::new()).expect("it was repaired");
        assert!(report.is_whole(), "repaired, and not whole: {:?}", report.faults);
    }
}

/// Asserts that each listed entry is the one that a lookup of its key finds: a key has one live entry.
fn what_is_listed_is_found(snapshot: &Snapshot) {
    for entry in snapshot.iter().map(|entry| entry.expect("it was read")) {
        let found = snapshot.get(entry.key()).expect("it was read").map(|found| found.location());
        assert_eq!(found, Some(entry.location()), "of {:?}", entry.key());
    }
}

/// Calls everything that reads.
fn read_everything(reader: &Reader) -> Result<(), Error> {
    let snapshot = reader.snapshot();
    let mut keys: Vec<&[u8]> = vec![b"never stored"];
    for entry in snapshot.iter() {
        let entry = entry?;
        entry.to_f32()?;
        let (_payload, _reason, _attributes) = (entry.payload(), entry.reason(), entry.attributes());
        snapshot.row_at(entry.address())?;
        snapshot.get(entry.key())?;
        // The limit keeps the caller's own memory small: only the library's is to be measured.
        if keys.len() < 1000 {
            keys.push(entry.key());
        }
    }
    snapshot.missing(&keys)?;
    // The input chooses the dimension: at most 65,536.
    snapshot.search(&vec![1.0; snapshot.dim()], 3)?;
    let (_settings, _fingerprint) = (snapshot.settings(), snapshot.fingerprint());
    for version in reader.versions()? {
        let _ = (version.name, version.last_commit);
    }
    Ok(())
}
