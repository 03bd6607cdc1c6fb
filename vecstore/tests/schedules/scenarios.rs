//! The scenarios: a few threads each, and what must hold in every order of their steps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use shuttle::rand::Rng;
use shuttle::thread;
use vecstore::{Error, MergePolicy, OnDuplicate, OpenOptions, Progress, Store, StoreConfig};

use super::disk::Disk;
use super::journal::{Journal, SHARED, batch, keys};
use super::run::{explore, once};
use super::sim::oracle::{DIM, State};
use super::sim::{Fault, Node, SimFs};

const STORE: &str = "/d/s";

pub(super) fn options(disk: &Disk) -> OpenOptions {
    OpenOptions::new().vfs(Arc::new(disk.clone())).merge_policy(MergePolicy::OnDemand)
}

pub(super) fn open(disk: &Disk) -> Arc<Store> {
    Arc::new(options(disk).open(STORE).unwrap())
}

/// The image of a disk with a store of this many segments of one entry each: `old-1`, `old-2` and so on.
fn stored(segments: usize) -> Vec<Node> {
    once(move || {
        let sim = SimFs::new();
        let options = OpenOptions::new().vfs(Arc::new(sim.clone())).merge_policy(MergePolicy::OnDemand);
        let store = options.create(STORE, StoreConfig::new(DIM)).unwrap();
        for number in 1..=segments {
            store.append(&mut batch(&store, &[&format!("old-{number}")]), OnDuplicate::Error).unwrap();
        }
        store.close().unwrap();
        sim.image()
    })
}

pub(super) fn two() -> Vec<Node> {
    static IMAGE: OnceLock<Vec<Node>> = OnceLock::new();
    IMAGE.get_or_init(|| stored(2)).clone()
}

/// The image of a store with one segment less than the background merger needs.
fn many() -> Vec<Node> {
    static IMAGE: OnceLock<Vec<Node>> = OnceLock::new();
    IMAGE.get_or_init(|| stored(63)).clone()
}

/// The end of every scenario: the store, opened anew, has every acknowledged commit; every byte is right, and
/// no temporary file is left.
pub(super) fn end(disk: &Disk, journal: &Journal) {
    let store = options(disk).for_reading().open(STORE).unwrap();
    journal.close(&store.snapshot());
    whole(disk);
}

fn whole(disk: &Disk) {
    let report = vecstore::verify_on(disk, STORE.as_ref(), &Progress::new()).unwrap();
    assert!(report.is_whole() && report.notes.is_empty(), "{:?}, {:?}", report.faults, report.notes);
}

pub(super) fn close(store: Arc<Store>) -> Result<(), Error> {
    Arc::into_inner(store).expect("all threads are done").close()
}

#[test]
fn a_reader_beside_two_appenders_sees_every_acknowledged_commit() {
    two();
    explore("two appenders and a reader", || {
        let disk = Disk::new(two());
        let store = open(&disk);
        let journal = Arc::new(Journal::new(&disk, &store));
        let appender = |name: &'static str| {
            let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
            thread::spawn(move || {
                for number in 0..2 {
                    journal
                        .append(&store, &[&format!("{name}{number}"), &format!("{name}{number}+")])
                        .unwrap();
                }
            })
        };
        let appenders = [appender("a"), appender("b")];
        let reader = {
            let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
            thread::spawn(move || {
                let mut last = 0;
                for look in 0..5 {
                    let now =
                        if look % 2 == 0 { journal.look(&store) } else { journal.refresh(&store).unwrap() };
                    assert!(now >= last, "a snapshot of commit {now} after one of {last}");
                    last = now;
                    thread::yield_now();
                }
            })
        };
        appenders.into_iter().chain([reader]).for_each(|thread| thread.join().unwrap());
        assert_eq!(journal.look(&store), 6);
        close(store).unwrap();
        end(&disk, &journal);
    });
    assert_ne!(SHARED.load(Ordering::Relaxed), 0, "no batches ever shared a commit");
}

