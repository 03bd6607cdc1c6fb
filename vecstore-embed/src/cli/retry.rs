//! `vecstore-embed retry`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use vecstore::{Entry, Kind, Store};
use vecstore_embed::RejectionClass;
use vecstore_embed::keys::Remembered;

use super::output::{Outcome, open_to_read, print, print_json};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed retry --store photos.vecs
  vecstore-embed retry --store photos.vecs --class model --class size
  vecstore-embed retry --store photos.vecs --class decode --dry-run

Forgets that these inputs were rejected, so that the next run tries them again: after a new version that
decodes more, a higher --max-pixels, or another backend. A file that changed since is tried again without
this.
Exit codes: 0 done, 1 failed, 2 wrong use of the command line.";

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
    let mut keys = Vec::new();
    for entry in &open_to_read(&args.store)?.snapshot() {
        let entry = entry?;
        if is_meant(args, &entry) {
            keys.push(entry.key().to_vec());
        }
    }
    if !args.dry_run && !keys.is_empty() {
        let store = Store::open(&args.store)?;
        store.delete(&keys)?;
        store.close()?;
    }
    let counted = keys.len();
    if args.json {
        print_json(&json!({ "rejected": counted, "forgotten": if args.dry_run { 0 } else { counted } }))?;
    } else if args.dry_run {
        print(format!("{counted} rejected inputs would be tried again\n"))?;
    } else {
        print(format!("{counted} rejected inputs are missing again; the next run tries them\n"))?;
    }
    Ok(0)
}

/// True for a rejected input of the classes asked for.
fn is_meant(args: &RetryArgs, entry: &Entry<'_>) -> bool {
    entry.kind() == Kind::Rejected
        && (args.class.is_empty()
            || Remembered::decode(entry.payload()).class.is_some_and(|class| args.class.contains(&class)))
}
