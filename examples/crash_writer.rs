//! `crash_writer DIR BATCHES [--rows 32] [--dim 512] [--seed 1] [--writer W] [--merge-every K] [--delete-every K]
//! [--version-every K] [--backup-every K]`
//!
//! Appends BATCHES deterministic batches to the store DIR, which it creates where there is none, and prints
//! `ACK n` on a line of its own, flushed, once its n-th batch in the store is durable. It may be killed at any
//! moment and started again; it goes on behind what it finds. Several may run at once under different names.
//!
//! With `--merge-every K` it compacts the store after each K-th batch, every other time into one segment; with
//! `--delete-every K` it deletes, after each K-th batch, the batch before it; with `--version-every K` it names a
//! checkpoint after each K-th batch and drops its one before; with `--backup-every K` it backs up to `DIR.backup-W`.
//! All of it counts as done when the next `ACK` comes.
//!
//! Whatever fails is one line on stderr and exit code 1; a command line that makes no sense, exit code 2.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use vecstore::{Batch, DType, OnDuplicate, Snapshot, Store, StoreConfig};
use vecstore_examples::args::{Args, failed, wrong_use};
use vecstore_examples::crash::{Recipe, fill_vector, key};

const USAGE: &str = "crash_writer DIR BATCHES [--rows 32] [--dim 512] [--seed 1] [--writer W] \
                     [--merge-every K] [--delete-every K] [--version-every K] [--backup-every K]";

/// The most values one batch may hold: 1 GiB of f32.
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
    let store = open_or_create(&options.dir, options.dim)?;
    if (store.dim(), store.dtype()) != (options.dim, DType::F32) {
        let (dim, dtype) = (store.dim(), store.dtype());
        let wanted = options.dim;
        return Err(format!("{}: rows of {dim} x {dtype}, expected {wanted} x f32", options.dir).into());
    }
    let done = batches_of(&store.snapshot(), &options.writer)?;
    // A deletion that the last run did not come to.
    if let Some(victim) = options.recipe.victim_of(done) {
        store.delete(&keys(options, victim))?;
    }
    let mut stdout = std::io::stdout().lock();
    for number in done + 1..=done.saturating_add(options.batches) {
        store.append(&mut make_batch(options, number)?, OnDuplicate::Error)?;
        // Only now: append returned, so the batch survives whatever happens next.
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
            store.backup(format!("{}.backup-{}", options.dir, options.writer))?;
        }
    }
    Ok(store.close()?)
}

/// Several writers may start on an empty place at once; whoever loses the race opens what the winner created.
fn open_or_create(dir: &str, dim: usize) -> vecstore::Result<Store> {
    match Store::open(dir) {
        Err(vecstore::Error::NotFound { .. }) => match Store::create(dir, StoreConfig::new(dim)) {
            Err(vecstore::Error::AlreadyExists { .. }) => Store::open(dir),
            created => created,
        },
        opened => opened,
    }
}

/// Names a checkpoint after the writer and its last batch, and drops those it named before.
fn name_version(store: &Store, writer: &str, number: u64) -> vecstore::Result<()> {
    let name = |number: u64| format!("{writer}-{number}");
    store.create_version(&name(number))?;
    for older in store.versions()? {
        let is_ours = older.name.rsplit_once('-').is_some_and(|(of, _)| of == writer);
        if is_ours && older.name != name(number) {
            store.drop_version(&older.name)?;
        }
    }
    Ok(())
}

/// The keys of a batch.
fn keys(options: &Options, number: u64) -> Vec<String> {
    (0..options.recipe.rows).map(|row| key(&options.writer, number, row)).collect()
}

/// How many batches of `writer` the store holds or held. They are numbered without a gap, and a batch is there whole or
/// not at all, so that the first key of a batch stands for it: double until one is absent, then halve. A batch that was
/// deleted has one right behind it that was not.
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
        batch.push_with_payload(key(&options.writer, number, row), &vector, &payload)?;
    }
    Ok(batch)
}
