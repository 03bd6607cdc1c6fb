//! Processes that commit for each other: whoever waits for the commit lock offers its batches, whoever has it commits
//! them together with its own.

mod sim;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use sim::run::STORE;
use sim::scene::{EIO, ENOSPC, Process, Scene, assert_whole, batch, options, two, value};
use sim::{Misfortune, SimFs};
use vecstore::vfs::Vfs;
use vecstore::{Error, OnDuplicate, StoreConfig};

#[test]
fn whoever_has_the_lock_commits_what_others_offer() {
    let scene = Scene::new();
    let ((a, of_a), (b, of_b)) = two(&scene, batch(&["a"], 1.0), batch(&["b"], 2.0), OnDuplicate::Skip);
    let fs = scene.go_on();
    let (of_a, of_b) = (of_a.join().unwrap().unwrap(), of_b.join().unwrap().unwrap());
    assert_eq!((of_a.commit, of_b.commit), (Some(3), Some(4)));
    let names = fs.names(&format!("{STORE}/segments"));
    assert!(names.iter().any(|name| name.starts_with("0000000003-0000000004.")), "{names:?}");
    let created = b.fs.calls().iter().any(|call| call.what == "create");
    assert!(!created, "the second process wrote nothing itself");
    // Each sees what it was told is stored, and then goes on by itself.
    assert_eq!(value(&a.store, "a"), Some((1.0, 3)));
    assert_eq!(value(&b.store, "b"), Some((2.0, 4)));
    for (process, key) in [(&b, "later 1"), (&a, "later 2"), (&b, "later 3")] {
        process.store.append(batch(&[key], 3.0), OnDuplicate::Error).unwrap();
    }
    let store = assert_whole(&fs);
    assert_eq!(store.snapshot().last_commit(), 7);
    drop((a, b, store));
    let left: Vec<String> = fs.names(STORE).into_iter().filter(|name| name.contains("offer")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_offer_that_cannot_be_committed_is_its_owners_affair() {
    let scene = Scene::new();
    let taken = batch(&["b", "first"], 2.0);
    let ((_, of_a), (b, of_b)) = two(&scene, batch(&["a"], 1.0), taken, OnDuplicate::Error);
    let fs = scene.go_on();
    assert_eq!(of_a.join().unwrap().unwrap().commit, Some(3));
    let error = of_b.join().unwrap().unwrap_err();
    assert!(matches!(&error, Error::DuplicateKey { key, .. } if key == b"first"), "{error}");
    assert_eq!(value(&b.store, "b"), None);
    assert_eq!(assert_whole(&fs).snapshot().last_commit(), 3);
}

#[test]
fn batches_of_one_key_in_one_commit_supersede_each_other_in_order() {
    let scene = Scene::new();
    let ((_, of_a), (b, of_b)) =
        two(&scene, batch(&["k", "a"], 1.0), batch(&["k"], 2.0), OnDuplicate::Replace);
    let fs = scene.go_on();
    assert_eq!(of_a.join().unwrap().unwrap().commit, Some(3));
    let of_b = of_b.join().unwrap().unwrap();
    assert_eq!((of_b.commit, of_b.replaced), (Some(4), 1));
    assert!(fs.exists(&format!("{STORE}/segments/0000000003-0000000004.0.npy")), "one commit");
    assert_eq!(value(&b.store, "k"), Some((2.0, 4)));
    assert_eq!(value(&assert_whole(&fs), "k"), Some((2.0, 4)));
}

/// What befalls the process that has taken an offer must neither lose the offer nor write it twice.
fn misfortunes(of: &dyn Fn() -> Misfortune) -> (usize, usize) {
    let (mut tried, mut for_them) = (0, 0);
    for after in 0.. {
        let scene = Scene::new();
        let ((a, of_a), (b, of_b)) =
            two(&scene, batch(&["k", "a"], 1.0), batch(&["k", "b"], 2.0), OnDuplicate::Replace);
        // It writes the record when it has taken the lock.
        let before = a.fs.calls().len();
        a.fs.arm("write record", after, of());
        let fs = scene.go_on();
        let of_a = of_a.join().unwrap();
        // Where nothing works any more a lock is not given back either, until its handle ends.
        let Process { fs: a, store } = a;
        drop(store);
        let of_b = of_b.join().unwrap().unwrap_or_else(|error| panic!("call {after}: {error}"));
        let calls = a.calls();
        let taken = calls.iter().skip(before).position(|call| call.what == "write record").unwrap_or(0);
        let is_over = calls.len() < before + taken + after && of_a.is_ok();
        tried += 1;
        for_them += usize::from(!b.fs.calls().iter().any(|call| call.what == "create"));

        // Written twice it would have replaced itself.
        assert!(of_b.replaced <= 1, "call {after}: {of_b:?}");
        let store = assert_whole(&fs);
        for (key, of) in [("k", 2.0), ("b", 2.0)] {
            let stored = value(&store, key);
            assert_eq!(stored, Some((of, of_b.commit.unwrap())), "call {after}: {key}, {calls:?}");
            assert_eq!(value(&b.store, key), stored, "call {after}: {key}");
        }
        match &of_a {
            Ok(appended) => {
                assert_eq!(value(&store, "a"), appended.commit.map(|commit| (1.0, commit)), "call {after}");
            }
            // Dead, or in doubt: whole or not at all.
            Err(error) if a.is_dead() || matches!(error, Error::OutcomeUnknown { .. }) => {}
            Err(error) => assert_eq!(value(&store, "a"), None, "call {after}: {error}"),
        }
        let rows = store.snapshot().iter().count();
        assert_eq!(rows, 4 + usize::from(value(&store, "a").is_some()), "call {after}");
        drop((a, b, store));
        if is_over {
            break;
        }
    }
    (tried, for_them)
}

#[test]
fn whoever_dies_with_an_offer_loses_nothing_of_it() {
    let (tried, for_them) = misfortunes(&|| Misfortune::Dies);
    println!("offers: died at {tried} calls, {for_them} times after the commit");
    assert!(tried > 15 && for_them > 1, "{tried} {for_them}");
}

#[test]
fn whoever_fails_with_an_offer_loses_nothing_of_it() {
    let mut all = 0;
    for errno in [EIO, ENOSPC] {
        for lasting in [false, true] {
            let (tried, for_them) = misfortunes(&|| Misfortune::Fails(errno, lasting));
            assert!(tried > 15 && for_them > 1, "{tried} {for_them}");
            all += tried;
        }
    }
    println!("offers: {all} failing calls");
}

#[test]
fn a_commit_that_is_merged_before_its_writer_maps_it_is_seen() {
    let fs = SimFs::new();
    drop(options(&fs).create(STORE, StoreConfig::new(1)).unwrap());
    let (a, b) = (Process::new(&fs, options), Process::new(&fs, options));
    a.store.append(batch(&["a"], 1.0), OnDuplicate::Skip).unwrap();
    let merger = Arc::clone(&b.store);
    a.fs.before_next("map", move || assert_eq!(merger.compact_full().unwrap().merges, 1));
    let appended = a.store.append(batch(&["b"], 2.0), OnDuplicate::Skip).unwrap();
    assert_eq!(value(&a.store, "b"), Some((2.0, appended.commit.unwrap())));
    assert_eq!(fs.names(&format!("{STORE}/segments")).len(), 1);
}

#[test]
fn the_middle_of_a_group_is_seen_by_its_owner() {
    let scene = Scene::new();
    let ((a, of_a), (b, of_b)) = two(&scene, batch(&["a"], 1.0), batch(&["b"], 2.0), OnDuplicate::Skip);
    let c = Process::new(&scene.fs, options);
    let of_c = c.offers(batch(&["c"], 3.0), OnDuplicate::Skip);
    scene.go_on();
    for ((process, outcome), (key, of)) in
        [(a, of_a), (b, of_b), (c, of_c)].into_iter().zip([("a", 1.0), ("b", 2.0), ("c", 3.0)])
    {
        let commit = outcome.join().unwrap().unwrap().commit.unwrap();
        assert_eq!(value(&process.store, key), Some((of, commit)), "{key}");
    }
}

#[test]
fn what_an_offer_was_skipped_for_is_seen_by_its_owner() {
    let scene = Scene::new();
    let ((_, of_a), (b, of_b)) = two(&scene, batch(&["k"], 1.0), batch(&["k"], 2.0), OnDuplicate::Skip);
    scene.go_on();
    of_a.join().unwrap().unwrap();
    assert_eq!(of_b.join().unwrap().unwrap().skipped, 1);
    assert_eq!(value(&b.store, "k"), Some((1.0, 3)));
}

/// Nothing is written where all is there already, though some of it came after anything that its owner knows.
#[test]
fn what_need_not_be_written_is_seen_by_its_owner() {
    let fs = SimFs::new();
    drop(options(&fs).create(STORE, StoreConfig::new(1)).unwrap());
    let (b, other) = (Process::new(&fs, options), Process::new(&fs, options));
    b.store.append(batch(&["b"], 1.0), OnDuplicate::Skip).unwrap();
    // More than the lock's record tells.
    for i in 0..12 {
        other.store.append(batch(&[&format!("k{i}")], 2.0), OnDuplicate::Skip).unwrap();
    }
    let scene = Scene::on(&fs);
    let a = Process::new(&fs, options);
    let of_a = a.offers_next(batch(&["first"], 3.0), OnDuplicate::Skip);
    let of_b = b.offers(batch(&["k11"], 3.0), OnDuplicate::Skip);
    // It writes the record when it has taken the lock, before it answers, and when it gives the lock back: that only when the
    // other one has been served.
    let (was_served, may) = channel::<()>();
    let (taken, told) = (a.fs.clone(), a.fs.clone());
    a.fs.before_next("write record", move || {
        taken.before_next("write record", move || {
            told.before_next("write record", move || may.recv().unwrap());
        });
    });
    scene.go_on();
    let of_b = of_b.join().unwrap().unwrap();
    was_served.send(()).unwrap();
    let of_a = of_a.join().unwrap().unwrap();
    for (appended, process, key, stored) in [(of_a, &a, "first", (0.0, 14)), (of_b, &b, "k11", (2.0, 13))] {
        assert_eq!((appended.commit, appended.skipped), (None, 1), "{key}");
        assert_eq!(value(&process.store, key), Some(stored), "{key}");
    }
    assert_eq!(fs.names(&format!("{STORE}/segments")).len(), 15);
}

/// Whoever is served maps what was committed meanwhile by its name. The directory is looked at only now and then, when there
/// are many files: somebody may have merged them.
#[test]
fn who_is_served_need_not_look_around() {
    let fs = SimFs::new();
    drop(options(&fs).create(STORE, StoreConfig::new(1)).unwrap());
    // Nothing is merged.
    let mut merging = fs.other_process().open_lock(&Path::new(STORE).join("LOCK.merge"), true).unwrap();
    assert!(merging.try_lock().unwrap());
    let served = Process::new(&fs, options);
    let mut keys = 0;
    let mut commits = |count: usize| {
        for _ in 0..count {
            keys += 1;
            served.store.append(batch(&[&format!("own {keys}")], 0.0), OnDuplicate::Skip).unwrap();
        }
    };
    let looks = |key: &str| {
        // The holder's keys of the time before.
        served.store.delete(&["first", "second"]).unwrap();
        let scene = Scene::on(&fs);
        let next = Process::new(&fs, options);
        let tries = next.tries();
        let of_next = next.offers(batch(&[&format!("next {key}")], 0.0), OnDuplicate::Skip);
        next.fs.until("a turn", || next.tries() > tries);
        let before = served.fs.calls().len();
        let outcome = served.offers(batch(&[key], 0.0), OnDuplicate::Skip);
        // After it has answered, it does nothing before the other one has been served: what that one needs is there by then.
        let (was_served, may) = channel::<()>();
        let (named, answered) = (next.fs.clone(), next.fs.clone());
        next.fs.before_next("rename", move || {
            named.before_next("write letter", move || {
                answered.before_next("write record", move || may.recv().unwrap());
            });
        });
        scene.go_on();
        outcome.join().unwrap().unwrap();
        was_served.send(()).unwrap();
        of_next.join().unwrap().unwrap();
        assert!(served.store.snapshot().contains(key).unwrap());
        let calls = served.fs.calls_from(before);
        calls.iter().filter(|call| call.what == "list" && call.path.ends_with("segments")).count()
    };
    commits(1);
    assert_eq!(looks("few"), 0);
    commits(95);
    assert_eq!(looks("many"), 1);
    assert_eq!(looks("not many more"), 0);
    commits(32);
    assert_eq!(looks("many more"), 1);
}

/// What is to be read back before it gets its name is written by nobody else.
#[test]
fn who_reads_back_what_he_writes_does_not_offer() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, |fs| options(fs).verify_saves(true));
    let (tries, store) = (a.tries(), Arc::clone(&a.store));
    let of_a = std::thread::spawn(move || store.append(batch(&["a"], 1.0), OnDuplicate::Skip));
    a.fs.until("it waits", || a.tries() > tries + 1);
    scene.go_on();
    assert_eq!(of_a.join().unwrap().unwrap().commit, Some(3));
    assert_eq!(a.letters(), 0);
}

