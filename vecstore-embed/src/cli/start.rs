//! `vecstore-embed start`.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use std::{env, io, process, thread};

use clap::Args;
use signal_hook::consts::SIGHUP;
use vecstore::one_line;
use vecstore_embed::runs::{Known, Phase, Runs, now};

use super::EXIT_FAILED;
use super::display::Display;
use super::output::{Failure, Outcome, print};
use super::run::{self, RunArgs};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed start --folder photos --recursive --store photos.vecs
  vecstore-embed status --store photos.vecs --watch
  vecstore-embed logs --store photos.vecs -f
  vecstore-embed stop --store photos.vecs

Takes all options of run. The run goes on when the terminal is closed. Several may be started on one store,
and share the work. What it would have printed is in its log.
Exit codes: 0 started (or finished already), or that of the run, if it ended at once.";

/// How long to wait for the run to have counted what there is to do, so that mistakes are seen here.
const WAIT: Duration = Duration::from_secs(10);

/// Start a run that goes on by itself
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(super) run: RunArgs,
}

pub(crate) fn start(args: &StartArgs, display: &Display) -> Outcome {
    if args.run.detached {
        return run::run(&args.run, display);
    }
    if args.run.lists_stdin() {
        return Err(Failure::StartWithStdin);
    }
    let runs = Runs::of_store(&args.run.store);
    runs.create_folder().map_err(|error| Failure::Runs(runs.folder().to_owned(), error))?;
    let said = runs.folder().join(format!("start-{}-{}.out", now() as u64, process::id()));
    let mut child = spawn(&said).map_err(Failure::Start)?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(Failure::Start)? {
            let text = fs::read_to_string(&said).unwrap_or_default();
            let _ = fs::remove_file(&said);
            print(text.lines().map(|line| one_line(line) + "\n").collect::<String>())?;
            return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_FAILED));
        }
        let known = runs.list().unwrap_or_default();
        let has_begun = |run: &&Known| match run.state.phase {
            Phase::Counting => began.elapsed() > WAIT,
            // It has said how it ended, and is live until its process is gone, whose exit code is to be told.
            phase => phase != Phase::Ended,
        };
        let run = known.iter().find(|known| known.live && known.state.pid == child.id()).filter(has_begun);
        if let Some(Known { state, .. }) = run {
            if !args.run.quiet {
                let (id, pid, store) = (&state.id, state.pid, args.run.store.display());
                let to_do = state.planned.map(|_| format!("{} to do", state.progress.to_do));
                let to_do = to_do.unwrap_or_else(|| "still counting".to_owned());
                let more = ["status --watch", "logs -f", "stop"];
                let more = more.map(|command| format!("  vecstore-embed {command} --store {store}\n"));
                print(format!("run {id} started, process {pid}: {to_do}\n{}", more.concat()))?;
            }
            return Ok(0);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The same command again, which finds the same options.
fn spawn(said: &Path) -> io::Result<Child> {
    let out = File::create(said)?;
    Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(run::DETACHED, "true")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
}

/// Leaves the session of the terminal, so that its end is not this run's.
pub(super) fn detach() -> Result<(), Failure> {
    // Only fails for the leader of a group, which is away from the terminal already.
    let _ = rustix::process::setsid();
    signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false))).map_err(Failure::Signals)?;
    Ok(())
}
