//! A journal of acknowledged commits and of what readers saw, compared with each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vecstore::{Appended, Batch, Error, OnDuplicate, Snapshot, Store};

use super::disk::Disk;
use super::sim::oracle::{DIM, State};

/// Number of acknowledged commits that shared a file with another one, in all schedules. Shows that groups
/// form.
pub static SHARED: AtomicU64 = AtomicU64::new(0);

/// The last commit of a snapshot, and its keys.
type Look = (u64, BTreeSet<String>);

/// What all threads of one schedule have seen so far. Its mutex is not one of the scheduler's.
#[derive(Debug)]
pub struct Journal {
    disk: Disk,
    /// Calls may fail: a segment that could not be mapped after its commit is seen only after a refresh.
    may_lag: bool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Last commit and keys at the beginning.
    base: Look,
    /// Keys of each acknowledged commit.
    commits: BTreeMap<u64, BTreeSet<String>>,
    /// Keys of appends that returned an error.
    refused: BTreeSet<String>,
    /// Keys of appends whose outcome is unknown.
    unknown: BTreeSet<String>,
    looks: Vec<Look>,
}

/// The keys of a snapshot; each is read in every way, and must be there once.
pub fn keys(snapshot: &Snapshot) -> BTreeSet<String> {
    let state = State::read(snapshot).unwrap_or_else(|wrong| panic!("{wrong}"));
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
    /// A journal that begins with the present keys of a store.
    pub fn new(disk: &Disk, store: &Store) -> Self {
        let snapshot = store.snapshot();
        let base = (snapshot.last_commit(), keys(&snapshot));
        Journal { disk: disk.clone(), may_lag: false, seen: Mutex::new(Seen { base, ..Seen::default() }) }
    }

    /// A journal of a scenario in which calls fail.
    pub fn with_faults(disk: &Disk, store: &Store) -> Self {
        Journal { may_lag: true, ..Journal::new(disk, store) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a batch of keys that no other thread appends, notes the answer, and looks for the commit.
    pub fn append(&self, store: &Store, these: &[&str]) -> Result<Appended, Error> {
        self.append_until(store, these, || false)
    }

    /// Appends like [`Journal::append`], in a process that may die: then the outcome counts as unknown.
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
                // An acknowledged commit is visible to its handle.
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
                    u64::from(store.snapshot().segments().any(|segment| shares(&segment.info()))),
                    Ordering::Relaxed,
                );
            }
            Err(Error::OutcomeUnknown { .. }) => self.seen().unknown.extend(names),
            Err(_) => self.seen().refused.extend(names),
        }
        result
    }

    /// Notes a commit that was not made by [`Journal::append`], and the keys that it stored.
    pub fn note(&self, commit: u64, these: &[&str]) {
        let names = these.iter().map(|key| (*key).to_owned()).collect();
        self.seen().commits.insert(commit, names);
    }

    /// Takes a snapshot: it must have every commit that was acknowledged before, and only durable segments.
    pub fn look(&self, store: &Store) -> u64 {
        let acknowledged: Vec<u64> = self.seen().commits.keys().copied().collect();
        self.hold(&store.snapshot(), &acknowledged)
    }

    /// Refreshes the handle, and checks the snapshot like [`Journal::look`].
    pub fn refresh(&self, store: &Store) -> Result<u64, Error> {
        let acknowledged: Vec<u64> = self.seen().commits.keys().copied().collect();
        Ok(self.hold(&store.refresh()?, &acknowledged))
    }

    /// Checks a snapshot of a handle that may not know the commits of other handles yet.
    pub fn look_late(&self, snapshot: &Snapshot) -> u64 {
        self.hold(snapshot, &[])
    }

    fn hold(&self, snapshot: &Snapshot, acknowledged: &[u64]) -> u64 {
        let last = snapshot.last_commit();
        for commit in acknowledged {
            assert!(*commit <= last, "commit {commit} was acknowledged before, the snapshot ends at {last}");
        }
        for segment in snapshot.segments() {
            let path = segment.info().path;
            assert!(self.disk.is_durable(&path), "{} is seen, and not durable", path.display());
        }
        self.seen().looks.push((last, keys(snapshot)));
        last
    }

    /// Checks, when all threads are done, that every snapshot had exactly the keys of the commits up to its
    /// last one, and that the store as opened now has them, too.
    pub fn close(&self, end: &Snapshot) {
        let last = end.last_commit();
        let end_keys = keys(end);
        let mut seen = self.seen();
        // An append with an unknown outcome left all keys or none, in a commit whose number was not returned.
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
