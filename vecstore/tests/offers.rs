//! Processes that commit for each other: whoever waits for the commit lock offers its batches, whoever has it commits
//! them together with its own.

mod sim;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sim::run::STORE;
use sim::{Misfortune, SimFs};
use vecstore::vfs::Vfs;
use vecstore::{Appended, Batch, Error, OnDuplicate, OpenOptions, Store, StoreConfig};

/// Errors of a disk, from linux/errno.h.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Options for a store that several processes write to.
fn options(fs: &SimFs) -> OpenOptions {
    sim::run::options(fs).lock_timeout(Duration::from_secs(60))
}

fn batch(keys: &[&str], value: f32) -> Batch {
    let mut batch = Batch::new(1, vecstore::DType::F32);
    keys.iter().for_each(|key| batch.push(key, &[value]).unwrap());
    batch
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A process that has a store open.
struct Process {
    fs: SimFs,
    store: Arc<Store>,
}

type Outcome = JoinHandle<vecstore::Result<Appended>>;

impl Process {
    fn new(fs: &SimFs, options: impl Fn(&SimFs) -> OpenOptions) -> Self {
        let fs = fs.other_process();
        let store = Arc::new(options(&fs).open(STORE).unwrap());
        Process { fs, store }
    }

    fn letters(&self) -> usize {
        self.fs.calls().iter().filter(|call| call.what == "write letter").count()
    }

    fn tries(&self) -> usize {
        let is_lock = |path: &Path| path.ends_with("LOCK");
        self.fs.calls().iter().filter(|call| call.what == "lock" && is_lock(&call.path)).count()
    }

    /// Begins an append that will have to wait, and has offered its batch when this returns.
    fn offers(&self, batch: Batch, policy: OnDuplicate) -> Outcome {
        let (before, store) = (self.letters(), Arc::clone(&self.store));
        let outcome = std::thread::spawn(move || store.append(batch, policy));
        until("an offer", || self.letters() >= before + 2);
        outcome
    }

    /// It cannot try the lock for once, which is as good as a patience that is at an end, but does not depend on time. It has
    /// withdrawn its offer when this returns.
    fn gives_up(&self) {
        let before = self.fs.call_count();
        self.fs.arm("lock", 0, Misfortune::Fails(EIO, false));
        let withdraws = |call: &sim::Call| {
            call.what == "unlock" && !call.path.ends_with("LOCK") && !call.path.ends_with("LOCK.turn")
        };
        until("it gives up", || self.fs.calls_from(before).iter().any(withdraws));
    }

    /// The same, and it has the turn at the lock, so that nobody gets it before.
    fn offers_next(&self, batch: Batch, policy: OnDuplicate) -> Outcome {
        let outcome = self.offers(batch, policy);
        // It has tried once before it offered.
        let tries = self.tries();
        until("a turn", || self.tries() > tries);
        outcome
    }
}

/// A store whose commit lock a third process holds, in the middle of a commit, until it is told to go on.
struct Scene {
    fs: SimFs,
    holder: Outcome,
    go_on: Sender<()>,
}

impl Scene {
    fn new() -> Self {
        let fs = SimFs::new();
        drop(options(&fs).create(STORE, StoreConfig::new(1)).unwrap());
        Self::on(&fs)
    }

    fn on(fs: &SimFs) -> Self {
        let process = Process::new(fs, options);
        let before = process.fs.calls().len();
        process.store.append(batch(&["first"], 0.0), OnDuplicate::Skip).unwrap();
        let calls = process.fs.calls();
        let of_rename = calls[before..].iter().position(|call| call.what == "rename").unwrap();
        // The second append takes the lock as the first one did, or with less looking around.
        let (wait, held) = channel();
        let (go_on, may) = channel::<()>();
        let at = calls.len() + of_rename.min(8);
        process.fs.before(at, move || {
            wait.send(()).unwrap();
            may.recv().unwrap();
        });
        let holder =
            std::thread::spawn(move || process.store.append(batch(&["second"], 0.0), OnDuplicate::Skip));
        held.recv().unwrap();
        Scene { fs: fs.clone(), holder, go_on }
    }

    /// Lets the holder finish.
    fn go_on(self) -> SimFs {
        self.go_on.send(()).unwrap();
        self.holder.join().unwrap().unwrap();
        self.fs
    }
}

/// A waits next to the lock, B behind it; both have offered their batches.
fn two(
    scene: &Scene,
    for_a: Batch,
    for_b: Batch,
    policy: OnDuplicate,
) -> ((Process, Outcome), (Process, Outcome)) {
    let a = Process::new(&scene.fs, options);
    let of_a = a.offers_next(for_a, OnDuplicate::Skip);
    let b = Process::new(&scene.fs, options);
    let of_b = b.offers(for_b, policy);
    ((a, of_a), (b, of_b))
}

/// The value of a key, and the commit it is in.
fn value(store: &Store, key: &str) -> Option<(f32, u64)> {
    let snapshot = store.snapshot();
    let entry = snapshot.get(key).unwrap()?;
    Some((entry.to_f32().unwrap()[0], entry.address().commit))
}

fn assert_whole(fs: &SimFs) -> Store {
    let process = Process::new(fs, options);
    let report = vecstore::verify_with(&process.fs, Path::new(STORE), |_| {}).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
    Arc::try_unwrap(process.store).unwrap()
}

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

fn impatient(fs: &SimFs) -> OpenOptions {
    options(fs).lock_timeout(Duration::from_millis(30))
}

#[test]
fn whoever_gives_up_takes_the_offer_back() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, impatient);
    let error = a.offers(batch(&["a"], 1.0), OnDuplicate::Skip).join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    // Who comes next sees the offer, and that it was taken back.
    let b = Process::new(&scene.fs, options);
    let of_b = b.offers(batch(&["b"], 2.0), OnDuplicate::Skip);
    let fs = scene.go_on();
    of_b.join().unwrap().unwrap();
    let store = assert_whole(&fs);
    assert_eq!((value(&store, "a"), value(&store, "b")), (None, Some((2.0, 3))));
    a.store.append(batch(&["a"], 1.0), OnDuplicate::Error).unwrap();
    assert_eq!(value(&a.store, "a"), Some((1.0, 4)));
}

