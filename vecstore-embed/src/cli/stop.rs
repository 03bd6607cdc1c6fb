//! `vecstore-embed stop`.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use vecstore_embed::runs::Known;

use super::EXIT_FAILED;
use super::output::{Failure, Outcome, find_run, print, runs_of};

const EXAMPLES: &str = "\
Examples:
  vecstore-embed stop --store photos.vecs
  vecstore-embed stop --store photos.vecs 20261121-190000-4711

Every run of the store, or the named one, finishes and commits what is in flight, and ends; the same command
goes on from there. Runs look for the request several times a second, in whatever container or session they
are.
Exit codes: 0 none is live any more, 1 failed, or one did not end in time, 2 wrong use of the command line.";

/// How long runs are waited for unless told otherwise, in seconds.
pub(super) const TIMEOUT: u64 = 20;

/// Ask the runs of a store to stop, and wait until they have
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StopArgs {
    /// The store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The run; all unless given. The beginning of its name is enough
    run: Option<String>,
    /// How long to wait for them
    #[arg(long, default_value_t = TIMEOUT, value_name = "SECONDS")]
    timeout: u64,
}

pub(crate) fn stop(args: &StopArgs) -> Outcome {
    let runs = runs_of(&args.store)?;
    let failed = |error| Failure::Runs(runs.folder().to_owned(), error);
    let mut asked: Vec<Known> = match &args.run {
        Some(name) => vec![find_run(&runs, &args.store, Some(name))?],
        None => runs.list().map_err(failed)?,
    };
    asked.retain(|run| run.live);
    if asked.is_empty() {
        print("no run is live\n")?;
    }
    for run in &asked {
        runs.ask_to_stop(&run.state.id).map_err(failed)?;
    }
    let began = Instant::now();
    while !asked.is_empty() {
        if began.elapsed() > Duration::from_secs(args.timeout) {
            for Known { state, .. } in &asked {
                let remedy =
                    format!("to end it at once: kill -9 {} (nothing that is stored is lost)", state.pid);
                print(format!("{}: still there after {} s; {remedy}\n", state.id, args.timeout))?;
            }
            return Ok(EXIT_FAILED);
        }
        thread::sleep(Duration::from_millis(50));
        let (still, ended): (Vec<_>, _) = asked.into_iter().partition(|run| runs.is_live(&run.state.id));
        for Known { state, .. } in ended {
            let seconds = began.elapsed().as_secs_f64();
            let known = runs.list().map_err(failed)?.into_iter().find(|known| known.state.id == state.id);
            let how = known.and_then(|known| known.state.ended).unwrap_or_else(|| "ended".to_owned());
            print(format!("{}: {how} after {seconds:.1} s\n", state.id))?;
        }
        asked = still;
    }
    Ok(0)
}