#[test]
fn one_of_three_appenders_wins_a_key() {
    two();
    explore("three appenders of one key", || {
        let disk = Disk::new(two());
        let store = open(&disk);
        let journal = Journal::new(&disk, &store);
        let threads: Vec<_> = ["a", "b", "c"]
            .map(|own| {
                let store = Arc::clone(&store);
                thread::spawn(move || {
                    store.append(&mut batch(&store, &["same", own]), OnDuplicate::Skip).unwrap()
                })
            })
            .into_iter()
            .zip(["a", "b", "c"])
            .collect();
        let mut winners = 0;
        for (thread, own) in threads {
            let appended = thread.join().unwrap();
            assert_eq!(appended.entries + appended.skipped, 2);
            winners += appended.entries - 1;
            let written: &[&str] = if appended.entries == 2 { &["same", own] } else { &[own] };
            journal.note(appended.commit.unwrap(), written);
        }
        assert_eq!(winners, 1, "one of them has it");
        close(store).unwrap();
        end(&disk, &journal);
    });
}

#[test]
fn appends_beside_checkpoints_lose_nothing() {
    two();
    explore("two appenders, checkpoints, a setting", || {
        let disk = Disk::new(two());
        let store = open(&disk);
        let journal = Arc::new(Journal::new(&disk, &store));
        let appender = |name: &'static str| {
            let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
            thread::spawn(move || {
                for number in 0..2 {
                    journal.append(&store, &[&format!("{name}{number}")]).unwrap();
                }
            })
        };
        let appenders = [appender("a"), appender("b")];
        let keeper = {
            let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
            thread::spawn(move || {
                store.checkpoint().unwrap();
                journal.look(&store);
                store.set_setting("colour", "blue").unwrap();
                assert_eq!(store.snapshot().setting("colour"), Some("blue"));
                store.create_version("then").unwrap();
                journal.look(&store);
            })
        };
        appenders.into_iter().chain([keeper]).for_each(|thread| thread.join().unwrap());
        close(store).unwrap();
        let then = options(&disk).for_reading().at_version("then").open(STORE).unwrap().snapshot();
        journal.look_late(&then);
        assert_eq!(then.setting("colour"), Some("blue"));
        end(&disk, &journal);
    });
}

#[test]
fn appends_beside_a_full_merge_lose_nothing() {
    two();
    explore("an appender, a full merge, a reader", || {
        let disk = Disk::new(two());
        let store = open(&disk);
        let journal = Arc::new(Journal::new(&disk, &store));
        let appender = {
            let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
            thread::spawn(move || {
                journal.append(&store, &["a"]).unwrap();
                journal.append(&store, &["b"]).unwrap();
            })
        };
        let merger = {
            let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
            thread::spawn(move || {
                let merged = store.compact_full().unwrap();
                assert_eq!(merged.segments_before as u64 > 1, merged.merges > 0);
                journal.look(&store);
            })
        };
        let reader = {
            let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
            thread::spawn(move || {
                let mut last = 0;
                for look in 0..4 {
                    let now = if look == 1 { journal.refresh(&store).unwrap() } else { journal.look(&store) };
                    assert!(now >= last, "a snapshot of commit {now} after one of {last}");
                    last = now;
                    thread::yield_now();
                }
            })
        };
        [appender, merger, reader].into_iter().for_each(|thread| thread.join().unwrap());
        close(store).unwrap();
        end(&disk, &journal);
    });
}

