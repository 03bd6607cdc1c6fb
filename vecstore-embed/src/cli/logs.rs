//! `vecstore-embed logs`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use vecstore::one_line;
use vecstore_embed::runs::{LogLine, log_files};

use super::output::{Failure, Outcome, find_run, local, print, runs_of};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed logs --store photos.vecs
  vecstore-embed logs --store photos.vecs -f
  vecstore-embed logs --store photos.vecs 20261121-190000-4711 --json | jq 'select(.level == \"WARN\")'

Of the last run that began, unless one is named; its name is when it began, in UTC, and its process. On a
terminal, lines of text in the time of this machine, elsewhere JSON in UTC. A log keeps the newest 40 MiB;
those of the last 20 runs are kept.";

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
    let mut is_live = || args.follow && runs.is_live(&run.state.id);
    follow(&runs.log(&run.state.id), &mut is_live, &mut |line| print(format(line, human)))?;
    Ok(0)
}

/// Shows lines as they come, until the run has ended and all are shown.
fn follow(
    path: &Path,
    is_live: &mut dyn FnMut() -> bool,
    show: &mut dyn FnMut(&LogLine) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reading: Option<Lines> = None;
    loop {
        // Asked before the rest is read: what was written until then is read after.
        let live = is_live();
        let files = log_files(path);
        let known =
            reading.as_ref().and_then(|lines| files.iter().position(|(inode, _)| *inode == lines.inode));
        // The current file is read on after newer ones were seen: by then it has all its lines.
        if let Some(lines) = &mut reading {
            lines.show(show)?;
        }
        for (inode, file) in files.into_iter().skip(known.map_or(0, |known| known + 1)) {
            let lines = Lines { inode, file: BufReader::new(file), partial: Vec::new() };
            reading.insert(lines).show(show)?;
        }
        if !live {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// A file that is written to while it is read.
struct Lines {
    inode: u64,
    file: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl Lines {
    fn show(&mut self, show: &mut dyn FnMut(&LogLine) -> Result<(), Failure>) -> Result<(), Failure> {
        while self.file.read_until(b'\n', &mut self.partial).is_ok_and(|read| read > 0)
            && self.partial.ends_with(b"\n")
        {
            if let Ok(line) = serde_json::from_slice::<LogLine>(&self.partial) {
                show(&line)?;
            }
            self.partial.clear();
        }
        Ok(())
    }
}

fn format(line: &LogLine, human: bool) -> String {
    match human {
        true => format!("{} {:<5} {}\n", local(&line.time), line.level, one_line(&line.message)),
        // Of three texts: this cannot fail.
        false => serde_json::to_string(line).unwrap_or_default() + "\n",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    /// A run that writes between the looks: lines, and files that are renamed, once and twice at a time.
    #[test]
    fn a_log_that_is_followed_loses_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.log");
        let older = |at: usize| dir.path().join(format!("run.log.{at}"));
        let (mut looks, mut written, mut shown) = (0, 0, Vec::new());
        let mut write = |lines: usize| {
            let mut log = File::options().create(true).append(true).open(&path).unwrap();
            for at in written..written + lines {
                writeln!(log, r#"{{"time":"t","level":"INFO","message":"{at}"}}"#).unwrap();
            }
            written += lines;
        };
        let rotate = || {
            let _ = fs::rename(older(1), older(2));
            fs::rename(&path, older(1)).unwrap();
        };
        write(2);
        let mut is_live = || {
            looks += 1;
            match looks {
                1 => write(1),
                2 => {
                    write(2);
                    rotate();
                    write(1);
                }
                3 => {
                    for _ in 0..2 {
                        write(3);
                        rotate();
                    }
                    write(1);
                }
                _ => write(1),
            }
            looks < 4
        };
        follow(&path, &mut is_live, &mut |line| {
            shown.push(line.message.parse::<usize>().unwrap());
            Ok(())
        })
        .unwrap();
        assert_eq!(shown, (0..written).collect::<Vec<_>>());
    }
}
