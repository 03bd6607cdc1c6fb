//! `vecstore-embed retry`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use vecstore::{Kind, OnDuplicate, Store};
use vecstore_embed::Class;
use vecstore_embed::record::Remembered;

use super::output::{Outcome, no_store, print, print_json};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed retry --store photos.vecs
  vecstore-embed retry --store photos.vecs --class model --class size
  vecstore-embed retry --store photos.vecs --class decode --dry-run

Forgets that these inputs were rejected, so that the next run tries them again: after a new version that decodes more, a
higher --max-pixels, or another backend. A file that changed since is tried again without this.
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
    /// Only those rejected for this: decode (their content), size (larger than the limits), model (what the model made
    /// of them); may be given several times
    #[arg(long, value_name = "CLASS")]
    class: Vec<Class>,
    /// Count them, and forget nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn retry(args: &RetryArgs) -> Outcome {
    let open = if args.dry_run { Store::open_read_only(&args.store) } else { Store::open(&args.store) };
    let store = open.map_err(|error| no_store(&args.store, error))?;
    let (mut counted, mut batch) = (0u64, store.batch());
    for entry in store.snapshot().iter() {
        let entry = entry?;
        if entry.kind() != Kind::Rejected {
            continue;
        }
        let class = Remembered::decode(entry.payload()).class;
        if !args.class.is_empty() && !class.is_some_and(|class| args.class.contains(&class)) {
            continue;
        }
        counted += 1;
        if !args.dry_run {
            batch.delete(entry.key())?;
        }
        if batch.len() >= AT_ONCE {
            store.append(&mut batch, OnDuplicate::Replace)?;
        }
    }
    store.append(&mut batch, OnDuplicate::Replace)?;
    store.close()?;
    if args.json {
        print_json(&json!({ "rejected": counted, "forgotten": if args.dry_run { 0 } else { counted } }))?;
    } else if args.dry_run {
        print(&format!("{counted} rejected inputs would be tried again\n"))?;
    } else {
        print(&format!("{counted} rejected inputs are missing again; the next run tries them\n"))?;
    }
    Ok(0)
}