#[test]
fn whoever_gives_up_too_late_waits_for_the_outcome() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, options);
    let of_a = a.offers_next(batch(&["a"], 1.0), OnDuplicate::Skip);
    let b = Process::new(&scene.fs, options);
    let of_b = b.offers(batch(&["b"], 2.0), OnDuplicate::Skip);
    // The first has taken the offer, and does not go on before the second has given up.
    let ((told, at), (gave_up, may)) = (channel::<()>(), channel::<()>());
    a.fs.before_next("create", move || {
        told.send(()).unwrap();
        may.recv().unwrap();
    });
    let fs = scene.go_on();
    at.recv().unwrap();
    b.gives_up();
    gave_up.send(()).unwrap();
    of_a.join().unwrap().unwrap();
    let of_b = of_b.join().unwrap().unwrap();
    assert_eq!(value(&assert_whole(&fs), "b"), Some((2.0, of_b.commit.unwrap())));
}

#[test]
fn mailboxes_of_the_dead_are_removed() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, impatient);
    a.offers(batch(&["a"], 1.0), OnDuplicate::Skip).join().unwrap().unwrap_err();
    a.fs.die_at(a.fs.calls().len());
    drop(a);
    let fs = scene.go_on();
    let mailboxes = || fs.names(STORE).into_iter().filter(|name| name.contains("offer")).count();
    assert_eq!(mailboxes(), 1);
    let store = assert_whole(&fs);
    store.append(batch(&["b"], 2.0), OnDuplicate::Skip).unwrap();
    assert_eq!(mailboxes(), 0);
    assert_eq!(value(&store, "a"), None);
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

/// The owner gives up after the taker has seen that he is alive, and before he says that he took the offer.
#[test]
fn whoever_gives_up_while_it_is_taken_takes_the_offer_back() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, options);
    let of_a = a.offers_next(batch(&["a"], 1.0), OnDuplicate::Skip);
    let b = Process::new(&scene.fs, options);
    let of_b = b.offers(batch(&["b"], 2.0), OnDuplicate::Skip);
    // It writes that it takes its own offer back, and then that it takes the other one.
    let ((told, at), (stop, may)) = (channel::<()>(), channel::<()>());
    let once = a.fs.clone();
    a.fs.before_next("write letter", move || {
        once.before_next("write letter", move || {
            told.send(()).unwrap();
            may.recv().unwrap();
        });
    });
    let fs = scene.go_on();
    at.recv().unwrap();
    b.gives_up();
    let error = of_b.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // What it offers next is another offer.
    let of_b = b.offers(batch(&["b2"], 2.0), OnDuplicate::Skip);
    stop.send(()).unwrap();
    of_a.join().unwrap().unwrap();
    let commit = of_b.join().unwrap().unwrap().commit.unwrap();
    let store = assert_whole(&fs);
    assert_eq!((value(&store, "b"), value(&store, "b2")), (None, Some((2.0, commit))));
    drop((a, b, store));
    assert!(!fs.names(STORE).iter().any(|name| name.contains("offer")), "{:?}", fs.names(STORE));
}

