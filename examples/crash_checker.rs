//! `crash_checker DIR MIN`
//!
//! Exits with 0 only if the store DIR, filled by `crash_writer`, opens and is whole: every file agrees with
//! its checksums; the store has whole batches only, of each writer 1 to n without a gap, at least MIN in all;
//! every key is stored once, and every vector is the one that its seed makes. A batch that its writer was to
//! delete may be missing, as a whole. Each commit number belongs to a batch or a deletion. Prints one digest
//! over all (key, vector) pairs in commit order, then `BATCHES n`. A DIR in which no store was completed yet
//! counts as empty.
//!
//! Any fault is one line on stderr and exit code 1; a wrong command line is exit code 2.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use vecstore::{Entry, Kind, Reader, Snapshot};
use vecstore_examples::args::{Args, failed, wrong_use};
use vecstore_examples::crash::{Digest, Recipe, fill_vector, parse_key};

const USAGE: &str = "crash_checker DIR MIN";

fn main() -> ExitCode {
    let (dir, min) = match Args::from_env(2, &[])
        .and_then(|args| Ok((args.positional(0).to_owned(), args.number::<u64>(1, "MIN")?)))
    {
        Ok(given) => given,
        Err(why) => return wrong_use(USAGE, why),
    };
    match check(Path::new(&dir), min) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(format_args!("crash_checker: {dir}: {why}")),
    }
}

fn check(dir: &Path, min: u64) -> Result<(), Box<dyn Error>> {
    let mut check = Check::default();
    if let Some(store) = open(dir)? {
        check.snapshot(&store.snapshot())?;
        // Bits that no entry shows: padding, tables, checksums, the chain of files.
        if let Some(fault) = vecstore::verify(dir)?.faults.first() {
            return Err(fault.to_string().into());
        }
    }
    let found: u64 = check.writers.values().sum();
    if found < min {
        return Err(format!("holds {found} batches, expected at least {min}").into());
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}\nBATCHES {found}", check.digest.to_hex())?;
    Ok(stdout.flush()?)
}

/// Opens the store; `None` if none was completed yet. A store appears as a whole, so that a writer killed
/// before that leaves none.
fn open(dir: &Path) -> Result<Option<Reader>, Box<dyn Error>> {
    match Reader::open(dir) {
        Ok(store) => Ok(Some(store)),
        Err(vecstore::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// State of the check, which sees entry by entry in commit order.
#[derive(Default)]
struct Check {
    /// Complete batches per writer.
    writers: BTreeMap<String, u64>,
    /// The last commit seen that has rows.
    commit: u64,
    /// Batches that were deleted.
    deleted: u64,
    /// The batch of that commit, while some of its rows are still to come.
    under_way: Option<UnderWay>,
    digest: Digest,
    expected: Vec<f32>,
}

struct UnderWay {
    writer: String,
    number: u64,
    recipe: Recipe,
    next_row: u32,
}

impl Check {
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Box<dyn Error>> {
        self.expected = vec![0.0; snapshot.dim()];
        let mut entries = 0;
        for entry in snapshot.iter() {
            let entry = entry?;
            let address = entry.address();
            self.entry(&entry).map_err(|why| {
                let key = String::from_utf8_lossy(entry.key());
                format!("commit {}, row {}, key '{key}': {why}", address.commit, address.row)
            })?;
            entries += 1;
        }
        if let Some(UnderWay { writer, number, recipe, next_row }) = &self.under_way {
            return Err(
                format!("batch {number} of {writer} ends at row {next_row} of {}", recipe.rows).into()
            );
        }
        let (last, totals) = (snapshot.last_commit(), snapshot.totals());
        let batches: u64 = self.writers.values().sum();
        if last != batches + self.deleted {
            let deleted = self.deleted;
            return Err(
                format!("there are {last} commits, but {batches} batches and {deleted} deletions").into()
            );
        }
        if (totals.with_rows, totals.empty, totals.rejected) != (entries, 0, 0)
            || (totals.tombstones > 0 && self.deleted == 0)
        {
            return Err(format!("totals are {totals:?}, but {entries} entries with rows are there").into());
        }
        Ok(())
    }

    /// Checks that `entry` is the very next one: the next row of the batch under way, or the first row of the
    /// next batch of its writer in the next commit. A duplicate key, a gap and a torn batch all fail this
    /// check.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Box<dyn Error>> {
        let (writer, number, row) = parse_key(entry.key()).ok_or("not a key of crash_writer")?;
        let recipe = Recipe::from_payload(entry.payload()).ok_or("not a payload of crash_writer")?;
        if (entry.kind(), entry.row_count()) != (Kind::Rows, 1) {
            return Err(
                format!("is {} with {} rows, expected one row", entry.kind(), entry.row_count()).into()
            );
        }
        let mut batch = self.under_way.take().unwrap_or_else(|| {
            let done = self.writers.get(writer).copied().unwrap_or(0);
            let mut next = done + 1;
            // Only a batch that the batch after it deletes may be missing.
            if number == next + 1 && recipe.victim_of(number) == Some(next) {
                self.deleted += 1;
                next = number;
            }
            UnderWay { writer: writer.to_owned(), number: next, recipe, next_row: 0 }
        });
        let expected = (batch.writer.as_str(), batch.number, batch.next_row);
        if (writer, number, row) != expected || recipe != batch.recipe {
            return Err(
                format!("expected batch {1} of {0}, row {2}", expected.0, expected.1, expected.2).into()
            );
        }
        let address = entry.address();
        let later =
            if batch.next_row == 0 { address.commit > self.commit } else { address.commit == self.commit };
        if !later || address.row != u64::from(row) {
            return Err(format!("expected behind commit {}, at row {row} of one commit", self.commit).into());
        }
        self.commit = address.commit;
        fill_vector(recipe.seed, writer, number, row, &mut self.expected);
        let found = entry.rows::<f32>()?;
        let same = |(found, expected): (&f32, &f32)| found.to_bits() == expected.to_bits();
        if found.len() != self.expected.len() || !found.iter().zip(&self.expected).all(same) {
            return Err(format!("the vector is not what seed {} makes", recipe.seed).into());
        }
        self.digest.add(entry.key(), found);
        batch.next_row += 1;
        if batch.next_row == recipe.rows {
            self.writers.insert(batch.writer, number);
        } else {
            self.under_way = Some(batch);
        }
        Ok(())
    }
}
