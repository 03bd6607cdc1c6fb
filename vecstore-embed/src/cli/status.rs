//! `vecstore-embed status`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde_json::json;
use vecstore::{escaped, one_line};
use vecstore_embed::keys::Root;
use vecstore_embed::runs::{Known, RunState, Runs, add_up, utc};
use vecstore_embed::{Progress, Roots};

use super::output::{Failure, Outcome, Rejected, local, named, open_to_read, print, print_json, rejected};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed status --store photos.vecs
  vecstore-embed status --store photos.vecs --rejected
  vecstore-embed status --store photos.vecs --watch
  vecstore-embed status --store photos.vecs --json | jq .done

Works while runs are going on, and on read-only media. What is left, the rate and the time left are those of
all live runs together; without one, `run --dry-run` counts what is left.";

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
    /// Show it again every two seconds, as long as a run is live
    #[arg(short, long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn status(args: &StatusArgs) -> Outcome {
    let terminal = io::stdout().is_terminal() && !args.json;
    loop {
        let runs = Runs::of_store(&args.store);
        let known = runs.list().map_err(|error| Failure::Runs(runs.folder().to_owned(), error))?;
        if args.watch && terminal {
            // To the upper left corner, and everything below it away.
            print("\x1b[H\x1b[J")?;
        }
        show(args, &known)?;
        if !args.watch || !known.iter().any(|run| run.live) {
            return Ok(0);
        }
        thread::sleep(Duration::from_secs(2));
    }
}

fn show(args: &StatusArgs, known: &[Known]) -> Result<(), Failure> {
    let store = match open_to_read(&args.store) {
        // The first run is still counting, or loads its model.
        Err(Failure::NoStore(_)) if known.iter().any(|run| run.live) => {
            return match args.json {
                true => print_json(&json!({ "runs": known })),
                false => print(runs_text(known)),
            };
        }
        store => store?,
    };
    let snapshot = store.snapshot();
    let totals = snapshot.totals();
    let roots = Roots::from_settings(snapshot.settings()).map_err(|error| error.of_store(&args.store))?;
    let model = snapshot.fingerprint();
    let total = add_up(known, totals.entries);
    let rejected = if args.rejected { rejected(&snapshot)? } else { Vec::new() };
    if args.json {
        let root =
            |root: &Root| named("dir", root.dir().as_os_str().as_bytes(), json!({"name": root.name()}));
        let mut status = json!({
            "done": totals.with_rows, "empty": totals.empty, "rejected": totals.rejected,
            "rows": totals.rows, "bytes": totals.bytes, "commits": snapshot.last_commit(),
            "dim": snapshot.dim(), "dtype": snapshot.dtype().to_string(),
            "metric": snapshot.metric().to_string(),
            "model": model.map(vecstore::Fingerprint::description),
            "fingerprint": model.map(vecstore::Fingerprint::short_id),
            "roots": roots.iter().map(root).collect::<Vec<_>>(),
            "live": total.live, "left": total.left, "missing": total.missing, "rate": total.rate,
            "seconds_left": total.time_left.map(|left| left.as_secs_f64()), "runs": known,
        });
        if args.rejected {
            let entry = |(key, _, reason): &Rejected| named("key", key, json!({"reason": reason}));
            status["rejected_list"] = rejected.iter().map(entry).collect();
        }
        return print_json(&status);
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("store", args.store.display().to_string());
    line("done", HumanCount(totals.with_rows).to_string());
    line("empty", HumanCount(totals.empty).to_string());
    line("rejected", HumanCount(totals.rejected).to_string());
    if total.live > 0 {
        line("missing", format!("{} (could not be read by the live runs)", HumanCount(total.missing)));
        let counting = || "still counting".to_owned();
        line("left", total.left.map_or_else(counting, |left| HumanCount(left).to_string()));
        let unknown = || "unknown".to_owned();
        let time_left = total.time_left.map_or_else(unknown, |left| HumanDuration(left).to_string());
        line("rate", format!("{:.1}/s, {time_left} left", total.rate));
    }
    let (rows, dim) = (HumanCount(totals.rows), snapshot.dim());
    line("rows", format!("{rows} x {dim} {}, {}", snapshot.dtype(), snapshot.metric()));
    line("commits", HumanCount(snapshot.last_commit()).to_string());
    line("bytes", HumanBytes(totals.bytes).to_string());
    let none = || "not recorded".to_owned();
    line("model", model.map_or_else(none, |model| format!("{} ({})", model.description(), model.short_id())));
    for root in roots.iter() {
        line("root", format!("{}={}", root.name(), escaped(root.dir().as_os_str().as_bytes())));
    }
    for (key, _, reason) in &rejected {
        let _ = writeln!(text, "  {}: {}", escaped(key), one_line(reason));
    }
    if !rejected.is_empty() {
        let store = escaped(args.store.as_os_str().as_bytes());
        let _ = writeln!(text, "to try one again: vecstore delete {store} KEY, and run again");
    }
    text.push_str(&runs_text(known));
    print(&text)
}

/// The live runs, and how the last one ended.
fn runs_text(known: &[Known]) -> String {
    let mut text = String::new();
    let begun = |state: &RunState| format!("{}, since {}", state.id, local(&utc(state.began)));
    let done = |progress: &Progress| {
        let [embedded, rejected] = [progress.embedded, progress.rejected].map(HumanCount);
        format!("{embedded} embedded, {rejected} rejected")
    };
    for state in known.iter().filter(|run| run.live).map(|run| &run.state) {
        let (done, unread) = (done(&state.progress), HumanCount(state.progress.unread));
        text += &format!("run       {}: {}, {done}, {unread} could not be read", begun(state), state.phase);
        text += &format!(", {:.1}/s", state.rate);
        for (what, told) in [("limit: ", &state.limit), ("", &state.note)] {
            if !told.is_empty() {
                text += &format!("; {what}{}", one_line(told));
            }
        }
        text.push('\n');
    }
    if let Some(Known { state, .. }) = known.iter().rev().find(|run| !run.live) {
        let how = state.ended.as_deref().unwrap_or("killed; what it had begun is found again");
        text += &format!("last run  {}: {}; {}\n", begun(state), one_line(how), done(&state.progress));
    }
    text
}
