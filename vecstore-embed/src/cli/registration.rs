//! A run among others: its files beside the store, its log, and its end where stopping takes too long.

use std::env;
use std::io;
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::Level;
use vecstore_embed::runs::{LogFile, Recorder, Runs};
use vecstore_embed::{Observer, Pace, Plan, Progress, StopFlag, Summary};

use super::EXIT_RUN_AGAIN;
use super::display::Display;
use super::logging::RunLog;
use super::metrics;
use super::output::Failure;
use super::run::{RunArgs, exit_code};
use super::stop;
use super::summary::busy;

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

/// What a run keeps while it is live, and the thread that watches it until `end` is dropped.
pub(super) struct Registration {
    watched: Arc<Watched>,
    watcher: JoinHandle<()>,
    end: Sender<()>,
}

/// The places where a run is shown: here, in its log, and to other processes.
struct Watched {
    display: Display,
    log: RunLog,
    stop: StopFlag,
    recorder: Option<Arc<Recorder>>,
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
    pub(super) fn join(args: &RunArgs, stop: StopFlag, display: &Display, log: &RunLog) -> Self {
        let command = env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        let recorder = Recorder::begin(&Runs::of_store(&args.store), command, &args.source(), stop.clone())
            .inspect_err(|error| {
                log::info!("this run cannot be watched or stopped from elsewhere: {error}");
            })
            .ok();
        if let Some(recorder) = &recorder
            && let Ok(file) = LogFile::open(&recorder.log())
        {
            log.open(file);
            log.write(Level::Info, &format!("run {} begins, process {}", recorder.id(), process::id()));
        }
        let (display, log, metrics) = (display.clone(), log.clone(), OnceLock::new());
        let watched = Arc::new(Watched { display, log, stop, recorder, metrics });
        let ((end, ended), watching) = (bounded(0), Arc::clone(&watched));
        Registration { watched, watcher: thread::spawn(move || watching.watch(&ended)), end }
    }

    /// What is told how the run goes.
    pub(super) fn observer(&self) -> Arc<dyn Observer> {
        Arc::clone(&self.watched) as _
    }

    /// Gives numbers to Prometheus, if asked to.
    pub(super) fn metrics(&self, place: Option<&str>) -> Result<(), Failure> {
        let Some(place) = place else { return Ok(()) };
        let failed = |error| Failure::Metrics(place.to_owned(), error);
        let alone = || failed(io::Error::other("the folder around the store cannot be written"));
        let recorder = self.watched.recorder.as_ref().ok_or_else(alone)?;
        if let Some(file) = metrics::start(place, recorder).map_err(failed)? {
            self.watched.metrics.get_or_init(|| file);
        }
        Ok(())
    }

    /// Tells how the run ended.
    pub(super) fn leave(self, outcome: &Result<Summary, Failure>) {
        drop(self.end);
        let _ = self.watcher.join();
        let Watched { log, recorder, .. } = &*self.watched;
        let (how, code) = match outcome {
            Ok(summary) => {
                if summary.embedded > 0 {
                    log.write(Level::Info, &format!("busy: {}", busy(&summary.stages)));
                }
                let Summary { ended, embedded, rejected, already, left, .. } = summary;
                let (unread, seconds) = (summary.unread.count(), summary.elapsed.as_secs_f64());
                let done = format!("{embedded} embedded, {rejected} rejected, {already} already stored");
                let rest = format!("{unread} could not be read, {left} left; {seconds:.1} s");
                log.write(Level::Info, &format!("{ended}: {done}, {rest}"));
                (ended.to_string(), exit_code(summary))
            }
            Err(error) => {
                log.write(Level::Error, &error.to_string());
                (error.to_string(), error.exit_code())
            }
        };
        if let Some(recorder) = recorder {
            recorder.end(&how, code);
        }
        self.watched.write_metrics();
    }
}

impl Watched {
    /// Shows now and then how far the run is, and ends it when it was asked to stop and takes too long. What
    /// is committed stays; what is not is missing, and is found again.
    fn watch(&self, ended: &Receiver<()>) {
        let mut asked: Option<Instant> = None;
        for tick in 1.. {
            let is_over = ended.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout);
            // The run may have ended before the next look: that it was asked to is told all the same.
            if self.stop.is_raised() && asked.is_none() {
                asked = Some(Instant::now());
                let what = "finishing and saving what is in flight";
                self.display.say(&format!("stopping: {what}; once more to end at once"));
                self.log.write(Level::Info, &format!("asked to stop: {what}"));
            }
            if is_over {
                return;
            }
            if asked.is_some_and(|asked| asked.elapsed() >= PATIENCE) {
                let text = "what is in flight takes too long: ending without it; what is stored stays";
                self.display.say(text);
                self.log.write(Level::Warn, text);
                if let Some(recorder) = &self.recorder {
                    recorder.end("stopped", EXIT_RUN_AGAIN);
                }
                end_at_once(EXIT_RUN_AGAIN);
            }
            if let Some(line) = self.display.line() {
                if tick % SHOW_EVERY == 0 && !self.display.is_terminal() {
                    self.display.say(&line);
                }
                if tick % LOG_EVERY == 0 {
                    self.log.write(Level::Info, &line);
                }
            }
            if tick % METRICS_EVERY == 0 {
                self.write_metrics();
            }
        }
    }

    /// Writes the file of metrics, if there is one. The disk may be full for a while.
    fn write_metrics(&self) {
        if let Some((file, recorder)) = self.metrics.get().zip(self.recorder.as_ref()) {
            let _ = metrics::write(file, &recorder.state());
        }
    }

    fn each(&self, tell: impl Fn(&dyn Observer)) {
        tell(&self.display);
        if let Some(recorder) = &self.recorder {
            tell(recorder.as_ref());
        }
    }
}

impl Observer for Watched {
    fn planned(&self, plan: &Plan) {
        self.each(|observer| observer.planned(plan));
        let Plan { source, found, already, to_do, model, backend, .. } = plan;
        let counted = format!("{source}: {found} pictures, {already} already stored, {to_do} to do");
        self.log.write(Level::Info, &format!("{counted}; model {model} on {backend}"));
    }

    fn progress(&self, progress: &Progress) {
        self.each(|observer| observer.progress(progress));
    }

    fn pace(&self, pace: &Pace) {
        self.each(|observer| observer.pace(pace));
    }

    fn paused(&self, why: Option<&str>) {
        self.each(|observer| observer.paused(why));
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
