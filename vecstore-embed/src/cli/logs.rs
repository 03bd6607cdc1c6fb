//! `vecstore-embed logs`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use vecstore_embed::runs::{LogLine, log_lines, older_lines};

use super::output::{Failure, Outcome, find_run, print, runs_of, shown};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed logs --store photos.vecs
  vecstore-embed logs --store photos.vecs -f
  vecstore-embed logs --store photos.vecs 20261121-190000-4711 --json | jq 'select(.level == \"WARN\")'

Of the last run that began, unless one is named. Lines for people on a terminal, JSON elsewhere. A log keeps the newest
40 MiB; those of the last 20 runs are kept.
Exit codes: 0 shown, 1 failed, 2 wrong use of the command line.";

/// Show what a run has logged: what was rejected, replaced, or could not be read, and why it paused or ended
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LogsArgs {
    /// The store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The run; the last one unless given. The beginning of its name is enough
    run: Option<String>,
    /// Go on until the run ends
    #[arg(short, long)]
    follow: bool,
    /// JSON lines, also on a terminal
    #[arg(long)]
    json: bool,
}

pub(crate) fn logs(args: &LogsArgs) -> Outcome {
    let runs = runs_of(&args.store)?;
    let run = find_run(&runs, &args.store, args.run.as_deref())?;
    let human = io::stdout().is_terminal() && !args.json;
    let path = runs.log(&run.state.id);
    if !args.follow {
        for line in log_lines(&path) {
            print(&format(&line, human))?;
        }
        return Ok(0);
    }
    let is_live = || runs.find(&run.state.id).is_ok_and(|known| known.is_some_and(|known| known.live));
    follow(&path, human, &is_live)?;
    Ok(0)
}

/// Prints lines as they come, until the run has ended and all are printed.
fn follow(path: &Path, human: bool, is_live: &dyn Fn() -> bool) -> Result<(), Failure> {
    // The newest file is read from its beginning, by the handle that goes on: no line can come in between.
    let open = || File::open(path).ok().and_then(|file| Some((file.metadata().ok()?.ino(), file)));
    let mut reader = open().map(|(inode, file)| (BufReader::new(file), inode));
    for line in older_lines(path, reader.as_ref().map(|(_, inode)| *inode)) {
        print(&format(&line, human))?;
    }
    let mut partial = Vec::new();
    loop {
        // Asked before the rest is read: what was written until then is read after.
        let live = is_live();
        if let Some((reader, _)) = &mut reader {
            while reader.read_until(b'\n', &mut partial).is_ok_and(|read| read > 0)
                && partial.ends_with(b"\n")
            {
                if let Ok(line) = serde_json::from_slice::<LogLine>(&partial) {
                    print(&format(&line, human))?;
                }
                partial.clear();
            }
        }
        let rotated = open().filter(|(inode, _)| reader.as_ref().is_none_or(|(_, known)| known != inode));
        match rotated {
            Some((inode, file)) => {
                partial.clear();
                reader = Some((BufReader::new(file), inode));
            }
            None if !live => return Ok(()),
            None => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn format(line: &LogLine, human: bool) -> String {
    if human {
        let time = line.time.replace('T', " ");
        let time = time.split('.').next().unwrap_or_default();
        format!("{time} {:<5} {}\n", line.level, shown(line.message.as_bytes()))
    } else {
        // Of three texts: this cannot fail.
        let json = serde_json::to_string(line).unwrap_or_default();
        format!("{json}\n")
    }
}
