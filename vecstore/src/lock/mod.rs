//! LOCK: the advisory lock between processes, and the small record that goes with it.
//!
//! The lock itself is the operating system's (it ends with the process that holds it). The record is written
//! in place and never flushed: it only has to survive the death of a process. After a power cut it may be
//! void, which its checksum, or its absence, says.

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

/// The commit lock's file.
pub(crate) const LOCK: &str = "LOCK";
/// The turnstile before the commit lock.
pub(crate) const LOCK_TURN: &str = "LOCK.turn";
/// The manifest lock's file.
pub(crate) const LOCK_MANIFEST: &str = "LOCK.manifest";
/// The backup lock's file: one backup at a time.
pub(crate) const LOCK_BACKUP: &str = "LOCK.backup";

/// Runs `work` under the manifest lock. `work` is told whether the manifest's name is in doubt: see
/// [`Lock::acquire_named`].
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

/// Gives a lock back; asks twice, because a lock kept for nothing holds up all waiters until its handle ends.
fn unlock(file: &mut dyn LockFile) -> std::io::Result<()> {
    file.unlock().or_else(|_| file.unlock())
}

/// Refuses a file that is no longer at its path: the store there is another one.
fn check_place(file: &dyn LockFile, path: &Path) -> Result<()> {
    let moved = |found| Err(Error::Moved { path: path.to_owned(), found });
    match file.is_at(path) {
        Ok(true) => Ok(()),
        _ if Bug::LockAnything.is_on() => Ok(()),
        Ok(false) => moved("the store was replaced, or its lock file was"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            moved("the store was moved or removed, or its lock file was")
        }
        Err(error) => Err(Error::io(path, "look at the lock file", error)),
    }
}

/// One of the lock files of a store.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    what: &'static str,
    file: Box<dyn LockFile>,
    /// The turnstile: the waiter that is next holds it meanwhile.
    turn: Option<Box<dyn LockFile>>,
    record: Record,
    /// A holder may leave a claim: see `lanes.rs`.
    has_claims: bool,
}

/// What the record said when the lock was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The counter; `None` when the record was void.
    pub counter: Option<u64>,
    /// The suspect mark; 0: none.
    pub suspect: u64,
    /// The last holder died without giving the lock back.
    pub died: bool,
}

impl Lock {
    /// Opens the lock file, creating it when it is missing (a backup may come without).
    pub fn open(vfs: &dyn Vfs, path: &Path, what: &'static str) -> Result<Self> {
        let file = vfs.open_lock(path, true).at(path, "open the lock file")?;
        Ok(Lock { path: path.to_owned(), what, file, turn: None, record: Record::void(), has_claims: false })
    }

    /// The same behind a turnstile: a second lock that is taken first, and given back once this one is had.
    ///
    /// Without it a process that commits without pause would take the lock again microseconds after giving it
    /// back, and waiters, which only look now and then, would hardly ever find it free.
    pub fn open_fair(vfs: &dyn Vfs, path: &Path, turnstile: &Path, what: &'static str) -> Result<Self> {
        let turn = vfs.open_lock(turnstile, true).at(turnstile, "open the lock file")?;
        Ok(Lock { turn: Some(turn), ..Self::open(vfs, path, what)? })
    }

    /// Takes the lock, waiting up to `timeout`.
    pub fn acquire(&mut self, timeout: impl Into<Timeout>) -> Result<Found> {
        self.acquire_after(timeout, |_| ())
    }

