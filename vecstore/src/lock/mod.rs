//! Lock files: an advisory lock between processes, with a small record.
//!
//! The operating system's lock ends with the process that holds it. The record is written in place and never
//! flushed, because it only has to survive the death of a process. After a power cut the record may be void:
//! absent, or with a wrong checksum.

mod lanes;
mod patience;
mod record;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use patience::{Patience, SLEEP, TURN_SLEEP};
use record::{Record, host_name, now_secs};

pub(crate) use lanes::{Lanes, open_large, open_small};
pub(crate) use patience::{Punctual, Timeout, in_slices};
pub(crate) use record::{RECORD_LEN, Span, is_record};
pub(crate) use watch::Watch;

use crate::base::sync::nap;
use crate::base::{Bug, Error, IoContext, Result, is_no_space};
use crate::vfs::{LockFile, Vfs};

/// File of the commit lock.
pub(crate) const LOCK: &str = "LOCK";
/// File of the turnstile before the commit lock.
pub(crate) const LOCK_TURN: &str = "LOCK.turn";
/// File of the manifest lock.
pub(crate) const LOCK_MANIFEST: &str = "LOCK.manifest";
/// File of the backup lock: one backup at a time.
pub(crate) const LOCK_BACKUP: &str = "LOCK.backup";

/// Runs `work` under the manifest lock. The second argument of `work` is true if the name of MANIFEST is in
/// doubt: see [`Lock::acquire_named`].
pub(crate) fn hold_manifest<T>(
    vfs: &dyn Vfs,
    dir: &Path,
    timeout: impl Into<Timeout>,
    work: impl FnOnce(&mut Lock, bool) -> Result<T>,
) -> Result<T> {
    let mut lock = Lock::open(vfs, &dir.join(LOCK_MANIFEST), "manifest")?;
    let in_doubt = lock.acquire_named(timeout)?;
    let result = work(&mut lock, in_doubt);
    lock.release();
    result
}

/// Unlocks a file. A failure is tried once more: a lock that stays taken blocks all waiters until its handle
/// is dropped.
fn unlock(file: &mut dyn LockFile) -> std::io::Result<()> {
    file.unlock().or_else(|_| file.unlock())
}

/// Fails if the lock file is no longer the file at `path`: the store was moved, removed or replaced.
fn check_place(file: &dyn LockFile, path: &Path) -> Result<()> {
    let moved = |found| Err(Error::Moved { path: path.to_owned(), found });
    match file.is_at(path) {
        Ok(true) => Ok(()),
        _ if Bug::LockAnything.is_on() => Ok(()),
        Ok(false) => moved("the store, or its lock file, was replaced"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            moved("the store, or its lock file, was moved or removed")
        }
        Err(error) => Err(Error::io(path, "look at the lock file", error)),
    }
}

/// A lock file of a store, and the record as this holder last read or wrote it.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    what: &'static str,
    file: Box<dyn LockFile>,
    /// File of the turnstile, if the lock has one; the waiter that is next holds it.
    turn: Option<Box<dyn LockFile>>,
    record: Record,
    /// True if a holder may write a claim into the record: see `lanes.rs`.
    has_claims: bool,
}

/// Contents of the record at the moment the lock was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The counter; `None` if the record was void.
    pub counter: Option<u64>,
    /// The suspect mark; 0: none.
    pub suspect: u64,
    /// True if the record still named a holder: the holder died, or failed to write the record on release.
    pub died: bool,
}

impl Lock {
    /// Opens the lock file; creates it if it is missing, as in a backup that was copied without it.
    pub fn open(vfs: &dyn Vfs, path: &Path, what: &'static str) -> Result<Self> {
        let file = vfs.open_lock(path, true).at(path, "open the lock file")?;
        Ok(Lock { path: path.to_owned(), what, file, turn: None, record: Record::void(), has_claims: false })
    }

