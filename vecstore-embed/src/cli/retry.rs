//! `vecstore-embed retry`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use vecstore::{Snapshot, Store};
use vecstore_embed::RejectionClass;

use super::output::{Failure, Outcome, open_to_read, print, print_json, rejected};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed retry --store photos.vecs
  vecstore-embed retry --store photos.vecs --class model --class size
  vecstore-embed retry --store photos.vecs --class decode --dry-run

Forgets that these inputs were rejected, so that the next run tries them again: after a new version that
decodes more, a higher --max-pixels, or another backend. A file that changed since is tried again without
this.";

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
    let reader = open_to_read(&args.store)?;
    let counted = if args.dry_run {
        meant(args, &reader.snapshot())?.len()
    } else {
        let store = Store::open(&args.store)?;
        let keys = meant(args, &store.snapshot())?;
        store.delete(&keys)?;
        store.close()?;
        keys.len()
    };
    if args.json {
        print_json(&json!({ "rejected": counted, "forgotten": if args.dry_run { 0 } else { counted } }))?;
    } else if args.dry_run {
        print(format!("{counted} rejected inputs would be tried again\n"))?;
    } else {
        print(format!("{counted} rejected inputs are missing again; the next run tries them\n"))?;
    }
    Ok(0)
}

/// The keys of rejected inputs of the classes asked for.
fn meant(args: &RetryArgs, snapshot: &Snapshot) -> Result<Vec<Vec<u8>>, Failure> {
    let mut rejected = rejected(snapshot)?;
    rejected
        .retain(|(_, class, _)| args.class.is_empty() || class.is_some_and(|it| args.class.contains(&it)));
    Ok(rejected.into_iter().map(|(key, ..)| key).collect())
}