#[test]
fn replacements_and_deletions_beside_a_full_merge_last() {
    two();
    explore("replacing and deleting beside a full merge", || {
        let disk = Disk::new(two());
        let store = open(&disk);
        let changer = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let mut batch = store.batch();
                batch.push("old-1", &[7.0; DIM]).unwrap();
                assert_eq!(store.append(&mut batch, OnDuplicate::Replace).unwrap().replaced, 1);
                assert_eq!(store.delete(&["old-2"]).unwrap().deleted, 1);
            })
        };
        let merger = {
            let store = Arc::clone(&store);
            thread::spawn(move || assert!(store.compact_full().is_ok()))
        };
        let reader = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let (mut was_replaced, mut was_deleted) = (false, false);
                for _ in 0..4 {
                    let snapshot = store.snapshot();
                    let entry = snapshot.get("old-1").unwrap().expect("it is replaced, never gone");
                    let replaced = entry.rows::<f32>().unwrap() == [7.0; DIM];
                    let deleted = !snapshot.contains("old-2").unwrap();
                    assert!(replaced || !deleted, "the deletion came after the replacement");
                    assert!(replaced >= was_replaced && deleted >= was_deleted, "a snapshot went back");
                    (was_replaced, was_deleted) = (replaced, deleted);
                    State::read(&snapshot).unwrap();
                    thread::yield_now();
                }
            })
        };
        [changer, merger, reader].into_iter().for_each(|thread| thread.join().unwrap());
        close(store).unwrap();
        let store = options(&disk).for_reading().open(STORE).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(keys(&snapshot).into_iter().collect::<Vec<_>>(), ["old-1"]);
        assert_eq!(snapshot.get("old-1").unwrap().unwrap().rows::<f32>().unwrap(), [7.0; DIM]);
        whole(&disk);
    });
}

#[test]
fn closing_stops_a_background_merger_at_work() {
    static MERGED: AtomicU64 = AtomicU64::new(0);
    static STOPPED: AtomicU64 = AtomicU64::new(0);
    many();
    explore("appends and closing beside the background merger", || {
        let disk = Disk::new(many());
        let store = Arc::new(options(&disk).merge_policy(MergePolicy::Background).open(STORE).unwrap());
        let journal = Arc::new(Journal::new(&disk, &store));
        let appender = |name: &'static str| {
            let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
            thread::spawn(move || assert!(journal.append(&store, &[name]).is_ok()))
        };
        [appender("a"), appender("b")].into_iter().for_each(|thread| thread.join().unwrap());
        let store = Arc::into_inner(store).expect("all threads are done");
        match shuttle::rand::thread_rng().gen_bool(0.5) {
            true => store.close().unwrap(),
            false => drop(store),
        }
        let merged = options(&disk).for_reading().open(STORE).unwrap().snapshot().segments().count() < 60;
        (if merged { &MERGED } else { &STOPPED }).fetch_add(1, Ordering::Relaxed);
        end(&disk, &journal);
    });
    let (merged, stopped) = (MERGED.load(Ordering::Relaxed), STOPPED.load(Ordering::Relaxed));
    println!("the merger was done {merged} times and stopped {stopped} times");
    assert!(merged > 0 && stopped > 0);
}

/// A merger without work goes to sleep and is woken again and again; closing must find it awake or wake it.
#[test]
fn closing_stops_an_idle_background_merger() {
    two();
    explore("appends and closing beside a merger with nothing to do", || {
        let disk = Disk::new(two());
        let store = options(&disk).merge_policy(MergePolicy::Background).open(STORE).unwrap();
        let journal = Journal::new(&disk, &store);
        if shuttle::rand::thread_rng().gen_bool(0.5) {
            journal.append(&store, &["a"]).unwrap();
        }
        store.close().unwrap();
        end(&disk, &journal);
    });
}