    /// Opens a lock with a turnstile: a second lock that each waiter takes first, and releases once it has
    /// this lock.
    ///
    /// Without a turnstile, a process that commits without pause takes the lock again microseconds after each
    /// release, and waiters, which only look now and then, hardly ever find the lock free.
    pub fn open_fair(vfs: &dyn Vfs, path: &Path, turnstile: &Path, what: &'static str) -> Result<Self> {
        let turn = vfs.open_lock(turnstile, true).at(turnstile, "open the lock file")?;
        Ok(Lock { turn: Some(turn), ..Self::open(vfs, path, what)? })
    }

    /// Takes the lock; waits at most `timeout`.
    pub fn acquire(&mut self, timeout: impl Into<Timeout>) -> Result<Found> {
        self.acquire_after(timeout, |_| ())
    }

    /// Takes the lock as [`Lock::acquire`] does. `next` runs as soon as this waiter has the turn, usually
    /// while another process still holds the lock.
    pub fn acquire_after(&mut self, timeout: impl Into<Timeout>, next: impl FnOnce(&Self)) -> Result<Found> {
        let (start, timeout) = (Instant::now(), timeout.into());
        let mut patience = Patience { start, timeout, sleep: SLEEP.0, since: start, punctual: None };
        while let Some(turn) = self.turn.as_mut()
            && !turn.try_lock().at(&self.path, "take a turn at the lock")?
        {
            self.wait(&mut patience, TURN_SLEEP.1)?;
        }
        next(self);
        // A single waiter has the turn, so it may look very often.
        let longest = if self.turn.is_some() { TURN_SLEEP.0 } else { SLEEP.1 };
        (patience.sleep, patience.since) = (SLEEP.0, Instant::now());
        let found = loop {
            if let Some(found) = self.try_acquire().transpose() {
                break found;
            }
            if let Err(error) = self.wait(&mut patience, longest) {
                break Err(error);
            }
        };
        if let Some(turn) = self.turn.as_mut()
            && let Err(error) = unlock(&mut **turn)
        {
            log::warn!("{}: cannot give the turn back: {error}", self.path.display());
        }
        found
    }

    /// Takes a lock whose holders rename a file and flush its directory. Returns true if the file's name is
    /// in doubt: a flush failed, or the last holder died. The doubt stays until [`Lock::clear_suspect`].
    pub fn acquire_named(&mut self, timeout: impl Into<Timeout>) -> Result<bool> {
        let found = self.acquire(timeout)?;
        if found.died {
            self.mark_suspect(1);
        }
        Ok(found.died || found.suspect != 0)
    }

    /// Runs `work` under the lock.
    pub fn hold<T>(
        &mut self,
        timeout: impl Into<Timeout>,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.acquire(timeout)?;
        let result = work(self);
        self.release();
        result
    }

    /// Sleeps once. When the timeout has passed, fails with the holder of the lock.
    fn wait(&self, patience: &mut Patience, longest: Duration) -> Result<()> {
        let waited = patience.start.elapsed();
        let left = patience.timeout.left(waited);
        if !left.is_zero() {
            patience.punctual.get_or_insert_with(Punctual::new);
            // A commit takes about 1 ms. After a wait of 20 ms the lock is not about to be released: look
            // less often.
            let is_long = patience.since.elapsed() > Duration::from_millis(20);
            let longest = if is_long { SLEEP.1 } else { longest };
            nap(patience.sleep.min(left));
            patience.sleep = (patience.sleep * 2).min(longest);
            return Ok(());
        }
        let holder = self.read_record()?.unwrap_or_else(Record::void).holder();
        Err(Error::Busy { path: self.path.clone(), lock: self.what, holder, waited_secs: waited.as_secs() })
    }

    /// Takes the lock if it is free, regardless of the turnstile, and writes the new holder into the record.
    pub fn try_acquire(&mut self) -> Result<Option<Found>> {
        if !self.file.try_lock().at(&self.path, "lock")? {
            return Ok(None);
        }
        // Unlock if the record cannot be written: after the error the caller has nothing to release.
        let found = self.check_place().and_then(|()| self.note_holder());
        found.map(Some).inspect_err(|_| _ = unlock(&mut *self.file))
    }

