//! LOCK: the advisory lock between processes, and the small record that goes with it.
//!
//! The lock itself is the operating system's (it ends with the process that holds it). The record is written in
//! place and never flushed: it only has to survive the death of a process. After a power cut it is void, which its
//! checksum, or its absence, says.

mod lanes;
mod patience;
mod record;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use patience::{Patience, SLEEP, TURN_SLEEP};
use record::{Record, host_name, now_secs, random_count};

pub(crate) use lanes::{Lanes, open_large, open_small};
pub(crate) use patience::{Punctual, Timeout};
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

/// Gives a lock back; asks twice, because a lock that is kept for nothing holds up everybody until its handle ends.
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

/// A lock file of the store: `LOCK` (commits) or `LOCK.manifest`.
pub(crate) struct Lock {
    path: PathBuf,
    what: &'static str,
    file: Box<dyn LockFile>,
    /// Whoever waits for the lock holds this one meanwhile.
    turn: Option<Box<dyn LockFile>>,
    record: Record,
    /// Its holder may leave a claim: see `lanes.rs`.
    has_claims: bool,
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("path", &self.path).finish_non_exhaustive()
    }
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

    /// The same with a turnstile: a second lock that is taken before this one and given back once this one is had.
    ///
    /// Without it a process that commits without pause would take the lock again microseconds after giving it back, and
    /// those that wait, and look every now and then, would hardly ever find it free. With it, the one who waits has the
    /// turnstile, so the other has to wait for a turn.
    pub fn open_fair(vfs: &dyn Vfs, path: &Path, turnstile: &Path, what: &'static str) -> Result<Self> {
        let turn = vfs.open_lock(turnstile, true).at(turnstile, "open the lock file")?;
        Ok(Lock { turn: Some(turn), ..Self::open(vfs, path, what)? })
    }

    /// Takes the lock, waiting up to `timeout`.
    pub fn acquire(&mut self, timeout: impl Into<Timeout>) -> Result<Found> {
        if let Some(found) = self.try_acquire_in_turn()? {
            return Ok(found);
        }
        let _punctual = Punctual::new();
        let mut patience = Patience::new(timeout.into());
        while let Some(turn) = self.turn.as_mut()
            && !turn.try_lock().at(&self.path, "take a turn at the lock")?
        {
            self.wait(&mut patience, TURN_SLEEP)?;
        }
        let found = self.acquire_next(&mut patience);
        self.give_turn_back();
        found
    }

    /// Takes the lock if nobody has it and nobody waits for it.
    pub fn try_acquire_in_turn(&mut self) -> Result<Option<Found>> {
        if let Some(turn) = self.turn.as_mut()
            && !turn.try_lock().at(&self.path, "take a turn at the lock")?
        {
            return Ok(None);
        }
        let found = self.try_acquire();
        self.give_turn_back();
        found
    }

    fn give_turn_back(&mut self) {
        if let Some(turn) = self.turn.as_mut()
            && let Err(error) = unlock(&mut **turn)
        {
            log::warn!("{}: cannot give the turn back: {error}", self.path.display());
        }
    }

    /// Takes a lock whose holders give a file a new name and flush it. Says whether that name is in doubt: a flush failed,
    /// or the last holder died and cannot be asked. It stays so until [`Lock::clear_suspect`].
    pub fn acquire_named(&mut self, timeout: impl Into<Timeout>) -> Result<bool> {
        let found = self.acquire(timeout)?;
        if found.died {
            self.mark_suspect(1);
        }
        Ok(found.died || found.suspect != 0)
    }

    fn acquire_next(&mut self, patience: &mut Patience) -> Result<Found> {
        // Only one process at a time looks so often.
        let longest = if self.turn.is_some() { SLEEP.0 } else { SLEEP.1 };
        patience.sleep = SLEEP.0;
        loop {
            if let Some(found) = self.try_acquire()? {
                return Ok(found);
            }
            self.wait(patience, longest)?;
        }
    }

    /// Sleeps a little, or says who is in the way.
    fn wait(&self, patience: &mut Patience, longest: Duration) -> Result<()> {
        let waited = patience.start.elapsed();
        let left = patience.timeout.left(waited);
        if !left.is_zero() {
            // After a while nobody is about to give the lock back: no need to look so often.
            let longest = if waited > Duration::from_millis(20) { SLEEP.1 } else { longest };
            nap(patience.sleep.min(left));
            patience.sleep = (patience.sleep * 2).min(longest);
            return Ok(());
        }
        let record = Record::read(&*self.file).at(&self.path, "read the lock's record")?;
        Err(Error::Busy {
            path: self.path.clone(),
            lock: self.what,
            holder: record.unwrap_or_else(Record::void).holder(),
            waited_secs: waited.as_secs(),
        })
    }

    /// Takes the lock if nobody has it, and writes into the record who did.
    pub fn try_acquire(&mut self) -> Result<Option<Found>> {
        if !self.file.try_lock().at(&self.path, "lock")? {
            return Ok(None);
        }
        match self.check_place().and_then(|()| self.note_holder()) {
            Ok(found) => Ok(Some(found)),
            // A lock whose record cannot be written is given back at once, or it would be held for nothing.
            Err(error) => {
                let _ = unlock(&mut *self.file);
                Err(error)
            }
        }
    }

    /// A lock on a file that is no longer at its path excludes no opener of that path.
    pub fn check_place(&self) -> Result<()> {
        check_place(&*self.file, &self.path)
    }

    /// Finds out whether this file system has locks at all, before hours of work end at the first append.
    pub fn probe(&mut self) -> Result<()> {
        if self.file.try_lock().at(&self.path, "lock")? {
            unlock(&mut *self.file).at(&self.path, "unlock")?;
        }
        Ok(())
    }

    /// Reads the record, and writes into it who holds the lock now.
    fn note_holder(&mut self) -> Result<Found> {
        let read = Record::read(&*self.file).at(&self.path, "read the lock's record")?;
        let found = Found {
            counter: read.map(|record| record.counter),
            suspect: read.map_or(0, |record| record.suspect),
            died: read.is_some_and(|record| record.pid != 0),
        };
        self.record = match read {
            Some(record) => record,
            None => Record { counter: random_count()?, ..Record::void() },
        };
        self.drop_claim();
        self.record.pid = std::process::id();
        self.record.since = now_secs();
        self.record.host = host_name();
        self.write()?;
        Ok(found)
    }

    fn write(&mut self) -> Result<()> {
        self.record.crc = self.record.computed_crc();
        self.file.write_record(bytemuck::bytes_of(&self.record)).map_err(|source| {
            if is_no_space(&source) {
                let source = Arc::new(source);
                return Error::NoSpace {
                    path: self.path.clone(),
                    needed: RECORD_LEN as u64,
                    free: self.file.free_space(),
                    source,
                };
            }
            Error::io(&self.path, "write the lock's record", source)
        })
    }

    /// Writes an empty record into a new lock file, so that later ones need no space.
    pub fn prepare(&mut self) -> Result<()> {
        self.record.counter = random_count()?;
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

    /// The same when it is nothing but a segment of these commits, generation 0.
    pub fn raise_by(&mut self, span: Span) {
        self.record.counter = self.record.counter.wrapping_add(1);
        self.record.spans.rotate_left(1);
        if let Some(newest) = self.record.spans.last_mut() {
            *newest = span;
        }
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

    /// What happened since the counter was `then`, as the record has it, without taking the lock: the counter, and the
    /// commits. `None` when the record cannot be relied on, or does not say.
    pub fn news(&self, then: u64) -> Option<(u64, Vec<Span>)> {
        let record = Record::read(&*self.file).ok().flatten().filter(|record| record.suspect == 0)?;
        Some((record.counter, record.since(then)?))
    }

    /// The counter as the record has it, and the last commit it counts; `None` when the record cannot be relied on, or the
    /// last raise was no commit.
    pub fn counted(&self) -> Option<(u64, u64)> {
        let record = Record::read(&*self.file).ok().flatten().filter(|record| record.suspect == 0)?;
        let newest = record.spans.last().filter(|span| span.first != 0)?;
        Some((record.counter, newest.last))
    }

    /// The commits since the counter was `then`, under the lock.
    pub fn since(&self, then: u64) -> Option<Vec<Span>> {
        self.record.since(then)
    }

    /// Gives the lock back. A claim ends with it. An error here is only logged: the lock also ends with the handle, and a record that
    /// could not be written makes the next holder look at the directory.
    ///
    /// Says whether the record was written. If not, the count in it is not the one this holder knows, and a later one
    /// may reach that count with other commits.
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
        assert_eq!(watch.suspect(), 7);
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
        fn is_at(&self, path: &Path) -> std::io::Result<bool> {
            self.file.is_at(path)
        }
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
        // The waiter has looked once without a turn, and then with one. Now the lock is given back, and at once wanted again.
        let mut refused = 0;
        let meanwhile = move || {
            refused += 1;
            if refused == 2 {
                let mut first = theirs.lock().unwrap();
                first.release();
                assert!(first.try_acquire_in_turn().unwrap().is_none(), "another handle waits");
            }
        };
        let file =
            std::mem::replace(&mut second.file, RealFs.open_lock(&dir.path().join("LOCK"), false).unwrap());
        second.file = Box::new(Asked { file, refused: meanwhile });
        second.acquire(Duration::from_secs(300)).unwrap();
        second.release();
        assert!(first.lock().unwrap().try_acquire_in_turn().unwrap().is_some(), "the turn is given back");
    }

    #[test]
    fn a_wait_ends_when_its_timeout_is_brought_to_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, mut second) = (fair(dir.path()), fair(dir.path()));
        first.acquire(Duration::ZERO).unwrap();
        let timeout = Timeout::from(Duration::from_secs(1_000_000));
        let theirs = timeout.clone();
        let file =
            std::mem::replace(&mut second.file, RealFs.open_lock(&dir.path().join("LOCK"), false).unwrap());
        second.file = Box::new(Asked { file, refused: move || theirs.end() });
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
