//! Writes down what a run does, while it does it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{io, process, thread};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::Runs;
use super::state::{Phase, RunState};
use super::time::now;
use crate::base::StopFlag;
use crate::pipeline::report::{Observer, Pace, Plan, Progress};

/// How often a request to stop is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// Seconds between writes of the state.
const WRITE: f64 = 1.0;

/// Keeps the files of one run: holds its lock, writes its state, and listens for requests to stop.
#[derive(Debug)]
pub struct Recorder {
    runs: Runs,
    id: String,
    stop: StopFlag,
    state: Mutex<RunState>,
    /// Held until the end. The state is written by the thread that has this mutex.
    lock: Mutex<Option<File>>,
}

impl Recorder {
    /// Begins a run: from now on it is live, until [`Recorder::end`] or until this is dropped. A request to
    /// stop raises `stop`.
    ///
    /// # Errors
    /// The folder beside the store cannot be written.
    pub fn begin(runs: &Runs, command: Vec<String>, source: &str, stop: StopFlag) -> io::Result<Arc<Self>> {
        runs.create_folder()?;
        let (id, lock) = claim_name(runs)?;
        runs.tidy()?;
        let (pid, began, source) = (process::id(), now(), source.to_owned());
        let state = RunState { id: id.clone(), pid, command, source, began, ..RunState::default() };
        let (state, lock) = (Mutex::new(state), Mutex::new(Some(lock)));
        let recorder = Arc::new(Recorder { runs: runs.clone(), id, stop, state, lock });
        recorder.write()?;
        let ticking = Arc::downgrade(&recorder);
        thread::spawn(move || {
            while let Some(recorder) = ticking.upgrade() {
                recorder.tick();
                drop(recorder);
                thread::sleep(LOOK);
            }
        });
        Ok(recorder)
    }

    /// The run's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its log belongs.
    pub fn log(&self) -> PathBuf {
        self.runs.log(&self.id)
    }

    /// The state as it is.
    pub fn state(&self) -> RunState {
        self.state.lock().clone()
    }

    /// The run has ended, like this.
    pub fn end(&self, how: &str, exit: u8) {
        {
            let mut state = self.state.lock();
            state.phase = Phase::Ended;
            state.ended = Some(how.to_owned());
            state.exit = Some(exit);
        }
        self.written();
        let _ = fs::remove_file(self.runs.file(&self.id, "stop"));
        // Last, so that a process that finds it live no more can read how it ended.
        *self.lock.lock() = None;
    }

    /// Raises the flag where the run was asked to stop, and writes the state now and then.
    fn tick(&self) {
        if self.runs.file(&self.id, "stop").exists() {
            self.stop.raise();
        }
        let mut state = self.state.lock();
        if state.phase != Phase::Ended && (now() - state.updated).abs() >= WRITE {
            if self.stop.is_raised() {
                state.phase = Phase::Stopping;
            }
            drop(state);
            self.written();
        }
    }

    /// A state that cannot be written (a full disk) is no reason to end a run.
    fn written(&self) {
        if let Err(error) = self.write() {
            log::debug!("{}: {error}", self.runs.folder.display());
        }
    }

    fn write(&self) -> io::Result<()> {
        // One thread at a time: what is written last is the newest, and after the end nothing is.
        let lock = self.lock.lock();
        if lock.is_none() {
            return Ok(());
        }
        let state = {
            let mut state = self.state.lock();
            state.updated = now();
            state.clone()
        };
        let (new, place) = (self.runs.file(&self.id, "json.new"), self.runs.file(&self.id, "json"));
        fs::write(&new, serde_json::to_vec(&state)?)?;
        fs::rename(new, place)
    }
}

/// A name that no other run has, and its lock.
fn claim_name(runs: &Runs) -> io::Result<(String, File)> {
    // 20261121-190000-4711, in UTC: in the order of time when sorted, and short enough to type.
    let name = format!("{}-{}", Timestamp::now().strftime("%Y%m%d-%H%M%S"), process::id());
    let mut more = 0;
    loop {
        let id = if more == 0 { name.clone() } else { format!("{name}-{more}") };
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

impl Observer for Recorder {
    fn planned(&self, plan: &Plan) {
        let mut state = self.state.lock();
        state.phase = Phase::Working;
        state.planned = Some(now());
        (state.found, state.already, state.stored) = (plan.found, plan.already, plan.stored);
        state.model = format!("{} on {}", plan.model, plan.backend);
        state.progress = Progress { to_do: plan.to_do, ..Progress::default() };
        drop(state);
        self.written();
    }

    fn progress(&self, progress: &Progress) {
        self.state.lock().progress = *progress;
    }

    fn pace(&self, pace: &Pace) {
        let limit = pace.limit().map(|stage| {
            let busy = pace.stages.of(stage).busy() * 100.0;
            format!("{stage} (busy {busy:.0} %)")
        });
        let mut state = self.state.lock();
        (state.rate, state.limit) = (pace.rate, limit.unwrap_or_default());
    }

    fn paused(&self, why: Option<&str>) {
        let mut state = self.state.lock();
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
        one.tick();
        assert!(!asked.is_raised());
        runs.ask_to_stop(one.id()).unwrap();
        one.tick();
        other.tick();
        assert!(asked.is_raised() && !unasked.is_raised());
    }
}
