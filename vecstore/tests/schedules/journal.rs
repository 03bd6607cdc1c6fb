//! What was acknowledged and what readers saw, held against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vecstore::{Appended, Batch, Error, OnDuplicate, Snapshot, Store};

use super::disk::Disk;
use super::sim::oracle::{DIM, State};

/// Acknowledged commits that shared a file with another one, over all schedules: that groups form at all.
pub static SHARED: AtomicU64 = AtomicU64::new(0);

/// A list of keys that was read with this last commit.
type Look = (u64, BTreeSet<String>);

/// What all threads of one schedule have seen so far. Its own mutex is none of the scheduler's.
#[derive(Debug)]
pub struct Journal {
    disk: Disk,
    /// Calls fail: a segment that could not be mapped after its commit is only seen on refreshing.
    may_lag: bool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Keys that were there at the beginning, and that last commit.
    base: Look,
    /// Keys that each acknowledged commit brought.
    commits: BTreeMap<u64, BTreeSet<String>>,
    /// Keys that appends brought which returned an error.
    refused: BTreeSet<String>,
    /// The same for those whose outcome is unknown.
    unknown: BTreeSet<String>,
    looks: Vec<Look>,
}

/// The keys of a snapshot; each is read in every way, and must be there once.
pub fn keys(snapshot: &Snapshot) -> BTreeSet<String> {
    let state = State::read_snapshot(snapshot).unwrap_or_else(|wrong| panic!("{wrong}"));
    state.entries.into_keys().collect()
}

/// A batch with a row for each key.
pub fn batch(store: &Store, keys: &[&str]) -> Batch {
    let mut batch = store.batch();
    for key in keys {
        batch.push(key, &[key.len() as f32; DIM]).unwrap();
    }
    batch
}

impl Journal {
    /// A journal that begins with what a store holds now.
    pub fn new(disk: &Disk, store: &Store) -> Self {
        let snapshot = store.snapshot();
        let base = (snapshot.last_commit(), keys(&snapshot));
        Journal { disk: disk.clone(), may_lag: false, seen: Mutex::new(Seen { base, ..Seen::default() }) }
    }

    /// The same where calls fail.
    pub fn with_faults(disk: &Disk, store: &Store) -> Self {
        Journal { may_lag: true, ..Journal::new(disk, store) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a batch of keys that no other thread appends, notes the answer, and looks for it.
    pub fn append(&self, store: &Store, these: &[&str]) -> Result<Appended, Error> {
        self.append_until(store, these, || false)
    }

    /// The same in a process that may be dead by the time the answer comes: then no thread is told anything.
    pub fn append_until(
        &self,
        store: &Store,
        these: &[&str],
        is_dead: impl Fn() -> bool,
    ) -> Result<Appended, Error> {
        let result = store.append(&mut batch(store, these), OnDuplicate::Error);
        let names = these.iter().map(|key| (*key).to_owned());
        match &result {
            _ if is_dead() => self.seen().unknown.extend(names),
            Ok(appended) => {
                assert_eq!(appended.entries, these.len() as u64);
                let commit = appended.commit.expect("something was written");
                let twice = self.seen().commits.insert(commit, names.collect());
                assert_eq!(twice, None, "commit {commit} was acknowledged twice");
                // What was told to be stored is found.
                if self.may_lag && store.snapshot().last_commit() < commit {
                    self.hold(&store.refresh().unwrap(), &[commit]);
                } else {
                    self.hold(&store.snapshot(), &[commit]);
                }
                let shares = |info: &vecstore::SegmentInfo| {
                    (info.first_commit..=info.last_commit).contains(&commit)
                        && info.first_commit < info.last_commit
                };
                SHARED.fetch_add(
                    u64::from(store.snapshot().segments().any(|info| shares(&info))),
                    Ordering::Relaxed,
                );
            }
            Err(Error::OutcomeUnknown { .. }) => self.seen().unknown.extend(names),
            Err(_) => self.seen().refused.extend(names),
        }
        result
    }

    /// Notes a commit that something else than [`Journal::append`] made, and what it left of its keys.
    pub fn note(&self, commit: u64, these: &[&str]) {
        let names = these.iter().map(|key| (*key).to_owned()).collect();
        self.seen().commits.insert(commit, names);
    }

    /// Takes a snapshot: whatever was acknowledged before is in it, and nothing of it can be lost any more.
    pub fn look(&self, store: &Store) -> u64 {
        let acknowledged: Vec<u64> = self.seen().commits.keys().copied().collect();
        self.hold(&store.snapshot(), &acknowledged)
    }

    /// The same after looking for commits of other handles.
    pub fn refresh(&self, store: &Store) -> Result<u64, Error> {
        let acknowledged: Vec<u64> = self.seen().commits.keys().copied().collect();
        Ok(self.hold(&store.refresh()?, &acknowledged))
    }

    /// A snapshot of a handle that may not know yet what others have written.
    pub fn look_late(&self, store: &Store) -> u64 {
        self.hold(&store.snapshot(), &[])
    }

    fn hold(&self, snapshot: &Snapshot, acknowledged: &[u64]) -> u64 {
        let last = snapshot.last_commit();
        for commit in acknowledged {
            assert!(*commit <= last, "commit {commit} was acknowledged before, the snapshot ends at {last}");
        }
        for segment in snapshot.segments() {
            let path = &segment.path;
            assert!(self.disk.is_durable(path), "{} is seen, and not durable", path.display());
        }
        self.seen().looks.push((last, keys(snapshot)));
        last
    }

    /// At the end, when all threads are done: every snapshot that was taken had exactly the keys of the
    /// commits up to its last one, and so has the store that is opened now.
    pub fn close(&self, end: &Snapshot) {
        let last = end.last_commit();
        let end_keys = keys(end);
        let mut seen = self.seen();
        // An append whose outcome is unknown left all or nothing, in a commit that nobody told us.
        let unknown: BTreeSet<String> = seen.unknown.intersection(&end_keys).cloned().collect();
        let known = seen.commits.len() as u64 + seen.base.0;
        if unknown.is_empty() {
            assert_eq!(last, known, "every commit was acknowledged: {:?}", seen.commits);
        }
        seen.looks.push((last, end_keys));
        for (at, found) in &seen.looks {
            let mut expected = seen.base.1.clone();
            let before = seen.commits.range(..=*at).filter(|(commit, _)| **commit > seen.base.0);
            expected.extend(before.flat_map(|(_, keys)| keys.iter().cloned()));
            let more: BTreeSet<String> = found.difference(&expected).cloned().collect();
            let lacks: Vec<&String> = expected.difference(found).collect();
            assert!(lacks.is_empty(), "the snapshot of commit {at} lacks {lacks:?}");
            assert!(more.is_subset(&unknown), "the snapshot of commit {at} has more: {more:?}");
        }
        let refused: Vec<&String> =
            seen.refused.iter().filter(|key| seen.looks.iter().any(|look| look.1.contains(*key))).collect();
        assert!(refused.is_empty(), "these were refused, and are there: {refused:?}");
    }
}
