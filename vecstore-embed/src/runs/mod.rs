//! What runs leave beside a store for other processes, which watch and stop them.
//!
//! `photos.vecs.runs/` holds three small files per run: a lock that the run holds for as long as it lives,
//! its state, and its log. None of them decides anything. What is done is in the store alone; delete the
//! folder while no run is live, and nothing is lost but the past.
//!
//! A run is live while its lock is held: the kernel gives it back when the process ends, however that
//! happens. There is no process number to be mistaken about, and no heartbeat to be late.

mod log_file;
mod recorder;
mod state;
mod time;
mod total;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::log_file::{LogFile, LogLine, log_files};
pub use self::recorder::Recorder;
pub use self::state::{Phase, RunState};
pub use self::time::{now, utc};
pub use self::total::{Total, add_up};

/// Ended runs whose files are kept.
const KEPT: usize = 20;

/// The runs of one store.
#[derive(Clone, Debug)]
pub struct Runs {
    folder: PathBuf,
}

/// A run that left something.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Known {
    /// What it said last. Of one that was killed: before that.
    #[serde(flatten)]
    pub state: RunState,
    /// Its process is there.
    pub live: bool,
}

impl Known {
    /// It found something in its store, or put something there.
    pub(crate) fn met_a_store(&self) -> bool {
        self.state.stored + self.state.progress.commits > 0
    }
}

impl Runs {
    /// The runs of the store at `path`, whether or not it is there yet.
    pub fn of_store(path: &Path) -> Self {
        // By its real name, so that all runs of a store meet, whatever path they were given.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let beside = || Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?));
        let store = absolute.canonicalize().ok().or_else(beside).unwrap_or_else(|| absolute.clone());
        let mut name = store.file_name().unwrap_or(store.as_os_str()).to_owned();
        name.push(".runs");
        Runs { folder: store.with_file_name(name) }
    }

    /// The folder, which need not be there.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Creates the folder; never the one around the store.
    ///
    /// # Errors
    /// That one is not there, or cannot be written.
    pub fn create_folder(&self) -> io::Result<()> {
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        }
    }

    /// The file whose bytes stand for chunks of work.
    pub(crate) fn claims(&self) -> PathBuf {
        self.folder.join("claims")
    }

    /// The runs that are known, oldest first.
    ///
    /// # Errors
    /// The folder is there and cannot be read.
    pub fn list(&self) -> io::Result<Vec<Known>> {
        let ids = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => ids(entries?)?,
        };
        Ok(ids.into_iter().filter_map(|id| self.known(&id)).collect())
    }

    fn known(&self, id: &str) -> Option<Known> {
        let live = self.is_live(id);
        let state =
            fs::read(self.file(id, "json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        // One that has only begun has said nothing yet.
        let state = state.or_else(|| live.then(RunState::default))?;
        Some(Known { state: RunState { id: id.to_owned(), ..state }, live })
    }

    /// Whether a run of this name is live.
    pub fn is_live(&self, id: &str) -> bool {
        // Shared, so that two processes that look do not take each other for the run.
        let Ok(lock) = File::open(self.file(id, "lock")) else { return false };
        matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
    }

    /// Asks a run to stop; it looks several times a second.
    ///
    /// # Errors
    /// The request cannot be written.
    pub fn ask_to_stop(&self, id: &str) -> io::Result<()> {
        fs::write(self.file(id, "stop"), "")
    }

    /// The log of a run; older parts of it are beside it.
    pub fn log(&self, id: &str) -> PathBuf {
        self.file(id, "log")
    }

    fn file(&self, id: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{id}.{extension}"))
    }

    /// Removes what runs have left that ended long ago.
    fn tidy(&self) -> io::Result<()> {
        let ids = ids(fs::read_dir(&self.folder)?)?;
        let mut ended: Vec<&String> = ids.iter().filter(|id| !self.is_live(id)).collect();
        ended.truncate(ended.len().saturating_sub(KEPT));
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.split_once('.')).map(|(id, _)| id);
            if owner.is_some_and(|owner| ended.iter().any(|id| *id == owner)) {
                // Another run may be tidying at the same moment.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// The names of runs, in the order in which they began.
fn ids(entries: fs::ReadDir) -> io::Result<Vec<String>> {
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        ids.extend(name.to_str().and_then(|name| name.strip_suffix(".lock")).map(str::to_owned));
    }
    ids.sort_by_cached_key(|id| order(id));
    Ok(ids)
}

/// What runs are sorted by: the time they began, then the numbers that follow, as numbers.
fn order(id: &str) -> (Vec<u64>, String) {
    (id.split('-').map(|part| part.parse().unwrap_or(u64::MAX)).collect(), id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Observer, Progress, StopFlag};

    fn runs(dir: &tempfile::TempDir) -> Runs {
        Runs::of_store(&dir.path().join("photos.vecs"))
    }

    #[test]
    fn runs_of_the_same_second_are_sorted_by_number() {
        let dir = tempfile::tempdir().unwrap();
        let begun =
            ["20261121-190000-9999", "20261121-190000-10000", "20261121-190000-10000-2", "20261121-190001-7"];
        for id in begun.iter().rev() {
            fs::write(dir.path().join(format!("{id}.lock")), "").unwrap();
        }
        assert_eq!(ids(fs::read_dir(dir.path()).unwrap()).unwrap(), begun);
    }

    #[test]
    fn a_run_is_live_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let runs = runs(&dir);
        assert!(runs.list().unwrap().is_empty());
        let one = Recorder::begin(&runs, Vec::new(), "photos", StopFlag::default()).unwrap();
        let other = Recorder::begin(&runs, Vec::new(), "photos", StopFlag::default()).unwrap();
        assert_ne!(one.id(), other.id());
        let live = |runs: &Runs| runs.list().unwrap().iter().filter(|known| known.live).count();
        assert_eq!(live(&runs), 2);
        one.end("finished", 0);
        assert_eq!(live(&runs), 1);
        let known = runs.list().unwrap();
        let ended = known.iter().find(|known| known.state.id == one.id()).unwrap();
        assert_eq!((ended.live, ended.state.ended.as_deref()), (false, Some("finished")));
        drop(other);
        // As when its process dies; its thread may be looking at this moment.
        while live(&runs) > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn progress_is_told_and_old_runs_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let runs = runs(&dir);
        for _ in 0..KEPT + 5 {
            let run = Recorder::begin(&runs, Vec::new(), "photos", StopFlag::default()).unwrap();
            run.progress(&Progress { embedded: 7, ..Progress::default() });
            run.end("finished", 0);
        }
        let known = runs.list().unwrap();
        assert!(known.len() <= KEPT + 1, "{}", known.len());
        assert!(known.iter().all(|known| known.state.progress.embedded == 7));
    }
}