    /// Fails if the lock file is no longer at its path: a lock on it would not exclude openers of that path.
    pub fn check_place(&self) -> Result<()> {
        check_place(&*self.file, &self.path)
    }

    /// Fails if the file system has no locks: at open, rather than at the first append after hours of work.
    pub fn probe(&mut self) -> Result<()> {
        if self.file.try_lock().at(&self.path, "lock")? {
            unlock(&mut *self.file).at(&self.path, "unlock")?;
        }
        Ok(())
    }

    fn read_record(&self) -> Result<Option<Record>> {
        Record::read(&*self.file).at(&self.path, "read the lock's record")
    }

    /// Reads the record, and writes it back with this process as the holder.
    fn note_holder(&mut self) -> Result<Found> {
        let read = self.read_record()?;
        let found = Found {
            counter: read.map(|record| record.counter),
            suspect: read.map_or(0, |record| record.suspect),
            died: read.is_some_and(|record| record.pid != 0),
        };
        self.record = read.map_or_else(Record::fresh, Ok)?;
        self.drop_claim();
        let (pid, since, host) = (std::process::id(), now_secs(), host_name());
        self.record = Record { pid, since, host, ..self.record };
        self.write().map(|()| found)
    }

    pub fn write(&mut self) -> Result<()> {
        self.record.crc = self.record.computed_crc();
        match self.file.write_record(bytemuck::bytes_of(&self.record)) {
            Err(source) if is_no_space(&source) => {
                let (path, free) = (self.path.clone(), self.file.free_space());
                Err(Error::NoSpace {
                    path,
                    op: "write the lock's record",
                    needed: RECORD_LEN as u64,
                    free,
                    cause: Arc::new(source),
                })
            }
            written => written.at(&self.path, "write the lock's record"),
        }
    }

    /// Writes a record without a holder into a new lock file, so that later writes need no disk space.
    pub fn prepare(&mut self) -> Result<()> {
        self.record = Record::fresh()?;
        self.write()
    }

    /// The counter as this holder knows it.
    pub fn counter(&self) -> u64 {
        self.record.counter
    }

    /// Raises the counter for a change that is no plain commit: handles that see it list the directory.
    /// [`Lock::release`] writes the record.
    pub fn raise(&mut self) {
        self.raise_by(Span::default());
    }

    /// Raises the counter for a change that is nothing but a new segment of these commits, generation 0.
    pub fn raise_by(&mut self, span: Span) {
        self.record.counter = self.record.counter.wrapping_add(1);
        self.record.spans.rotate_left(1);
        self.record.set_newest(span);
    }

    /// Marks this commit and all later ones as suspect; a mark at an earlier commit stays.
    pub fn mark_suspect(&mut self, commit: u64) {
        if self.record.suspect == 0 || commit < self.record.suspect {
            self.record.suspect = commit;
        }
    }

    /// Clears the suspect mark.
    pub fn clear_suspect(&mut self) {
        self.record.suspect = 0;
    }

    /// Commits since the counter was `then`, from the record of this holder: see [`Record::since`].
    pub fn since(&self, then: u64) -> Option<Vec<Span>> {
        self.record.since(then)
    }

    /// Commits since the counter was `then`, from the record as it is on disk now; needs no lock.
    pub fn peek(&self, then: u64) -> Option<Vec<Span>> {
        self.read_record().ok()??.since(then)
    }