#[test]
fn a_full_disk_is_no_affair_of_those_whose_batches_fit() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, options);
    let of_a = a.offers_next(batch(&["a"], 1.0), OnDuplicate::Skip);
    let b = Process::new(&scene.fs, options);
    let mut large = Batch::new(1, vecstore::DType::F32);
    large.push_with_payload("b", &[2.0f32], &vec![7; 1 << 20]).unwrap();
    let of_b = b.offers(large, OnDuplicate::Skip);
    let room = sim::Room { bytes: scene.fs.used() + (1 << 17), is_quota: false, copies: false, names: false };
    scene.fs.set_room(Some(room));
    let fs = scene.go_on();
    of_a.join().unwrap().unwrap();
    let error = of_b.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    fs.set_room(None);
    let store = assert_whole(&fs);
    assert_eq!((value(&store, "a"), value(&store, "b")), (Some((1.0, 3)), None));
}

/// From some call of the taker on nothing can be written, not even over what is there: that it took the offer, what it will
/// be, that it is done, or that it gives it back. Everybody is told that the disk is full, and goes on when it is not.
#[test]
fn a_disk_that_has_no_room_for_answers_leaves_nobody_in_doubt() {
    let (tried, told) =
        full_from_some_call_on(|used| sim::Room { bytes: used, copies: true, ..sim::Room::default() });
    println!("offers: the disk full at {tried} calls, {} batches refused", told.refused);
    assert!(tried > 15 && told.refused > 15, "{tried} {told:?}");
    assert_eq!(told.in_doubt, 0, "an answer can be given by a name");
}

/// The same where names need room as well, and what is removed leaves none for the moment. Only who was served, and cannot be
/// told, is in doubt; who was not finds that out though nobody can write that he has the lock.
#[test]
fn without_room_for_names_only_what_was_committed_is_in_doubt() {
    let (tried, told) =
        full_from_some_call_on(|_| sim::Room { bytes: 0, is_quota: false, copies: true, names: true });
    println!(
        "offers: no room at {tried} calls, {} batches refused, {} in doubt",
        told.refused, told.in_doubt
    );
    assert!(tried > 15 && told.refused > 15, "{tried} {told:?}");
    assert!((1..=4).contains(&told.in_doubt), "{told:?}");
}

/// An offer that could not be announced, because the disk was full at that moment, was not made: nobody can have taken it.
#[test]
fn what_could_not_be_announced_was_not_offered() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, options);
    a.fs.arm("write letter", 1, Misfortune::Fails(ENOSPC, false));
    let of_a = a.offers_next(batch(&["a"], 1.0), OnDuplicate::Skip);
    let fs = scene.go_on();
    assert_eq!(of_a.join().unwrap().unwrap().commit, Some(3));
    assert_eq!(value(&assert_whole(&fs), "a"), Some((1.0, 3)));
}

/// What those are told who could not be told that their batches are committed.
#[derive(Debug, Default)]
struct Told {
    refused: usize,
    in_doubt: usize,
}

