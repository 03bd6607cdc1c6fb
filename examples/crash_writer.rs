//! `crash_writer DIR BATCHES [--rows 32] [--dim 512] [--seed 1] [--writer W] [--merge-every K]
//! [--delete-every K] [--version-every K] [--backup-every K]`
//!
//! Appends BATCHES deterministic batches to the store DIR, and creates the store if there is none. Once its
//! n-th batch in the store is durable, prints `ACK n` on a line of its own, flushed. A writer may be killed
//! at any moment and started again: it continues behind its last stored batch. Several writers may run at
//! once under different names.
//!
//! With `--merge-every K` it compacts the store after each K-th batch, every other time into one segment;
//! with `--delete-every K` it deletes, after each K-th batch, the batch before it; with `--version-every K`
//! it makes a version after each K-th batch and removes its earlier one; with `--backup-every K` it backs up
//! to `DIR.backup-W`, in turn with links and by copying. All of this work is done before the next `ACK`.
//!
//! Any failure is one line on stderr and exit code 1; a wrong command line is exit code 2.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use vecstore::{BackupOptions, Batch, DType, OnDuplicate, Snapshot, Store, StoreConfig};
use vecstore_examples::args::{Args, failed, wrong_use};
use vecstore_examples::crash::{Recipe, fill_vector, key};

const USAGE: &str = "crash_writer DIR BATCHES [--rows 32] [--dim 512] [--seed 1] [--writer W] \
                     [--merge-every K] [--delete-every K] [--version-every K] [--backup-every K]";

/// Most values in one batch: 1 GiB of f32.
const MAX_VALUES: u64 = 1 << 28;

struct Options {
    dir: String,
    batches: u64,
    dim: usize,
    recipe: Recipe,
    writer: String,
    merge_every: u64,
    version_every: u64,
    backup_every: u64,
}

fn options() -> Result<Options, String> {
    let args = Args::from_env(
        2,
        &["rows", "dim", "seed", "writer", "merge-every", "delete-every", "version-every", "backup-every"],
    )?;
    let options = Options {
        dir: args.positional(0).to_owned(),
        batches: args.number(1, "BATCHES")?,
        dim: args.option("dim", 512)?,
        recipe: Recipe {
            seed: args.option("seed", 1)?,
            rows: args.option("rows", 32)?,
            delete_every: args.option("delete-every", 0)?,
        },
        writer: args.option("writer", String::from("W"))?,
        merge_every: args.option("merge-every", 0)?,
        version_every: args.option("version-every", 0)?,
        backup_every: args.option("backup-every", 0)?,
    };
    if options.writer.is_empty() || options.writer.contains('/') {
        return Err(format!("--writer is '{}', expected a name without '/'", options.writer));
    }
    let values = u64::from(options.recipe.rows).saturating_mul(options.dim as u64);
    if values == 0 || values > MAX_VALUES {
        return Err(format!("--rows times --dim is {values}, expected 1 to {MAX_VALUES}"));
    }
    if options.recipe.delete_every == 1 {
        return Err(
            "--delete-every is 1, expected 2 or more: a batch is deleted once another is there".to_owned()
        );
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => return wrong_use(USAGE, why),
    };
    match write(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => failed(format_args!("crash_writer: {why}")),
    }
}

fn write(options: &Options) -> Result<(), Box<dyn Error>> {
    // Several writers may start at once without a store: one creates it, and the others open it.
    let store = Store::open_or_create(&options.dir, StoreConfig::new(options.dim))?;
    let done = batches_of(&store.snapshot(), &options.writer)?;
    // The last run may have ended before this deletion.
    if let Some(victim) = options.recipe.victim_of(done) {
        store.delete(&keys(options, victim))?;
    }
    let mut stdout = std::io::stdout().lock();
    for number in done + 1..=done.saturating_add(options.batches) {
        store.append(&mut make_batch(options, number)?, OnDuplicate::Error)?;
        // Printed only after append returned: from then on the batch survives any crash.
        writeln!(stdout, "ACK {number}")?;
        stdout.flush()?;
        if let Some(victim) = options.recipe.victim_of(number) {
            store.delete(&keys(options, victim))?;
        }
        let due = |every: u64| every > 0 && number.is_multiple_of(every);
        if due(options.merge_every) {
            let full = (number / options.merge_every).is_multiple_of(2);
            if full { store.compact_full() } else { store.compact() }?;
        }
        if due(options.version_every) {
            name_version(&store, &options.writer, number)?;
        }
        if due(options.backup_every) {
            let link = !(number / options.backup_every).is_multiple_of(2);
            let dest = format!("{}.backup-{}", options.dir, options.writer);
            store.backup_with(dest, BackupOptions::new().link(link))?;
        }
    }
    Ok(store.close()?)
}

/// Makes a version named after the writer and its last batch, and removes the writer's earlier ones.
fn name_version(store: &Store, writer: &str, number: u64) -> vecstore::Result<()> {
    let name = |number: u64| format!("{writer}-{number}");
    store.create_version(&name(number))?;
    for older in store.versions()? {
        let is_ours = older.name.rsplit_once('-').is_some_and(|(of, _)| of == writer);
        if is_ours && older.name != name(number) {
            store.remove_version(&older.name)?;
        }
    }
    Ok(())
}

/// The keys of a batch.
fn keys(options: &Options, number: u64) -> Vec<String> {
    (0..options.recipe.rows).map(|row| key(&options.writer, number, row)).collect()
}

/// Number of batches of `writer` that the store holds or held. They are numbered without a gap, and a batch
/// is stored as a whole, so that its first key stands for it. The search doubles the number until a batch is
/// absent, then halves. The batch after a deleted one is never deleted.
fn batches_of(snapshot: &Snapshot, writer: &str) -> vecstore::Result<u64> {
    let holds = |number: u64| -> vecstore::Result<bool> {
        Ok(snapshot.contains(key(writer, number, 0))? || snapshot.contains(key(writer, number + 1, 0))?)
    };
    let mut absent = 1;
    while holds(absent)? {
        absent *= 2;
    }
    let mut present = absent / 2;
    while absent - present > 1 {
        let middle = present + (absent - present) / 2;
        if holds(middle)? {
            present = middle;
        } else {
            absent = middle;
        }
    }
    Ok(present)
}

fn make_batch(options: &Options, number: u64) -> vecstore::Result<Batch> {
    let mut batch = Batch::new(options.dim, DType::F32);
    let payload = options.recipe.to_payload();
    let mut vector = vec![0.0_f32; options.dim];
    for row in 0..options.recipe.rows {
        fill_vector(options.recipe.seed, &options.writer, number, row, &mut vector);
        batch.entry(key(&options.writer, number, row)).row(&vector).payload(&payload).push()?;
    }
    Ok(batch)
}