    /// Releases the lock, and ends its claim. Errors are only logged: the lock ends with its handle at the
    /// latest, and after a failed write the record still names a holder, so the next one lists the directory.
    ///
    /// Returns whether the record was written. If not, the file has an older counter than this holder, and a
    /// later holder may raise it to the same number for other commits.
    pub fn release(&mut self) -> bool {
        self.drop_claim();
        self.record.pid = 0;
        let written = self.write();
        let unlocked = unlock(&mut *self.file).at(&self.path, "unlock");
        let told = written.is_ok();
        if let Err(error) = written.and(unlocked) {
            log::warn!("{error}");
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::RealFs;

    fn lock(dir: &Path) -> Lock {
        Lock::open(&RealFs, &dir.join("LOCK"), "commit").unwrap()
    }

    #[test]
    fn busy_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = lock(dir.path());
        first.acquire(Duration::ZERO).unwrap();
        let error = lock(dir.path()).acquire(Duration::from_millis(5)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        first.release();
        assert!(lock(dir.path()).acquire(Duration::ZERO).is_ok());
    }

    #[test]
    fn the_counter_is_seen_and_a_dead_holder_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = lock(dir.path());
        assert_eq!(first.acquire(Duration::ZERO).unwrap().counter, None, "void at first");
        let watch = Watch::open(&RealFs, &dir.path().join("LOCK"));
        let before = watch.counter().unwrap();
        first.raise();
        first.mark_suspect(7);
        first.release();
        assert_eq!(watch.counter(), Some(before + 1));
        assert_eq!(watch.record().unwrap().suspect, 7);
        let mut second = lock(dir.path());
        let found = second.acquire(Duration::ZERO).unwrap();
        assert!(!found.died);
        assert_eq!((found.counter, found.suspect), (Some(before + 1), 7));
        drop(second); // as if its process were killed
        assert!(lock(dir.path()).acquire(Duration::ZERO).unwrap().died);
    }

    /// A lock file that calls `refused` each time the lock is found taken.
    struct Asked<F> {
        file: Box<dyn LockFile>,
        refused: F,
    }

    impl<F: FnMut() + Send> LockFile for Asked<F> {
        fn try_lock(&mut self) -> std::io::Result<bool> {
            let locked = self.file.try_lock()?;
            if !locked {
                (self.refused)();
            }
            Ok(locked)
        }
        fn unlock(&mut self) -> std::io::Result<()> {
            self.file.unlock()
        }
        fn read_record(&self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.file.read_record(buf)
        }
        fn write_record(&mut self, record: &[u8]) -> std::io::Result<()> {
            self.file.write_record(record)
        }
    }

    fn on_refusal(dir: &Path, lock: &mut Lock, refused: impl FnMut() + Send + 'static) {
        let file = RealFs.open_lock(&dir.join("LOCK"), false).unwrap();
        lock.file = Box::new(Asked { file, refused });
    }

    fn fair(dir: &Path) -> Lock {
        Lock::open_fair(&RealFs, &dir.join("LOCK"), &dir.join("TURN"), "commit").unwrap()
    }

    #[test]
    fn a_waiter_gets_a_turn() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, mut second) = (fair(dir.path()), fair(dir.path()));
        first.acquire(Duration::ZERO).unwrap();
        let first = Arc::new(std::sync::Mutex::new(first));
        let theirs = Arc::clone(&first);
        // The waiter has the turn and found the lock taken. The holder releases it, and wants it at once.
        on_refusal(dir.path(), &mut second, move || {
            let mut first = theirs.lock().unwrap();
            first.release();
            assert!(first.acquire(Duration::ZERO).is_err(), "another handle waits");
        });
        second.acquire(Duration::from_secs(300)).unwrap();
        second.release();
        first.lock().unwrap().acquire(Duration::ZERO).expect("the turn is given back");
    }

    #[test]
    fn ending_the_timeout_ends_the_wait() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, mut second) = (fair(dir.path()), fair(dir.path()));
        first.acquire(Duration::ZERO).unwrap();
        let timeout = Timeout::from(Duration::from_secs(1_000_000));
        let theirs = timeout.clone();
        on_refusal(dir.path(), &mut second, move || theirs.end());
        assert!(matches!(second.acquire(&timeout), Err(Error::Busy { .. })));
    }

    #[test]
    fn a_torn_record_is_void() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = lock(dir.path());
        first.acquire(Duration::ZERO).unwrap();
        first.release();
        let path = dir.path().join("LOCK");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Watch::open(&RealFs, &path).counter(), None);
        assert_eq!(lock(dir.path()).acquire(Duration::ZERO).unwrap().counter, None);
    }
}