/// Two processes append while a disk gets full at each call in turn. How many calls that were, and what was told.
fn full_from_some_call_on(room: fn(u64) -> sim::Room) -> (usize, Told) {
    let (mut tried, mut told) = (0, Told::default());
    for after in 0.. {
        let scene = Scene::new();
        let ((a, of_a), (b, of_b)) =
            two(&scene, batch(&["a"], 1.0), batch(&["b"], 2.0), OnDuplicate::Replace);
        let (first, disk) = (a.fs.call_count(), a.fs.clone());
        let fills = a.fs.clone();
        a.fs.before_next("write record", move || {
            let room = room(disk.used());
            let (at, disk) = (fills.call_count() + after, disk.clone());
            fills.before(at, move || disk.set_room(Some(room)));
        });
        let fs = scene.go_on();
        let outcomes = [of_a.join().unwrap(), of_b.join().unwrap()];
        fs.set_room(None);
        tried += 1;
        let store = assert_whole(&fs);
        for ((process, key), outcome) in [(&a, "a"), (&b, "b")].into_iter().zip(outcomes) {
            match outcome {
                Ok(appended) => {
                    assert!(value(&store, key).is_some_and(|(_, at)| Some(at) == appended.commit))
                }
                Err(Error::OutcomeUnknown { .. }) => {
                    told.in_doubt += 1;
                    assert!(value(&store, key).is_some(), "call {after} of {key}");
                    continue;
                }
                Err(error) => {
                    told.refused += 1;
                    assert!(matches!(error, Error::NoSpace { .. }), "call {after} of {key}: {error}");
                    assert_eq!(value(&store, key), None, "call {after} of {key}");
                }
            }
            process.store.append(batch(&["later"], 3.0), OnDuplicate::Replace).unwrap();
        }
        assert_whole(&fs);
        let calls = a.fs.calls_from(first);
        let taken = calls.iter().position(|call| call.what == "write record").unwrap();
        let gives_back = |call: &sim::Call| call.what == "unlock" && call.path.ends_with("LOCK");
        let released = calls.iter().skip(taken).position(gives_back).unwrap();
        if after > released {
            return (tried, told);
        }
    }
    unreachable!("some call is the last")
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
        until("a turn", || next.tries() > tries);
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
    until("it waits", || a.tries() > tries + 1);
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

/// Whoever gives up, and cannot read whether his offer was taken, does not say that it was not.
#[test]
fn whoever_cannot_read_the_answer_when_giving_up_is_in_doubt() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, impatient);
    // It gives its turn back when it has tried, and when it has waited; then the lock on its mailbox, which it reads.
    let (tried, waited) = (a.fs.clone(), a.fs.clone());
    a.fs.before_next("unlock", move || {
        tried.before_next("unlock", move || waited.arm("unlock", 2, Misfortune::Fails(EIO, true)));
    });
    let error = a.store.append(batch(&["a"], 1.0), OnDuplicate::Skip).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    scene.go_on();
}

/// The lock cannot be tried while another process commits the offer, and that one cannot write that it gives the lock back. It
/// has said that the offer is committed, though.
#[test]
fn whoever_is_told_that_he_was_served_is_in_no_doubt() {
    let scene = Scene::new();
    let ((a, of_a), (b, of_b)) = two(&scene, batch(&["a"], 1.0), batch(&["b"], 2.0), OnDuplicate::Skip);
    // It stops when it has taken the offer; and the last thing it writes into the record fails.
    let ((told, at), (finish, may)) = (channel::<()>(), channel::<()>());
    let (named, answers) = (a.fs.clone(), a.fs.clone());
    a.fs.before_next("create", move || {
        told.send(()).unwrap();
        may.recv().unwrap();
        named.before_next("flush directory", move || {
            let fails = answers.clone();
            answers.before_next("write letter", move || {
                fails.arm("write record", 0, Misfortune::Fails(EIO, false));
            });
        });
    });
    let fs = scene.go_on();
    at.recv().unwrap();
    // When it has withdrawn its offer it cannot ask for a turn, either.
    let (before, fails) = (b.fs.call_count(), b.fs.clone());
    b.fs.before_next("unlock", move || {
        let again = fails.clone();
        fails.before_next("lock", move || again.arm("lock", 0, Misfortune::Fails(EIO, false)));
    });
    b.gives_up();
    let locks = || b.fs.calls_from(before).iter().filter(|call| call.what == "lock").count();
    let tried = locks();
    until("it finds out", || locks() > tried + 2);
    finish.send(()).unwrap();
    of_a.join().unwrap().unwrap();
    let of_b = of_b.join().unwrap().unwrap();
    assert_eq!(of_b.commit, Some(4));
    assert_eq!(value(&b.store, "b"), Some((2.0, 4)));
    b.store.append(batch(&["later"], 3.0), OnDuplicate::Error).unwrap();
    assert_eq!(value(&assert_whole(&fs), "b"), Some((2.0, 4)));
}
