//! A run among others: what it tells them, and its end where stopping takes too long.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, io, process};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::Level;
use vecstore_embed::runs::{Recorder, Runs};
use vecstore_embed::{StopFlag, Summary};

use super::display::Display;
use super::output::Failure;
use super::run::{RunArgs, exit_code};
use super::summary::done;
use super::{EXIT_RUN_AGAIN, metrics, stop};

/// A run that was asked to stop has this long to finish what is in flight: `stop` waits for 20 seconds, and
/// schedulers kill after 30.
const PATIENCE: Duration = Duration::from_secs(18);
const _: () = assert!(PATIENCE.as_secs() < stop::TIMEOUT, "`stop` sees the end of it");

/// How often the stop flag is looked at, so that Ctrl-C is answered.
const TICK: Duration = Duration::from_millis(100);

/// Ticks between lines about progress: those shown where there is no terminal, and those in the log.
const SHOW_EVERY: u64 = 100;
const LOG_EVERY: u64 = 600;

/// Ticks between files of metrics.
const METRICS_EVERY: u64 = 50;

/// A run while it is live, and the thread that watches it until `end` is dropped.
pub(super) struct Registration {
    watched: Arc<Watched>,
    watcher: JoinHandle<()>,
    end: Sender<()>,
}

struct Watched {
    display: Display,
    stop: StopFlag,
    /// The file that gets numbers for Prometheus.
    metrics: OnceLock<PathBuf>,
}

/// Ends the process without the destructors of C libraries: those of a GPU take away what threads still use.
fn end_at_once(code: u8) -> ! {
    log::logger().flush();
    signal_hook::low_level::exit(code.into())
}

impl Registration {
    /// Tells others of this run. Where the folder around the store cannot be written, the run goes on alone.
    pub(super) fn join(args: &RunArgs, stop: StopFlag, display: &Display) -> Self {
        let command = env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        match Recorder::begin(&Runs::of_store(&args.store), command, &args.source(), stop.clone()) {
            Ok(recorder) => {
                let begins = format!("run {} begins, process {}", recorder.id(), process::id());
                display.record(recorder);
                display.log(Level::Info, &begins);
            }
            Err(error) => log::info!("this run cannot be watched or stopped from elsewhere: {error}"),
        }
        let watched = Arc::new(Watched { display: display.clone(), stop, metrics: OnceLock::new() });
        let ((end, ended), watching) = (bounded(0), Arc::clone(&watched));
        Registration { watched, watcher: thread::spawn(move || watching.watch(&ended)), end }
    }

    /// Gives numbers to Prometheus, if asked to.
    pub(super) fn metrics(&self, place: Option<&str>) -> Result<(), Failure> {
        let Some(place) = place else { return Ok(()) };
        let alone = || io::Error::other("the folder around the store cannot be written");
        let recorder = self.watched.display.recorder().ok_or_else(alone);
        let file = recorder.and_then(|recorder| metrics::start(place, recorder));
        if let Some(file) = file.map_err(|error| Failure::Metrics(place.to_owned(), error))? {
            self.watched.metrics.get_or_init(|| file);
        }
        Ok(())
    }

    /// Tells how the run ended.
    pub(super) fn leave(self, args: &RunArgs, outcome: &Result<Summary, Failure>) {
        drop(self.end);
        let _ = self.watcher.join();
        let display = &self.watched.display;
        let (how, code) = match outcome {
            Ok(summary) => (summary.ended.to_string(), exit_code(summary)),
            Err(error) => (error.to_string(), error.exit_code()),
        };
        match outcome {
            Ok(summary) => display.log(Level::Info, &format!("{how}: {}", done(args, summary))),
            Err(_) => display.log(Level::Error, &how),
        }
        display.recorder().inspect(|recorder| recorder.end(&how, code));
        self.watched.write_metrics();
    }
}

impl Watched {
    /// Shows now and then how far the run is, and ends it when it was asked to stop and takes too long. What
    /// is committed stays; what is not is missing, and is found again.
    fn watch(&self, ended: &Receiver<()>) {
        let (display, mut asked) = (&self.display, None);
        for tick in 1u64.. {
            let is_over = ended.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout);
            // The run may have ended before the next look: that it was asked to is told all the same.
            if self.stop.is_raised() && asked.is_none() {
                asked = Some(Instant::now());
                display.say("stopping: finishing and saving what is in flight; once more to end at once");
                display.log(Level::Info, "asked to stop: finishing and saving what is in flight");
            }
            if is_over {
                return;
            }
            if asked.is_some_and(|asked| asked.elapsed() >= PATIENCE) {
                display.tell("what is in flight takes too long: ending without it; what is stored stays");
                display.recorder().inspect(|recorder| recorder.end("stopped", EXIT_RUN_AGAIN));
                end_at_once(EXIT_RUN_AGAIN);
            }
            if tick.is_multiple_of(SHOW_EVERY) && !display.is_terminal() {
                display.line().inspect(|line| display.say(line));
            }
            if tick.is_multiple_of(LOG_EVERY) {
                display.line().inspect(|line| display.log(Level::Info, line));
            }
            if tick.is_multiple_of(METRICS_EVERY) {
                self.write_metrics();
            }
        }
    }

    /// Writes the file of metrics, if there is one. The disk may be full for a while.
    fn write_metrics(&self) {
        if let Some((file, recorder)) = self.metrics.get().zip(self.display.recorder()) {
            let _ = metrics::write(file, &recorder.state());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// Leaves a mark when the thread's destructors run, which `exit` of C does before those of libraries.
    struct Mark(PathBuf);

    impl Drop for Mark {
        fn drop(&mut self) {
            let _ = std::fs::write(&self.0, "");
        }
    }

    thread_local!(static MARK: Cell<Option<Mark>> = const { Cell::new(None) });

    const PLACE: &str = "VECSTORE_EMBED_TEST_OF_THE_END";

    #[test]
    fn the_end_at_once_runs_no_destructors() {
        // This test again, as the process that ends.
        if let Some(mark) = env::var_os(PLACE) {
            MARK.set(Some(Mark(mark.into())));
            end_at_once(EXIT_RUN_AGAIN);
        }
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let mut again = Command::new(env::current_exe().unwrap());
        again.args(["--exact", "cli::registration::tests::the_end_at_once_runs_no_destructors"]);
        let output = again.env(PLACE, &mark).output().unwrap();
        assert_eq!(output.status.code(), Some(EXIT_RUN_AGAIN.into()), "{output:?}");
        assert!(!mark.exists());
    }
}
