//! What is shown while a run works: one bar on a terminal, or a line now and then; in its log; and to other
//! processes.

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::Level;
use parking_lot::Mutex;
use vecstore::one_line;
use vecstore_embed::runs::{LogFile, Recorder};
use vecstore_embed::{Observer, Pace, Plan, Progress};

use super::summary::planned;

/// All places where a run is shown. Clones are the same display.
#[derive(Clone)]
pub(crate) struct Display(Arc<Inner>);

struct Inner {
    bar: ProgressBar,
    terminal: bool,
    quiet: bool,
    recorder: OnceLock<Arc<Recorder>>,
    log: Mutex<Option<LogFile>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pace: Option<Pace>,
    progress: Progress,
    paused: bool,
}

impl Display {
    /// Shows nothing until a run is planned; if `quiet`, nothing but errors.
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let (terminal, recorder) = (io::stderr().is_terminal(), OnceLock::new());
        let (log, state) = (Mutex::default(), Mutex::default());
        Display(Arc::new(Inner { bar, terminal, quiet, recorder, log, state }))
    }

    /// From now on the run is shown to other processes, too, and has a log.
    pub(crate) fn record(&self, recorder: Arc<Recorder>) {
        *self.0.log.lock() = LogFile::open(&recorder.log()).ok();
        let _ = self.0.recorder.set(recorder);
    }

    /// What shows the run to other processes.
    pub(crate) fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.0.recorder.get()
    }

    /// Writes a line to the log of the run, if it has one.
    pub(crate) fn log(&self, level: Level, line: &str) {
        if let Some(file) = self.0.log.lock().as_mut() {
            // A full disk is no reason to end a run.
            let _ = file.write(level.as_str(), line);
        }
    }

    /// Shows nothing more, and leaves the terminal as it was.
    pub(crate) fn close(&self) {
        self.0.bar.finish_and_clear();
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.0.terminal
    }

    /// Pictures that this run has committed so far.
    pub(crate) fn committed(&self) -> u64 {
        let state = self.0.state.lock();
        state.progress.embedded + state.progress.rejected
    }

    /// Writes a line to stderr, unless quiet.
    pub(crate) fn say(&self, line: &str) {
        if !self.0.quiet {
            // With stderr closed the run goes on all the same.
            let _ = self.above_bar(|| writeln!(io::stderr(), "{}", one_line(line)));
        }
    }

    /// Writes a line to stderr and to the log.
    pub(crate) fn tell(&self, line: &str) {
        self.say(line);
        self.log(Level::Info, line);
    }

    /// Writes to stderr while the bar is out of the way.
    pub(crate) fn above_bar<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.bar.suspend(write)
    }

    /// How far the run is, once that is known.
    pub(crate) fn line(&self) -> Option<String> {
        let state = self.0.state.lock();
        state.pace.map(|pace| line(&pace, state.paused))
    }
}

impl Observer for Display {
    fn planned(&self, plan: &Plan) {
        self.tell(&planned(plan, ""));
        self.tell(&format!("model {} on {}", plan.model, plan.backend));
        self.recorder().inspect(|recorder| recorder.planned(plan));
        *self.0.state.lock() = State::default();
        let bar = &self.0.bar;
        if self.0.terminal && !self.0.quiet {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
                bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            }
            bar.set_length(plan.to_do);
            bar.reset();
            bar.enable_steady_tick(Duration::from_millis(250));
        }
    }

    fn paused(&self, why: Option<&str>) {
        self.recorder().inspect(|recorder| recorder.paused(why));
        let told = mem::replace(&mut self.0.state.lock().paused, why.is_some());
        match why {
            Some(why) if !told => self.say(&format!("paused: {why}")),
            None if told => self.say("going on"),
            _ => {}
        }
    }

    fn progress(&self, progress: &Progress) {
        self.recorder().inspect(|recorder| recorder.progress(progress));
        self.0.state.lock().progress = *progress;
        let bar = &self.0.bar;
        bar.set_length(progress.to_do.max(progress.done()));
        bar.set_position(progress.done());
    }

    fn pace(&self, pace: &Pace) {
        self.recorder().inspect(|recorder| recorder.pace(pace));
        self.0.state.lock().pace = Some(*pace);
        self.0.bar.set_message(self.line().unwrap_or_default());
    }
}

/// `  2 rejected  1 unread`, or nothing.
fn asides(progress: &Progress) -> String {
    let aside = |count: u64, what: &str| {
        if count > 0 { format!("  {} {what}", HumanCount(count)) } else { String::new() }
    };
    aside(progress.rejected, "rejected") + &aside(progress.unread, "unread")
}

/// How far, how fast, how long, what the limit is, and what went wrong:
/// `1,234/9,999  98.2/s (97.0/s since the start)  2 minutes left  limit: the model (busy 99 %)  2 rejected`.
/// While a run is paused, how long it takes is not known, and no stage is the limit.
fn line(pace: &Pace, paused: bool) -> String {
    let progress = &pace.progress;
    let mut line =
        format!("{}/{}  ", HumanCount(progress.done()), HumanCount(progress.to_do.max(progress.done())));
    if paused {
        return line + "paused" + &asides(progress);
    }
    line += &format!("{:.1}/s", pace.rate);
    if pace.elapsed > Duration::from_secs(60) {
        line += &format!(" ({:.1}/s since the start)", pace.rate_since_start);
    }
    let unknown = || "  time left unknown".to_owned();
    line += &pace.left.map_or_else(unknown, |left| format!("  {} left", HumanDuration(left)));
    if let Some(limit) = pace.limit() {
        line += &format!("  limit: {limit} (busy {:.0} %)", pace.stages.of(limit).busy() * 100.0);
    }
    line + &asides(progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_run_promises_no_time() {
        let mut pace = Pace::default();
        (pace.progress.to_do, pace.progress.embedded, pace.progress.rejected) = (3000, 896, 1);
        assert_eq!(line(&pace, true), "897/3,000  paused  1 rejected");
    }

    #[test]
    fn a_line_tells_the_rates_the_time_left_and_the_limit() {
        let seconds = Duration::from_secs;
        let mut pace = Pace::default();
        (pace.progress.to_do, pace.progress.embedded, pace.rate) = (10_000, 100, 10.0);
        assert_eq!(line(&pace, false), "100/10,000  10.0/s  time left unknown");
        (pace.elapsed, pace.rate_since_start, pace.left) = (seconds(61), 9.0, Some(seconds(990)));
        (pace.stages.infer.working, pace.stages.infer.waited_for_input) = (seconds(9), seconds(1));
        pace.progress.unread = 1;
        let told = "  17 minutes left  limit: the model (busy 90 %)  1 unread";
        assert_eq!(line(&pace, false), format!("101/10,000  10.0/s (9.0/s since the start){told}"));
    }
}
