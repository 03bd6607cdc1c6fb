//! `submit`: appends that do not wait, and their tickets.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sim::run::STORE;
use crate::sim::{Fault, Room, SimFs};
use vecstore::{Batch, DType, Error, OnDuplicate, OpenOptions, Store, StoreConfig, Ticket, Value};

/// A batch of one entry.
fn one(key: &str) -> Batch {
    let mut batch = Batch::new(1, DType::F32);
    batch.push(key, &[1.0f32]).unwrap();
    batch
}

fn store(fs: &SimFs) -> Store {
    crate::sim::run::options(fs).create(STORE, StoreConfig::new(1)).unwrap()
}

fn keys(store: &Store) -> Vec<String> {
    let snapshot = store.snapshot();
    snapshot.iter().map(|entry| String::from_utf8(entry.unwrap().key().to_vec()).unwrap()).collect()
}

#[test]
fn batches_are_committed_in_order_and_share_flushes() {
    let fs = SimFs::new();
    let store = store(&fs);
    // Batches that arrive while the first segment is written share the second segment.
    let (held, is_held) = channel();
    let (go_on, may) = channel::<()>();
    fs.before_next("create", move || {
        held.send(()).unwrap();
        may.recv().unwrap();
    });
    let names: Vec<String> = (0..40).map(|number| format!("key {number:02}")).collect();
    let mut tickets: Vec<Ticket> = Vec::new();
    for name in &names {
        tickets.push(store.submit(one(name), OnDuplicate::Error).unwrap());
        if tickets.len() == 1 {
            is_held.recv().unwrap();
        }
    }
    go_on.send(()).unwrap();
    for (number, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.wait().unwrap().commit, Some(number as u64 + 1));
    }
    assert_eq!(keys(&store), names);
    let segments = fs.names(&format!("{STORE}/segments")).len();
    assert_eq!(segments, 2, "for 40 batches");
}

#[test]
fn a_ticket_hands_the_batch_back() {
    let store = store(&SimFs::new());
    let (outcome, batch) = store.submit(one("a"), OnDuplicate::Error).unwrap().wait_with_batch();
    assert_eq!((outcome.unwrap().entries, batch.len(), batch.dim()), (1, 0, 1));
    let (outcome, batch) = store.submit(one("a"), OnDuplicate::Error).unwrap().wait_with_batch();
    assert!(matches!(outcome, Err(Error::DuplicateKey { .. })), "{outcome:?}");
    assert_eq!(batch.len(), 1, "as it was");
    let (outcome, batch) = store.submit(store.batch(), OnDuplicate::Error).unwrap().wait_with_batch();
    assert_eq!((outcome.unwrap().entries, batch.dim()), (0, 1));
}

/// Before each call that makes the batch durable, notes whether the ticket is already done.
fn note_done(fs: &SimFs, kinds: &'static [&'static str], ticket: &Arc<Mutex<Option<Ticket>>>, noted: &Noted) {
    let Some((kind, rest)) = kinds.split_first() else { return };
    let (then, ticket, noted) = (fs.clone(), Arc::clone(ticket), Arc::clone(noted));
    fs.before_next(kind, move || {
        let is_done = ticket.lock().unwrap().as_ref().is_none_or(Ticket::is_done);
        noted.lock().unwrap().push((*kind, is_done));
        note_done(&then, rest, &ticket, &noted);
    });
}