/// A random call fails: the threads with batches in that group get the error, no thread waits for ever, and
/// no batch is lost or written twice.
#[test]
fn a_failed_call_gives_every_appender_an_answer() {
    static FAILED: AtomicU64 = AtomicU64::new(0);
    two();
    explore("three appenders and a call that fails", || {
        let disk = Disk::new(two());
        let store = open(&disk);
        let journal = Arc::new(Journal::with_faults(&disk, &store));
        let mut rng = shuttle::rand::thread_rng();
        let errno = [28, 5][rng.gen_range(0..2)];
        let at = disk.sim.calls().len() + rng.gen_range(0..60);
        disk.sim.set_fault(Some(Fault { at, errno, lasting: false }));
        let threads: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|name| {
                let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
                thread::spawn(move || {
                    let first = journal.append(&store, &[name]);
                    // After a refused batch the handle appends again, unless it is latched.
                    let second = journal.append(&store, &[&format!("{name}+")]);
                    match (first, second) {
                        (Err(Error::OutcomeUnknown { .. } | Error::Latched { .. }), second) => {
                            assert!(matches!(second, Err(Error::Latched { .. })), "{second:?}");
                            1
                        }
                        (first, second) => u64::from(first.is_err()) + u64::from(second.is_err()),
                    }
                })
            })
            .collect();
        let errors: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        FAILED.fetch_add(errors, Ordering::Relaxed);
        disk.sim.set_fault(None);
        journal.look_late(&store.snapshot());
        drop(close(store));
        // The next writer settles the commits in doubt.
        options(&disk).open(STORE).unwrap().close().unwrap();
        end(&disk, &journal);
    });
    println!("{} appends failed", FAILED.load(Ordering::Relaxed));
    assert_ne!(FAILED.load(Ordering::Relaxed), 0);
}

/// The leader panics in the middle of a commit: the waiters get an error, and the handle goes on.
#[test]
fn a_panicking_leader_abandons_its_group_and_the_handle_goes_on() {
    static PANICKED: AtomicU64 = AtomicU64::new(0);
    static ABANDONED: AtomicU64 = AtomicU64::new(0);
    two();
    explore("three appenders, one of which panics", || {
        let disk = Disk::new(two());
        let store = open(&disk);
        let journal = Arc::new(Journal::new(&disk, &store));
        disk.panic_in(Some(shuttle::rand::thread_rng().gen_range(0..40)));
        let threads: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|name| {
                let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
                thread::spawn(move || catch_unwind(AssertUnwindSafe(|| journal.append(&store, &[name]))))
            })
            .collect();
        let mut lost = Vec::new();
        for (thread, name) in threads.into_iter().zip(["a", "b", "c"]) {
            match thread.join().unwrap() {
                Ok(Ok(_)) => {}
                Ok(Err(Error::Abandoned { .. })) => {
                    ABANDONED.fetch_add(1, Ordering::Relaxed);
                    lost.push(name);
                }
                Ok(Err(other)) => panic!("{name}: {other}"),
                Err(_) => {
                    PANICKED.fetch_add(1, Ordering::Relaxed);
                    lost.push(name);
                }
            }
        }
        disk.panic_in(None);
        // The handle still works: stored keys are skipped, the others are written.
        let store = Arc::into_inner(store).expect("all threads are done");
        for name in lost {
            store.append(&mut batch(&store, &[name]), OnDuplicate::Skip).unwrap();
        }
        let all: Vec<String> = ["a", "b", "c", "old-1", "old-2"].map(str::to_owned).into();
        assert_eq!(keys(&store.snapshot()).into_iter().collect::<Vec<_>>(), all);
        store.close().unwrap();
        let store = options(&disk).for_reading().open(STORE).unwrap();
        assert_eq!(keys(&store.snapshot()).into_iter().collect::<Vec<_>>(), all);
        whole(&disk);
    });
    let (panicked, abandoned) = (PANICKED.load(Ordering::Relaxed), ABANDONED.load(Ordering::Relaxed));
    println!("{panicked} appends panicked, {abandoned} were abandoned with them");
    assert!(panicked > 0 && abandoned > 0);
}

