//! What is shown while a run works: one bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use vecstore::one_line;
use vecstore_embed::{Observer, Pace, Plan, Progress, StopFlag};

use super::summary::planned;

/// Time between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How often the stop flag is looked at, so that Ctrl-C is answered.
const TICK: Duration = Duration::from_millis(100);

const BAR: &str = "{bar:30} {msg}";

/// The bar, or the lines. Clones are the same display.
#[derive(Clone)]
pub(crate) struct Display(Arc<Inner>);

struct Inner {
    bar: ProgressBar,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    quiet: bool,
    pace: Option<Pace>,
    progress: Progress,
    paused: bool,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Display {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let terminal = io::stderr().is_terminal();
        Display(Arc::new(Inner { bar, terminal, state: Mutex::default() }))
    }

    /// Begins to show; `quiet` shows nothing but errors.
    pub(crate) fn open(&self, quiet: bool, stop: StopFlag) {
        let (end, ended) = bounded(1);
        let display = self.clone();
        let ticker = thread::spawn(move || {
            let (mut announced, mut line_at) = (false, Instant::now() + LINE_EVERY);
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if stop.is_raised() && !announced {
                    announced = true;
                    display.say("stopping: finishing and saving what is in flight; once more to end at once");
                }
                if Instant::now() >= line_at {
                    line_at += LINE_EVERY;
                    display.line();
                }
            }
        });
        let mut state = self.state();
        state.quiet = quiet;
        state.ticker = Some((end, ticker));
    }

    /// Shows nothing more, and leaves the terminal as it was.
    pub(crate) fn close(&self) {
        let ticker = self.state().ticker.take();
        if let Some((end, ticker)) = ticker {
            let _ = end.send(());
            let _ = ticker.join();
        }
        self.0.bar.finish_and_clear();
    }

    /// Pictures that this run has committed so far.
    pub(crate) fn committed(&self) -> u64 {
        let state = self.state();
        state.progress.embedded + state.progress.rejected
    }

    /// Writes a line to stderr, unless quiet.
    pub(crate) fn say(&self, line: &str) {
        if !self.state().quiet {
            // With stderr closed the run goes on all the same.
            let _ = self.above_bar(|| writeln!(io::stderr(), "{}", one_line(line)));
        }
    }

    /// Writes to stderr while the bar is out of the way.
    pub(crate) fn above_bar<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.bar.suspend(write)
    }

    fn line(&self) {
        let (pace, paused) = {
            let state = self.state();
            (state.pace, state.paused)
        };
        if let Some(pace) = pace.filter(|_| !self.0.terminal) {
            self.say(&line(&pace, paused));
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Display {
    fn planned(&self, plan: &Plan) {
        self.say(&planned(plan, ""));
        self.say(&format!("model {} on {}", plan.model, plan.backend));
        let mut state = self.state();
        state.pace = None;
        state.progress = Progress::default();
        if self.0.terminal && !state.quiet {
            let bar = &self.0.bar;
            bar.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            }
            bar.set_length(plan.to_do);
            bar.reset();
            bar.enable_steady_tick(Duration::from_millis(250));
        }
    }

    fn paused(&self, why: Option<&str>) {
        let mut state = self.state();
        let (news, told) = (why.is_some(), state.paused);
        state.paused = news;
        drop(state);
        match why {
            Some(why) if !told => self.say(&format!("paused: {why}")),
            None if told => self.say("going on"),
            _ => {}
        }
    }

    fn progress(&self, progress: &Progress) {
        self.state().progress = *progress;
        let bar = &self.0.bar;
        bar.set_length(progress.to_do.max(progress.done()));
        bar.set_position(progress.done());
    }

    fn pace(&self, pace: &Pace) {
        let paused = {
            let mut state = self.state();
            state.pace = Some(*pace);
            state.paused
        };
        self.0.bar.set_message(line(pace, paused));
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
