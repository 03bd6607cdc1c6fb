//! `vecstore-embed retry`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use vecstore::{Entry, Kind, OnDuplicate, Store};
use vecstore_embed::RejectionClass;
use vecstore_embed::keys::Remembered;

use super::output::{Failure, Outcome, no_store, open_to_read, print, print_json};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed retry --store photos.vecs
  vecstore-embed retry --store photos.vecs --class model --class size
  vecstore-embed retry --store photos.vecs --class decode --dry-run

Forgets that these inputs were rejected, so that the next run tries them again: after a new version that
decodes more, a higher --max-pixels, or another backend. A file that changed since is tried again without
this.
Exit codes: 0 done, 1 failed, 2 wrong use of the command line.";

/// Entries forgotten per commit.
const AT_ONCE: usize = 1000;

/// Give rejected inputs another chance in the next run
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RetryArgs {
    /// The store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Only those rejected for this: decode (their content), size (larger than the limits), model (what the
    /// model made of them); may be given several times
    #[arg(long, value_name = "CLASS")]
    class: Vec<RejectionClass>,
    /// Count them, and forget nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn retry(args: &RetryArgs) -> Outcome {
    let counted = if args.dry_run { count(args)? } else { forget(args)? };
    if args.json {
        print_json(&json!({ "rejected": counted, "forgotten": if args.dry_run { 0 } else { counted } }))?;
    } else if args.dry_run {
        print(format!("{counted} rejected inputs would be tried again\n"))?;
    } else {
        print(format!("{counted} rejected inputs are missing again; the next run tries them\n"))?;
    }
    Ok(0)
}

/// Counts what would be forgotten.
fn count(args: &RetryArgs) -> Result<u64, Failure> {
    let mut counted = 0;
    for entry in &open_to_read(&args.store)?.snapshot() {
        counted += u64::from(is_meant(args, &entry?));
    }
    Ok(counted)
}

/// Forgets, and counts.
fn forget(args: &RetryArgs) -> Result<u64, Failure> {
    let store = Store::open(&args.store).map_err(|error| no_store(&args.store, error))?;
    let (mut forgotten, mut batch) = (0, store.batch());
    for entry in &store.snapshot() {
        let entry = entry?;
        if !is_meant(args, &entry) {
            continue;
        }
        forgotten += 1;
        batch.delete(entry.key())?;
        if batch.len() >= AT_ONCE {
            store.append(&mut batch, OnDuplicate::Replace)?;
        }
    }
    store.append(&mut batch, OnDuplicate::Replace)?;
    store.close()?;
    Ok(forgotten)
}

/// True for a rejected input of the classes asked for.
fn is_meant(args: &RetryArgs, entry: &Entry<'_>) -> bool {
    entry.kind() == Kind::Rejected
        && (args.class.is_empty()
            || Remembered::decode(entry.payload()).class.is_some_and(|class| args.class.contains(&class)))
}
