//! A run among others: its files beside the store, its log, and its end where stopping takes too long.

use std::env;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use vecstore_embed::runs::{LogFile, Recorder, Runs};
use vecstore_embed::{Observer, Pace, Plan, Progress, StopFlag, Summary};

use super::EXIT_RUN_AGAIN;
use super::display::Display;
use super::logging::RunLog;
use super::metrics::{self, Metrics};
use super::output::Failure;
use super::run::{RunArgs, exit_code};
use super::stop;
use super::summary::busy;

/// A run that was asked to stop has this long to finish what is in flight: `stop` waits for 20 seconds, and
/// schedulers kill after 30.
const PATIENCE: Duration = Duration::from_secs(18);
const _: () = assert!(PATIENCE.as_secs() < stop::TIMEOUT, "`stop` sees the end of it");

/// Time between lines about progress in the log.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// What a run keeps while it is live. Clones are the same.
#[derive(Clone)]
pub(super) struct Registration {
    recorder: Option<Arc<Recorder>>,
    log: RunLog,
    stop: StopFlag,
    /// The log says that it was asked to stop.
    told: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
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
            .ok()
            .map(Arc::new);
        if let Some(recorder) = &recorder
            && let Ok(file) = LogFile::open(&recorder.log())
        {
            log.open(file);
            log.write(Level::Info, &format!("run {} begins, process {}", recorder.id(), process::id()));
        }
        let registration =
            Registration { recorder, log: log.clone(), stop, told: Arc::default(), ended: Arc::default() };
        let (watched, display) = (registration.clone(), display.clone());
        thread::spawn(move || watched.watch(&display));
        registration
    }

    /// Writes to the log, once, that the run was asked to stop. Says whether it was.
    fn tell_if_asked(&self) -> bool {
        let asked = self.stop.is_raised();
        if asked && !self.told.swap(true, Ordering::SeqCst) {
            self.log.write(Level::Info, "asked to stop: finishing and saving what is in flight");
        }
        asked
    }

    /// Writes to the log how far the run is, and ends it when it was asked to stop and takes too long. What
    /// is committed stays; what is not is missing, and is found again.
    fn watch(&self, display: &Display) {
        let (mut asked, mut line_at) = (None, Instant::now() + LINE_EVERY);
        while !self.ended.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(100));
            if self.tell_if_asked() && asked.is_none() {
                asked = Some(Instant::now());
            }
            if asked.is_some_and(|asked| asked.elapsed() >= PATIENCE) && !self.ended.load(Ordering::SeqCst) {
                let text = "what is in flight takes too long: ending without it; what is stored stays";
                display.say(text);
                self.log.write(Level::Warn, text);
                if let Some(recorder) = &self.recorder {
                    recorder.end("stopped", EXIT_RUN_AGAIN);
                }
                end_at_once(EXIT_RUN_AGAIN);
            }
            if let Some(recorder) = self.recorder.as_ref().filter(|_| Instant::now() >= line_at) {
                line_at += LINE_EVERY;
                let state = recorder.state();
                let (done, to_do) = (state.progress.done(), state.progress.to_do);
                let line = format!("{}: {done} of {to_do}, {:.1}/s", state.phase, state.rate);
                self.log.write(Level::Info, &line);
            }
        }
    }

    /// What is told how the run goes: the display, and the files for other processes.
    pub(super) fn observer(&self, display: &Display) -> Arc<dyn Observer> {
        Arc::new(Both { display: display.clone(), run: self.clone() })
    }

    /// Gives numbers to Prometheus, if asked to.
    pub(super) fn metrics(&self, place: Option<&str>) -> Result<Option<Metrics>, Failure> {
        let Some(place) = place else { return Ok(None) };
        let recorder = self.recorder.clone().ok_or_else(|| {
            let error = io::Error::other("the folder around the store cannot be written");
            Failure::Metrics(place.to_owned(), error)
        })?;
        metrics::start(place, recorder).map(Some)
    }

    /// Tells how the run ended.
    pub(super) fn leave(&self, outcome: &Result<Summary, Failure>) {
        self.ended.store(true, Ordering::SeqCst);
        // It may have ended before the next look.
        self.tell_if_asked();
        let (how, code) = match outcome {
            Ok(summary) => (summary.ended.to_string(), exit_code(summary)),
            Err(error) => (error.to_string(), error.exit_code()),
        };
        match outcome {
            Ok(summary) => {
                if summary.embedded > 0 {
                    self.log.write(Level::Info, &format!("busy: {}", busy(&summary.stages)));
                }
                let Summary { embedded, rejected, already, left, .. } = summary;
                let (unread, seconds) = (summary.unread.count(), summary.elapsed.as_secs_f64());
                let done = format!("{embedded} embedded, {rejected} rejected, {already} already stored");
                let rest = format!("{unread} could not be read, {left} left; {seconds:.1} s");
                self.log.write(Level::Info, &format!("{how}: {done}, {rest}"));
            }
            Err(_) => self.log.write(Level::Error, &how),
        }
        if let Some(recorder) = &self.recorder {
            recorder.end(&how, code);
        }
    }
}

struct Both {
    display: Display,
    run: Registration,
}

impl Both {
    fn each(&self, tell: impl Fn(&dyn Observer)) {
        tell(&self.display);
        if let Some(recorder) = &self.run.recorder {
            tell(recorder.as_ref());
        }
    }
}

impl Observer for Both {
    fn planned(&self, plan: &Plan) {
        self.each(|observer| observer.planned(plan));
        let Plan { found, already, to_do, model, backend, .. } = plan;
        let folder = &plan.source;
        let counted = format!("{folder}: {found} pictures, {already} already stored, {to_do} to do");
        self.run.log.write(Level::Info, &format!("{counted}; model {model} on {backend}"));
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