#[test]
fn two_handles_that_append_agree() {
    two();
    explore("two handles that append", || {
        let disk = Disk::new(two());
        let first = open(&disk);
        let second = open(&disk.other_process());
        let journal = Arc::new(Journal::new(&disk, &first));
        let appender = |store: &Arc<Store>, name: &'static str| {
            let (store, journal) = (Arc::clone(store), Arc::clone(&journal));
            thread::spawn(move || {
                for number in 0..2 {
                    journal.append(&store, &[&format!("{name}{number}")]).unwrap();
                }
            })
        };
        let appenders = [appender(&first, "a"), appender(&second, "b")];
        let reader = {
            let (first, second, journal) = (Arc::clone(&first), Arc::clone(&second), Arc::clone(&journal));
            thread::spawn(move || {
                let mut last = [0, 0];
                for look in 0..4 {
                    let (store, last) =
                        if look % 2 == 0 { (&first, &mut last[0]) } else { (&second, &mut last[1]) };
                    let now = if look < 2 {
                        journal.refresh(store).unwrap()
                    } else {
                        journal.look_late(&store.snapshot())
                    };
                    assert!(now >= *last, "a snapshot of commit {now} after one of {last}");
                    *last = now;
                    thread::yield_now();
                }
            })
        };
        appenders.into_iter().chain([reader]).for_each(|thread| thread.join().unwrap());
        assert_eq!(journal.refresh(&first).unwrap(), 6);
        assert_eq!(journal.refresh(&second).unwrap(), 6);
        close(first).unwrap();
        close(second).unwrap();
        end(&disk, &journal);
    });
}

/// A process dies at a random call; another process appends meanwhile, and goes on.
#[test]
fn the_death_of_one_handle_disturbs_no_other() {
    static DIED: AtomicU64 = AtomicU64::new(0);
    two();
    explore("two handles that append, one of which dies", || {
        let disk = Disk::new(two());
        let first = open(&disk);
        let mortal = disk.other_process();
        let second = open(&mortal);
        let journal = Arc::new(Journal::new(&disk, &first));
        mortal.sim.die_at(mortal.sim.calls().len() + shuttle::rand::thread_rng().gen_range(0..45));
        let dying = {
            let (second, journal, sim) = (Arc::clone(&second), Arc::clone(&journal), mortal.sim.clone());
            thread::spawn(move || {
                let append = |key| journal.append_until(&second, &[key], || sim.is_dead());
                if append("b0").is_ok() && append("b1").is_ok() {
                    let _ = second.checkpoint();
                }
            })
        };
        let living = {
            let (first, journal) = (Arc::clone(&first), Arc::clone(&journal));
            thread::spawn(move || {
                journal.append(&first, &["a0"]).unwrap();
                journal.refresh(&first).unwrap();
                journal.append(&first, &["a1"]).unwrap();
            })
        };
        [dying, living].into_iter().for_each(|thread| thread.join().unwrap());
        DIED.fetch_add(u64::from(mortal.sim.is_dead()), Ordering::Relaxed);
        drop(second);
        // The next writer settles the commits of the dead process and removes its temporary files.
        journal.append(&first, &["a2"]).unwrap();
        close(first).unwrap();
        end(&disk, &journal);
    });
    println!("the process died {} times", DIED.load(Ordering::Relaxed));
    assert_ne!(DIED.load(Ordering::Relaxed), 0);
}

#[test]
fn one_handle_merges_while_another_appends() {
    two();
    explore("one handle merges, another appends and checkpoints", || {
        let disk = Disk::new(two());
        let first = open(&disk);
        let second = open(&disk.other_process());
        let journal = Arc::new(Journal::new(&disk, &first));
        let merger = {
            let (first, journal) = (Arc::clone(&first), Arc::clone(&journal));
            thread::spawn(move || {
                first.compact_full().unwrap();
                journal.look_late(&first.snapshot());
            })
        };
        let appender = {
            let (second, journal) = (Arc::clone(&second), Arc::clone(&journal));
            thread::spawn(move || {
                journal.append(&second, &["a"]).unwrap();
                second.checkpoint().unwrap();
                journal.append(&second, &["b"]).unwrap();
                journal.refresh(&second).unwrap();
            })
        };
        merger.join().unwrap();
        appender.join().unwrap();
        assert_eq!(journal.refresh(&first).unwrap(), 4);
        close(first).unwrap();
        close(second).unwrap();
        end(&disk, &journal);
    });
}
