//! `maintain STORE [OUT]`: maintenance of a store of unknown origin. Verifies the store, describes it, reads
//! the intact entries of a damaged one, exports vectors and keys, and lists near-duplicates. `maintain
//! --repair STORE` repairs the store.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use vecstore::{DType, Progress, Reader, SearchOptions, Snapshot, Totals};
use vecstore::{escaped, repair, salvage, verify_with};

/// Score from which on two rows count as near-duplicates.
const NEAR: f32 = 0.98;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--repair", store] => mend(store),
        [store] => look(store, &format!("{store}.export")),
        [store, out] => look(store, out),
        _ => Err("usage: maintain STORE [OUT]  or  maintain --repair STORE".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("maintain: {why}");
            ExitCode::FAILURE
        }
    }
}

fn look(store: &str, out: &str) -> Result<(), Box<dyn Error>> {
    // One thread verifies. This thread could draw a bar of `done()` in `total()`, or call `stop()`.
    let progress = Progress::new();
    let report = std::thread::scope(|scope| {
        scope.spawn(|| verify_with(store, &progress)).join().expect("verifying does not panic")
    })?;
    println!("verified {} of {} bytes", progress.done(), progress.total());
    let snapshot = if report.is_whole() {
        println!("whole: {} files", report.files);
        Reader::open(store)?.snapshot()
    } else {
        report.faults.iter().for_each(|fault| println!("fault: {fault}"));
        let (snapshot, repair) = salvage(store)?;
        let loss = repair.loss();
        println!(
            "a repair would lose {} key(s), {} entries without a name, and what was in {} file(s), at most \
             {} \
             entries",
            loss.keys, loss.unnamed_entries, loss.unknown_files, loss.unknown_entries
        );
        snapshot
    };
    describe(&snapshot);
    std::fs::create_dir_all(out)?;
    export(&snapshot, Path::new(out))?;
    duplicates(&snapshot)
}

fn describe(snapshot: &Snapshot) {
    let totals = snapshot.totals();
    println!("{} x {}, compared by {}", snapshot.dim(), snapshot.dtype(), snapshot.metric());
    if let Some(model) = snapshot.fingerprint() {
        println!("made by {}", model.description());
    }
    let Totals { entries, rows, empty, rejected, dead_rows, reclaimable_bytes, .. } = totals;
    println!("{entries} entries: {rows} rows, {empty} empty, {rejected} rejected");
    println!("{dead_rows} dead rows; a compaction gives back about {reclaimable_bytes} bytes");
}

/// Writes `vectors.npy`, and `keys.tsv` with a line for each entry: key, number of rows, attributes.
fn export(snapshot: &Snapshot, out: &Path) -> Result<(), Box<dyn Error>> {
    let rows = snapshot.write_npy(out.join("vectors.npy"), DType::F32)?;
    let mut keys = BufWriter::new(File::create(out.join("keys.tsv"))?);
    for entry in snapshot {
        let entry = entry?;
        let attributes: Vec<String> =
            entry.attributes()?.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        writeln!(keys, "{}\t{}\t{}", escaped(entry.key()), entry.row_count(), attributes.join(" "))?;
    }
    keys.into_inner()?.sync_all()?;
    println!("exported {rows} rows to {}", out.display());
    Ok(())
}

/// Prints pairs of rows of different entries that are nearly the same: one search for each row.
fn duplicates(snapshot: &Snapshot) -> Result<(), Box<dyn Error>> {
    for entry in snapshot {
        let entry = entry?;
        for row in entry.to_f32()?.chunks(snapshot.dim()) {
            // Each pair is printed once: the filter admits only earlier entries.
            let is_earlier = |other: &vecstore::Entry<'_>| other.address() < entry.address();
            let options = SearchOptions::new(10).min_score(NEAR).filter(is_earlier);
            for hit in snapshot.search_with(row, &options)? {
                println!("near: {:.3}  {}  {}", hit.score, escaped(entry.key()), escaped(&hit.key));
            }
        }
    }
    Ok(())
}

fn mend(store: &str) -> Result<(), Box<dyn Error>> {
    let report = repair(store)?;
    for finding in &report.findings {
        println!("{}: {}", finding.path.display(), finding.problem);
    }
    for key in report.lost_keys() {
        println!("lost: {}", escaped(key));
    }
    println!("{}", if report.loss().is_none() { "nothing is lost" } else { "embed lost keys again" });
    Ok(())
}