    /// The same; `next` runs when this waiter is the next one.
    pub fn acquire_after(&mut self, timeout: impl Into<Timeout>, next: impl FnOnce(&Self)) -> Result<Found> {
        let (start, timeout) = (Instant::now(), timeout.into());
        let mut patience = Patience { start, timeout, sleep: SLEEP.0, since: start, punctual: None };
        while let Some(turn) = self.turn.as_mut()
            && !turn.try_lock().at(&self.path, "take a turn at the lock")?
        {
            self.wait(&mut patience, TURN_SLEEP.1)?;
        }
        next(self);
        // Only the waiter that has the turn looks very often.
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

    /// Takes a lock whose holders give a file a new name and flush it. Says whether that name is in doubt
    /// until [`Lock::clear_suspect`]: a flush failed, or the last holder died.
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

    /// Sleeps a little, or says which process is in the way.
    fn wait(&self, patience: &mut Patience, longest: Duration) -> Result<()> {
        let waited = patience.start.elapsed();
        let left = patience.timeout.left(waited);
        if !left.is_zero() {
            patience.punctual.get_or_insert_with(Punctual::new);
            // A lock that was held so long is not about to be given back: no need to look so often.
            let is_long = patience.since.elapsed() > Duration::from_millis(20);
            let longest = if is_long { SLEEP.1 } else { longest };
            nap(patience.sleep.min(left));
            patience.sleep = (patience.sleep * 2).min(longest);
            return Ok(());
        }
        let holder = self.read_record()?.unwrap_or_else(Record::void).holder();
        Err(Error::Busy { path: self.path.clone(), lock: self.what, holder, waited_secs: waited.as_secs() })
    }

    /// Takes the lock if it is free, and writes the new holder into the record. Takes no turn.
    pub fn try_acquire(&mut self) -> Result<Option<Found>> {
        if !self.file.try_lock().at(&self.path, "lock")? {
            return Ok(None);
        }
        // A lock whose record cannot be written is given back at once, or it would be held for nothing.
        let found = self.check_place().and_then(|()| self.note_holder());
        found.map(Some).inspect_err(|_| _ = unlock(&mut *self.file))
    }

    /// A lock on a file that is no longer at its path excludes no opener of that path.
    pub fn check_place(&self) -> Result<()> {
        check_place(&*self.file, &self.path)
    }

    /// Finds out whether this file system has locks, before hours of work end at the first append.
    pub fn probe(&mut self) -> Result<()> {
        if self.file.try_lock().at(&self.path, "lock")? {
            unlock(&mut *self.file).at(&self.path, "unlock")?;
        }
        Ok(())
    }

    fn read_record(&self) -> Result<Option<Record>> {
        Record::read(&*self.file).at(&self.path, "read the lock's record")
    }

    /// Reads the record, and writes this process into it as the holder.
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
                Err(Error::NoSpace { path, needed: RECORD_LEN as u64, free, source: Arc::new(source) })
            }
            written => written.at(&self.path, "write the lock's record"),
        }
    }

    /// Writes an empty record into a new lock file, so that later ones need no space.
    pub fn prepare(&mut self) -> Result<()> {
        self.record = Record::fresh()?;
        self.write()
    }

    /// The counter as this holder last wrote it.
    pub fn counter(&self) -> u64 {
        self.record.counter
    }

    /// Tells readers that something changed. Written together with [`Lock::release`].
    pub fn raise(&mut self) {
        self.raise_by(Span::default());
    }

    /// The same when the change is nothing but a segment of these commits, generation 0.
    pub fn raise_by(&mut self, span: Span) {
        self.record.counter = self.record.counter.wrapping_add(1);
        self.record.spans.rotate_left(1);
        self.record.set_newest(span);
    }

    /// Marks commits from here on as suspect; an earlier mark stays.
    pub fn mark_suspect(&mut self, commit: u64) {
        if self.record.suspect == 0 || commit < self.record.suspect {
            self.record.suspect = commit;
        }
    }

    /// Clears the suspect mark.
    pub fn clear_suspect(&mut self) {
        self.record.suspect = 0;
    }

    /// The commits since the counter was `then`, under the lock.
    pub fn since(&self, then: u64) -> Option<Vec<Span>> {
        self.record.since(then)
    }

    /// The same without the lock, as far as the record says it now.
    pub fn peek(&self, then: u64) -> Option<Vec<Span>> {
        self.read_record().ok()??.since(then)
    }

    /// Gives the lock back. A claim ends with it. An error here is only logged: the lock also ends with the
    /// handle, and a record that could not be written makes the next holder look at the directory.
    ///
    /// Says whether the record was written. If not, the count in it is not the one this holder knows, and a
    /// later one may reach that count with other commits.
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
        drop(second); // as a kill would
        assert!(lock(dir.path()).acquire(Duration::ZERO).unwrap().died);
    }

    /// A lock file that calls back when it was found locked.
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
        // The waiter has looked, with the turn. Now the lock is given back, and at once wanted again.
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
    fn a_wait_ends_when_its_timeout_is_brought_to_an_end() {
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