/// That an offer was committed says nothing of what its owner commits himself later.
#[test]
fn what_was_served_before_is_not_the_outcome_of_what_fails_now() {
    let scene = Scene::new();
    let ((_a, of_a), (b, of_b)) = two(&scene, batch(&["a"], 1.0), batch(&["b"], 2.0), OnDuplicate::Skip);
    scene.go_on();
    of_a.join().unwrap().unwrap();
    assert_eq!(of_b.join().unwrap().unwrap().commit, Some(4));
    b.fs.arm("create", 0, Misfortune::Fails(EIO, false));
    let error = b.store.append(batch(&["c"], 3.0), OnDuplicate::Skip).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(value(&b.store, "c"), None);
    assert_eq!(b.store.append(batch(&["c"], 3.0), OnDuplicate::Skip).unwrap().commit, Some(5));
}

/// The owner gets the lock when his offer has been committed already: whatever he fails at then, it is.
#[test]
fn whoever_fails_when_he_was_served_is_told_of_the_commit() {
    let mut tried = 0;
    for after in 0.. {
        let scene = Scene::new();
        let ((_a, of_a), (b, of_b)) =
            two(&scene, batch(&["a"], 1.0), batch(&["k", "b"], 2.0), OnDuplicate::Replace);
        let (served, may) = channel::<()>();
        b.fs.before_next("lock", move || may.recv().unwrap());
        let fs = scene.go_on();
        of_a.join().unwrap().unwrap();
        // It writes the record when it has taken the lock.
        let before = b.fs.calls().len();
        b.fs.arm("write record", after, Misfortune::Fails(EIO, false));
        served.send(()).unwrap();
        let of_b = of_b.join().unwrap().unwrap_or_else(|error| panic!("call {after}: {error}"));
        let calls = b.fs.calls_from(before);
        let taken = calls.iter().position(|call| call.what == "write record").unwrap();
        assert_eq!((of_b.commit, of_b.replaced), (Some(4), 0), "call {after}: {calls:?}");
        drop(b);
        assert_eq!(value(&assert_whole(&fs), "b"), Some((2.0, 4)), "call {after}");
        if calls.len() <= taken + after {
            break;
        }
        tried += 1;
    }
    println!("offers: {tried} calls failed when all was done");
    assert!(tried > 5, "{tried}");
}
