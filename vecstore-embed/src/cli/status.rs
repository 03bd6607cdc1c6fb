//! `vecstore-embed status`.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};
use vecstore::{Kind, Snapshot};
use vecstore_embed::Roots;

use super::output::{Failure, Outcome, named, open_to_read, print, print_json, shown};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed status --store photos.vecs
  vecstore-embed status --store photos.vecs --rejected
  vecstore-embed status --store photos.vecs --json | jq .done

Works while a run is going on, and on read-only media.
Exit codes: 0 shown, 1 failed, 2 wrong use of the command line.";

/// Show what a store holds
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// The store to look at
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Also list every rejected picture with its reason
    #[arg(long)]
    rejected: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn status(args: &StatusArgs) -> Outcome {
    let store = open_to_read(&args.store)?;
    let snapshot = store.snapshot();
    let totals = snapshot.totals();
    let roots = Roots::from_settings(&store.settings())?;
    let model = store.fingerprint();
    let rejected = if args.rejected { rejected(&snapshot)? } else { Vec::new() };
    if args.json {
        let root = |root: &vecstore_embed::roots::Root| {
            let mut object = named("dir", root.dir().as_os_str().as_bytes());
            object.insert("name".to_owned(), json!(root.name()));
            Value::Object(object)
        };
        let mut status = json!({
            "done": totals.entries,
            "empty": totals.empty,
            "rejected": totals.rejected,
            "rows": totals.rows,
            "bytes": totals.bytes,
            "commits": snapshot.last_commit(),
            "dim": store.dim(),
            "dtype": store.dtype().to_string(),
            "metric": store.metric().to_string(),
            "model": model.as_ref().map(|model| model.description().to_owned()),
            "fingerprint": model.as_ref().map(vecstore::Fingerprint::short_id),
            "roots": roots.iter().map(root).collect::<Vec<_>>(),
        });
        if let (true, Some(object)) = (args.rejected, status.as_object_mut()) {
            let entry = |(key, reason): &(Vec<u8>, String)| {
                let mut object = named("key", key);
                object.insert("reason".to_owned(), json!(reason));
                Value::Object(object)
            };
            object.insert("rejected_list".to_owned(), rejected.iter().map(entry).collect());
        }
        print_json(&status)?;
        return Ok(0);
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("store", args.store.display().to_string());
    line("done", HumanCount(totals.entries).to_string());
    line("empty", HumanCount(totals.empty).to_string());
    line("rejected", HumanCount(totals.rejected).to_string());
    line(
        "rows",
        format!("{} x {} {}, {}", HumanCount(totals.rows), store.dim(), store.dtype(), store.metric()),
    );
    line("commits", HumanCount(snapshot.last_commit()).to_string());
    line("bytes", HumanBytes(totals.bytes).to_string());
    let none = || "not recorded".to_owned();
    line("model", model.map_or_else(none, |model| format!("{} ({})", model.description(), model.short_id())));
    for root in roots.iter() {
        line("root", format!("{}={}", root.name(), shown(root.dir().as_os_str().as_bytes())));
    }
    for (key, reason) in &rejected {
        let _ = writeln!(text, "  {}: {reason}", shown(key));
    }
    if !rejected.is_empty() {
        let store = shown(args.store.as_os_str().as_bytes());
        let _ = writeln!(text, "to try one again: vecstore delete {store} KEY, and run again");
    }
    print(&text)?;
    Ok(0)
}

fn rejected(snapshot: &Snapshot) -> Result<Vec<(Vec<u8>, String)>, Failure> {
    let mut list = Vec::new();
    for entry in snapshot.iter() {
        let entry = entry?;
        if entry.kind() == Kind::Rejected {
            list.push((entry.key().to_vec(), entry.reason().unwrap_or_default().to_owned()));
        }
    }
    Ok(list)
}
