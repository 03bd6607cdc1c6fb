//! Writes down what a run does, while it does it.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::Runs;
use super::state::{Phase, RunState};
use super::time::{now, utc};
use crate::base::StopFlag;
use crate::pipeline::report::Pace;
use crate::pipeline::report::{Observer, Plan, Progress};

/// How often a request to stop is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// How often the state is written.
const WRITE: Duration = Duration::from_secs(1);

/// Keeps the files of one run: holds its lock, writes its state, and listens for requests to stop.
#[derive(Debug)]
pub struct Recorder {
    inner: Arc<Inner>,
    ticker: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

#[derive(Debug)]
struct Inner {
    runs: Runs,
    id: String,
    /// Held until the end.
    lock: Mutex<Option<File>>,
    state: Mutex<RunState>,
}

impl Recorder {
    /// Begins a run: from now on it is live. A request to stop raises `stop`.
    ///
    /// # Errors
    /// The folder beside the store cannot be written.
    pub fn begin(runs: &Runs, command: Vec<String>, source: &str, stop: StopFlag) -> io::Result<Self> {
        runs.create_folder()?;
        let (id, lock) = claim_name(runs)?;
        runs.tidy()?;
        let state = RunState {
            id: id.clone(),
            pid: process::id(),
            command,
            source: source.to_owned(),
            began: now(),
            ..RunState::default()
        };
        let (lock, state) = (Mutex::new(Some(lock)), Mutex::new(state));
        let inner = Arc::new(Inner { runs: runs.clone(), id, lock, state });
        inner.write()?;
        let (end, ended) = bounded(1);
        let ticking = Arc::clone(&inner);
        let ticker = thread::spawn(move || {
            let mut written = Instant::now();
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                ticking.look(&stop);
                if written.elapsed() >= WRITE {
                    written = Instant::now();
                    ticking.tick(stop.is_raised());
                }
            }
        });
        Ok(Recorder { inner, ticker: Mutex::new(Some((end, ticker))) })
    }

    /// The run's name.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Where its log belongs.
    pub fn log(&self) -> PathBuf {
        self.inner.runs.log(&self.inner.id)
    }

    /// The state as it is.
    pub fn state(&self) -> RunState {
        self.inner.watched().clone()
    }

    /// The run has ended, like this.
    pub fn end(&self, how: &str, exit: u8) {
        self.stop_ticking();
        self.inner.tick(false);
        {
            let mut state = self.inner.watched();
            state.phase = Phase::Ended;
            state.ended = Some(how.to_owned());
            state.exit = Some(exit);
        }
        self.inner.written();
        let _ = fs::remove_file(self.inner.runs.file(&self.inner.id, "stop"));
        // Last, so that a process that finds it live no more can read how it ended.
        *self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn stop_ticking(&self) {
        let ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((end, ticker)) = ticker {
            let _ = end.send(());
            let _ = ticker.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop_ticking();
    }
}

/// A name that no other run has, and its lock.
fn claim_name(runs: &Runs) -> io::Result<(String, File)> {
    // 20261121-190000-4711: in the order of time when sorted, and short enough to type.
    let moment: String = utc(now()).chars().filter(char::is_ascii_digit).take(14).collect();
    let (day, time) = moment.split_at_checked(8).unwrap_or_default();
    let mut more = 0;
    loop {
        let again = if more == 0 { String::new() } else { format!("-{more}") };
        let id = format!("{day}-{time}-{}{again}", process::id());
        match File::options().write(true).create_new(true).open(runs.file(&id, "lock")) {
            Ok(lock) => {
                // Only a process that looks whether it is held may have it for a moment.
                lock.lock()?;
                return Ok((id, lock));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => more += 1,
            Err(error) => return Err(error),
        }
    }
}

impl Inner {
    fn watched(&self) -> MutexGuard<'_, RunState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the flag where the run was asked to stop.
    fn look(&self, stop: &StopFlag) {
        if self.runs.file(&self.id, "stop").exists() {
            stop.raise();
        }
    }

    fn tick(&self, stopping: bool) {
        if stopping {
            self.watched().phase = Phase::Stopping;
        }
        self.written();
    }

    /// A state that cannot be written (a full disk) is no reason to end a run.
    fn written(&self) {
        if let Err(error) = self.write() {
            log::debug!("{}: {error}", self.runs.folder.display());
        }
    }

    fn write(&self) -> io::Result<()> {
        let state = {
            let mut state = self.watched();
            state.updated = now();
            state.clone()
        };
        let (new, place) = (self.runs.file(&self.id, "json.new"), self.runs.file(&self.id, "json"));
        fs::write(&new, serde_json::to_vec(&state)?)?;
        fs::rename(new, place)
    }
}

impl Observer for Recorder {
    fn planned(&self, plan: &Plan) {
        let mut state = self.inner.watched();
        state.phase = Phase::Working;
        state.planned = Some(now());
        (state.found, state.already, state.stored) = (plan.found, plan.already, plan.stored);
        state.model = format!("{} on {}", plan.model, plan.backend);
        state.progress = Progress { to_do: plan.to_do, ..Progress::default() };
        drop(state);
        self.inner.written();
    }

    fn progress(&self, progress: &Progress) {
        self.inner.watched().progress = *progress;
    }

    fn pace(&self, pace: &Pace) {
        let limit = pace.limit().map(|stage| {
            let busy = pace.stages.of(stage).busy() * 100.0;
            format!("{stage} (busy {busy:.0} %)")
        });
        let mut state = self.inner.watched();
        state.rate = pace.rate;
        state.limit = limit.unwrap_or_default();
    }

    fn paused(&self, why: Option<&str>) {
        let mut state = self.inner.watched();
        state.phase = if why.is_some() { Phase::Paused } else { Phase::Working };
        state.note = why.unwrap_or_default().to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_to_stop_reaches_the_run_it_is_for() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::of_store(&dir.path().join("photos.vecs"));
        let begin = || {
            let stop = StopFlag::default();
            (Recorder::begin(&runs, Vec::new(), "photos", stop.clone()).unwrap(), stop)
        };
        let ((one, asked), (other, unasked)) = (begin(), begin());
        one.inner.look(&asked);
        assert!(!asked.is_raised());
        runs.ask_to_stop(one.id()).unwrap();
        one.inner.look(&asked);
        other.inner.look(&unasked);
        assert!(asked.is_raised() && !unasked.is_raised());
    }
}