type Noted = Arc<Mutex<Vec<(&'static str, bool)>>>;

#[test]
fn no_ticket_is_done_before_its_batch_is_durable() {
    let fs = SimFs::new();
    let store = store(&fs);
    for number in 0..20 {
        let key = format!("key {number}");
        let (shared, noted) = (Arc::new(Mutex::new(None)), Noted::default());
        let held = fs.hold_next("create");
        let ticket = store.submit(one(&key), OnDuplicate::Error).unwrap();
        assert!(!ticket.is_done());
        *shared.lock().unwrap() = Some(ticket);
        held.there();
        note_done(&fs, &["flush", "rename", "flush directory"], &shared, &noted);
        drop(held);
        fs.until("it is flushed", || noted.lock().unwrap().len() == 3);
        let ticket = shared.lock().unwrap().take().unwrap();
        assert_eq!(ticket.wait().unwrap().entries, 1);
        let expected = [("flush", false), ("rename", false), ("flush directory", false)];
        assert_eq!(*noted.lock().unwrap(), expected);
        assert!(store.snapshot().contains(&key).unwrap(), "visible, too");
    }
}

#[test]
fn each_ticket_has_its_own_outcome() {
    let fs = SimFs::new();
    let store = store(&fs);
    store.append(&mut one("there"), OnDuplicate::Error).unwrap();
    // Batches that arrive while another segment is written form one group.
    let held = fs.hold_next("create");
    let before = store.submit(one("before"), OnDuplicate::Error).unwrap();
    held.there();
    let again = store.submit(one("there"), OnDuplicate::Error).unwrap();
    let skipped = store.submit(one("there"), OnDuplicate::Skip).unwrap();
    let new = store.submit(one("new"), OnDuplicate::Error).unwrap();
    let empty = store.submit(store.batch(), OnDuplicate::Error).unwrap();
    assert!(empty.is_done() && !again.is_done() && !skipped.is_done() && !new.is_done());
    drop(held);
    assert_eq!(before.wait().unwrap().entries, 1);
    assert!(matches!(again.wait(), Err(Error::DuplicateKey { .. })));
    assert_eq!(skipped.wait().unwrap().skipped, 1);
    assert_eq!(new.wait().unwrap().entries, 1);
    assert_eq!(empty.wait().unwrap(), vecstore::Appended::default());

    let wrong = store.submit(Batch::new(2, DType::F32), OnDuplicate::Error);
    assert!(matches!(wrong, Err(Error::DimensionMismatch { .. })));
}

#[test]
fn a_ticket_reports_a_full_disk_and_the_next_batch_is_committed() {
    let fs = SimFs::new();
    let store = store(&fs);
    fs.set_room(Some(Room {
        bytes: fs.used() + 100,
        is_quota: false,
        copies: false,
        names: false,
        late: false,
    }));
    let ticket = store.submit(one("a"), OnDuplicate::Error).unwrap();
    assert!(matches!(ticket.wait(), Err(Error::NoSpace { .. })));
    fs.set_room(None);
    store.submit(one("a"), OnDuplicate::Error).unwrap().wait().unwrap();
    assert_eq!(keys(&store), ["a"]);
}

/// Batches that share a segment fail with it, and so does a batch refused for a key of such a batch. A batch
/// that is invalid by itself still gets its own error.
#[test]
fn an_invalid_batch_of_a_failed_group_gets_its_own_error() {
    let fs = SimFs::new();
    let store = store(&fs);
    // The other batches arrive while the first segment is written, and share the second segment.
    let (held, is_held) = channel();
    let (go_on, may) = channel::<()>();
    let (second, fails) = (fs.clone(), fs.clone());
    fs.before_next("create", move || {
        held.send(()).unwrap();
        may.recv().unwrap();
        second.before_next("create", move || {
            let at = fails.call_count();
            fails.set_fault(Some(Fault { at, errno: 5, lasting: false }));
        });
    });
    let dated = |key, date: Value<'static>| {
        let mut batch = Batch::new(1, DType::F32);
        batch.entry(key).row(&[1.0f32]).attribute("date", date).push().unwrap();
        batch
    };
    let first = store.submit(dated("a", 2026.into()), OnDuplicate::Error).unwrap();
    is_held.recv().unwrap();
    let batches = [one("b"), one("b"), dated("c", "2026".into())];
    let [good, refused, wrong] = batches.map(|batch| store.submit(batch, OnDuplicate::Error).unwrap());
    go_on.send(()).unwrap();
    first.wait().unwrap();
    for failed in [good, refused] {
        let error = failed.wait().unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
    let error = wrong.wait().unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    assert_eq!(keys(&store), ["a"]);
}

#[test]
fn closing_or_dropping_a_store_commits_queued_batches() {
    for close in [false, true] {
        let fs = SimFs::new();
        let store = store(&fs);
        let held = fs.hold_next("create");
        let tickets: Vec<Ticket> = (0..10)
            .map(|number| store.submit(one(&format!("{number}")), OnDuplicate::Error).unwrap())
            .collect();
        // Every batch is in the queue or is being committed.
        held.there();
        drop(held);
        if close {
            store.close().unwrap();
        } else {
            drop(store);
        }
        for ticket in tickets {
            assert!(ticket.is_done());
            ticket.wait().unwrap();
        }
        let store = crate::sim::run::options(&fs).for_reading().open(STORE).unwrap();
        assert_eq!(store.snapshot().totals().entries, 10);
    }
}

#[test]
fn a_batch_is_committed_although_its_ticket_is_dropped() {
    let fs = SimFs::new();
    let store = store(&fs);
    let before = fs.call_count();
    drop(store.submit(one("a"), OnDuplicate::Error).unwrap());
    // The leader releases the lock after it has renamed the segment and flushed the directory.
    fs.until("a commit", || {
        let calls = fs.calls_from(before);
        let mut then = calls.iter().skip_while(|call| call.what != "rename");
        then.any(|call| call.what == "unlock" && call.path.ends_with("LOCK"))
    });
    let reader = crate::sim::run::options(&fs.other_process()).for_reading().open(STORE).unwrap();
    assert!(reader.snapshot().contains("a").unwrap());
}

#[test]
fn queued_bytes_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let dim = 1 << 16;
    let store = Arc::new(OpenOptions::new().create(dir.path().join("s"), StoreConfig::new(dim)).unwrap());
    let row = vec![1.0f32; dim];
    let mut tickets = Vec::new();
    for number in 0..24 {
        let mut batch = store.batch();
        // Each batch has 8 MiB: nearly 200 MiB in all.
        (0..32).for_each(|of| batch.push(format!("{number}-{of}"), &row).unwrap());
        tickets.push(store.submit(batch, OnDuplicate::Error).unwrap());
        let waiting = tickets.iter().filter(|ticket| !ticket.is_done()).count();
        // At most 64 MiB are queued, and at most 32 MiB are being written.
        assert!(waiting <= 8 + 4 + 1, "{waiting} of 8 MiB");
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(store.snapshot().totals().rows, 24 * 32);
}

#[test]
fn threads_with_and_without_tickets_share_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = OpenOptions::new().create(dir.path().join("s"), StoreConfig::new(1)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for number in 0..30 {
                    let mut batch = one(&format!("{thread}-{number}"));
                    if thread % 2 == 0 {
                        store.append(&mut batch, OnDuplicate::Error).unwrap();
                    } else {
                        let ticket = store.submit(batch, OnDuplicate::Error).unwrap();
                        if number % 3 == 0 {
                            ticket.wait().unwrap();
                        }
                    }
                }
            });
        }
    });
    store.close().unwrap();
    let store = Store::open(dir.path().join("s")).unwrap();
    assert_eq!((store.snapshot().totals().entries, store.snapshot().last_commit()), (120, 120));
}

/// A thread that waits for its ticket at once commits the batch itself; files stay few all the same.
#[test]
fn files_stay_few_if_each_ticket_is_awaited_at_once() {
    let fs = SimFs::new();
    // The committing thread and this thread may wait for the same locks.
    let options = crate::sim::run::options(&fs).lock_timeout(Duration::from_secs(60));
    let store = options.create(STORE, StoreConfig::new(1)).unwrap();
    for number in 0..400 {
        store.submit(one(&format!("{number}")), OnDuplicate::Error).unwrap().wait().unwrap();
        let files = fs.names(&format!("{STORE}/segments")).len();
        // Appends wait from 180 segments on; the inputs of a merge may exist besides until they are deleted.
        assert!(files < 260, "{files} files after {number} appends");
    }
    assert_eq!(store.snapshot().totals().entries, 400);
}
