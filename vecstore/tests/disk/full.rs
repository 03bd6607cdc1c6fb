//! A disk that fills up: an append, a merge in the background, a version and a backup run out of
//! room; nothing is lost, the error says how much was needed and how much there is, and all goes on when
//! there is room again, by itself or with the same call.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::sim::check::whole;
use crate::sim::oracle::DIM;
use crate::sim::run::{BACKUP, STORE, options};
use crate::sim::{Room, SimFs, is_temporary};
use vecstore::{Error, Event, Merging, OnDuplicate, Store, StoreConfig};

/// Long enough for whatever happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rows per batch: a batch takes some 16 KiB, more than what a full disk has left for manifests.
const ROWS: usize = 512;
/// Bytes of a lock's record.
const RECORD: u64 = 256;

fn append(store: &Store, key: usize) -> vecstore::Result<vecstore::Appended> {
    let mut batch = store.batch();
    batch.push(format!("key {key}"), &vec![1.0f32; ROWS * DIM]).expect("a good entry");
    store.append(&mut batch, OnDuplicate::Error)
}

/// The disk holds this many bytes more than it does now, and needs some for what is overwritten.
fn leave(fs: &SimFs, bytes: u64, is_quota: bool) {
    fs.set_room(Some(Room { bytes: fs.used() + bytes, is_quota, copies: true, names: false, late: false }));
}

/// The same on a disk that overwrites in place: a lock can be taken however full it is.
fn leave_in_place(fs: &SimFs, bytes: u64) {
    fs.set_room(Some(Room {
        bytes: fs.used() + bytes,
        is_quota: false,
        copies: false,
        names: false,
        late: false,
    }));
}

/// The disk holds this many bytes more, and it is a flush that sees when they are used up. How many that is
/// in all.
fn leave_for_flushes(fs: &SimFs, bytes: u64) -> u64 {
    let bytes = fs.used() + bytes;
    fs.set_room(Some(Room { bytes, is_quota: false, copies: false, names: false, late: true }));
    bytes
}

/// What a full disk's error says is needed and free.
fn needed_and_free(error: &Error) -> (u64, u64) {
    match error {
        Error::NoSpace { needed, free: Some(free), .. } => {
            let text = error.to_string();
            assert!(text.contains(&needed.to_string()) && text.contains(&free.to_string()), "{text}");
            (*needed, *free)
        }
        other => panic!("not a full disk: {other}"),
    }
}

fn temporaries(fs: &SimFs, dir: &str) -> Vec<String> {
    fs.names(dir).into_iter().filter(|name| is_temporary(name.as_ref())).collect()
}

/// Exactly these keys are there, after a start of the machine too.
fn assert_holds(fs: &SimFs, path: &str, keys: usize) {
    let reader = options(fs).read_only(true).open(path).expect("it opens");
    let snapshot = reader.snapshot();
    let names: Vec<String> = (0..keys).map(|key| format!("key {key}")).collect();
    assert_eq!(snapshot.missing(&names).expect("it looks them up"), Vec::<usize>::new());
    assert_eq!(snapshot.iter().count(), keys);
    whole(fs).expect("every byte is right");
}

#[test]
fn an_append_goes_on_when_there_is_room_again() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(DIM)).expect("there is room");
    append(&store, 0).expect("there is room");
    let one = fs.used();
    append(&store, 1).expect("there is room");
    let batch = fs.used() - one;
    for (is_quota, left) in [(false, 0), (false, batch / 2), (true, batch - 1)] {
        leave(&fs, left, is_quota);
        let before = fs.used();
        for _ in 0..3 {
            let error = append(&store, 2).expect_err("there is no room");
            let (needed, free) = needed_and_free(&error);
            // Where there is no room at all the lock's record already needs some.
            assert_eq!(needed, if left == 0 { RECORD } else { batch });
            assert!(is_quota || free == left, "{free} are said to be free, {left} are");
            assert_eq!(fs.used(), before, "nothing is left of it");
            assert_holds(&fs, STORE, 2);
        }
        assert_eq!(store.snapshot().last_commit(), 2);
    }
    leave(&fs, batch + RECORD, false);
    append(&store, 2).expect("the same handle goes on");
    fs.set_room(None);
    store.close().expect("there is room");
    assert_holds(&fs, STORE, 3);
}

/// What failed takes no room any more when it is said how much is free.
#[test]
fn a_flush_that_finds_no_room_is_no_reason_to_say_there_is_less() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(DIM)).expect("there is room");
    append(&store, 0).expect("there is room");
    let one = fs.used();
    append(&store, 1).expect("there is room");
    let batch = fs.used() - one;
    let left = batch / 2;
    let segment = fs.names("/d/s/segments").pop().expect("there are two");
    store.close().expect("there is room");
    let store = options(&fs).open(STORE).expect("it opens");

    // What is said to be free is what is free after the call: a lock file may have come, nothing else.
    let said = |error: Error, full: u64| {
        let (needed, free) = needed_and_free(&error);
        assert_eq!(free, full - fs.used(), "{error}");
        needed
    };
    let full = leave_for_flushes(&fs, left);
    assert_eq!(said(append(&store, 2).expect_err("there is no room"), full), batch);
    said(store.compact_full().expect_err("there is no room"), full);
    assert_eq!(temporaries(&fs, "/d/s/segments"), Vec::<String>::new());

    // Copies: of a backup that is restored, and of what is intact of a damaged segment.
    fs.set_room(None);
    store.close().expect("there is room");
    leave_for_flushes(&fs, left);
    let restored = vecstore::restore_with(&fs, Path::new(STORE), Path::new("/d/r"));
    let (_, free) = needed_and_free(&restored.expect_err("there is no room"));
    assert!(left - free <= 2 * RECORD, "all but locks of the new store, which go with it: {free} of {left}");
    fs.rot(&Path::new("/d/s/segments").join(&segment), 5000);
    let full = leave_for_flushes(&fs, left);
    let error = vecstore::repair_with(&fs, Path::new(STORE)).expect_err("there is no room");
    assert!(error.to_string().contains("segments/"), "{error}");
    said(error, full);
}

/// Appends until the merger has run out of room, on a disk that has room for appends; says what it was told.
fn fill(is_quota: bool) -> (SimFs, Store, Receiver<Event>, Event) {
    let fs = SimFs::new();
    let (tell, told) = channel();
    let store = options(&fs)
        .merging(Merging::Background)
        .lock_timeout(PATIENCE)
        .on_event(move |event| drop(tell.send(event.clone())))
        .create(STORE, StoreConfig::new(DIM))
        .expect("there is room");
    for key in 0..63 {
        append(&store, key).expect("there is room");
    }
    // The merge of 64 files needs as much again as all of them; this is a fraction, and does for appends.
    leave(&fs, fs.used() / 4, is_quota);
    append(&store, 63).expect("there is room for an append");
    let failure = next(&told, |event| matches!(event, Event::MergeFailed { .. } | Event::Merged { .. }));
    (fs, store, told, failure)
}

fn next(told: &Receiver<Event>, wanted: impl Fn(&Event) -> bool) -> Event {
    let start = Instant::now();
    while let Some(left) = PATIENCE.checked_sub(start.elapsed()) {
        match told.recv_timeout(left) {
            Ok(event) if wanted(&event) => return event,
            Ok(_) => {}
            Err(error) => panic!("nothing was told any more: {error}"),
        }
    }
    panic!("it was not told in {PATIENCE:?}");
}

fn a_merge_runs_out_of_room(is_quota: bool) {
    let (fs, store, told, first) = fill(is_quota);
    let mut last = 0;
    let mut event = first;
    let mut keys = 64;
    // Louder each time; and beside it appends go on.
    while last < 3 {
        let Event::MergeFailed { attempts, error, .. } = &event else { panic!("{event}") };
        assert_eq!(*attempts, last + 1, "{event}");
        last = *attempts;
        let (needed, free) = needed_and_free(error);
        assert!(needed > 64 * (ROWS * DIM * 4) as u64, "{needed} bytes for all of them");
        assert!(is_quota || free < needed, "{free} of {needed}");
        assert_eq!(temporaries(&fs, "/d/s/segments"), Vec::<String>::new(), "attempt {attempts}");
        append(&store, keys).expect("appends go on");
        keys += 1;
        assert_holds(&fs, STORE, keys);
        if last < 3 {
            event = next(&told, |event| matches!(event, Event::MergeFailed { .. } | Event::Merged { .. }));
        }
    }
    assert_eq!(fs.names("/d/s/segments").len(), keys);

    // With room again it merges by itself, without a call.
    fs.set_room(None);
    let merged = next(&told, |event| matches!(event, Event::Merged { .. }));
    let Event::Merged { segments, .. } = merged else { panic!("{merged}") };
    assert!(segments >= 64, "{segments} became one");
    append(&store, keys).expect("appends go on");
    store.close().expect("there is room");
    assert!(fs.names("/d/s/segments").len() < 8);
    assert_holds(&fs, STORE, keys + 1);
}

#[test]
fn a_merge_on_a_full_disk_disturbs_no_append_and_is_made_up_for() {
    a_merge_runs_out_of_room(false);
}

/// A quota is only noticed in the middle of the output, which then goes again.
#[test]
fn a_merge_beyond_a_quota_disturbs_no_append_and_is_made_up_for() {
    a_merge_runs_out_of_room(true);
}

#[test]
fn a_compaction_that_was_asked_for_says_what_it_needs() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(DIM)).expect("there is room");
    for key in 0..8 {
        append(&store, key).expect("there is room");
    }
    store.checkpoint().expect("there is room");
    for is_quota in [false, true] {
        leave(&fs, 30_000, is_quota);
        let (needed, free) = needed_and_free(&store.compact_full().expect_err("there is no room"));
        assert!(needed > 8 * (ROWS * DIM * 4) as u64);
        assert!(is_quota || free <= 30_000);
        assert_eq!(temporaries(&fs, "/d/s/segments"), Vec::<String>::new());
        assert_holds(&fs, STORE, 8);
    }
    append(&store, 8).expect("there is room for an append");
    fs.set_room(None);
    assert_eq!(store.compact_full().expect("there is room").segments_after, 1);
    assert_holds(&fs, STORE, 9);
}

#[test]
fn a_backup_on_a_full_disk_leaves_nothing_in_the_way() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(DIM)).expect("there is room");
    append(&store, 0).expect("there is room");
    // Links take no room, but the pin, a manifest and lock files do. At whichever of them the room ends.
    let mut failures = 0;
    for left in (0..4_000).step_by(50) {
        leave_in_place(&fs, left);
        let Err(error) = store.backup(BACKUP) else { break };
        needed_or_lock(&error);
        failures += 1;
        assert!(!fs.exists(BACKUP), "a first backup is there as a whole or not at all");
        assert!(fs.names("/").iter().all(|name| !name.starts_with(".b.")), "{:?}", fs.names("/"));
        assert_eq!(fs.names("/d/s/versions"), Vec::<String>::new(), "no pin is left");
        assert_holds(&fs, STORE, 1);
    }
    assert!(failures > 3, "{failures} failed");
    assert_holds(&fs, BACKUP, 1);

    // The second time the backup before stays as it was.
    fs.set_room(None);
    append(&store, 1).expect("there is room");
    failures = 0;
    for left in (0..4_000).step_by(50) {
        leave_in_place(&fs, left);
        let Err(error) = store.backup(BACKUP) else { break };
        needed_or_lock(&error);
        failures += 1;
        assert_holds(&fs, BACKUP, 1);
        assert_eq!(temporaries(&fs, "/b/segments"), Vec::<String>::new());
    }
    assert!(failures > 3, "{failures} failed");
    assert_holds(&fs, BACKUP, 2);
    fs.set_room(None);
    assert_holds(&fs, STORE, 2);
}

/// A lock's record needs room too, where the lock file is new; it does not look how much there is.
fn needed_or_lock(error: &Error) {
    match error {
        Error::NoSpace { path, free: None, .. } => {
            assert!(path.to_string_lossy().contains("LOCK"), "{error}")
        }
        other => drop(needed_and_free(other)),
    }
}

#[test]
fn a_restore_on_a_full_disk_leaves_nothing_behind() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(DIM)).expect("there is room");
    for key in 0..3 {
        append(&store, key).expect("there is room");
    }
    store.backup(BACKUP).expect("there is room");
    let restored = Path::new("/d/r");
    for left in [100, 10_000, 20_000] {
        leave(&fs, left, left == 20_000);
        let error = vecstore::restore_with(&fs, Path::new(BACKUP), restored).expect_err("there is no room");
        needed_or_lock(&error);
        assert_eq!(fs.names("/d"), ["s"]);
    }
    fs.set_room(None);
    vecstore::restore_with(&fs, Path::new(BACKUP), restored).expect("there is room");
    assert_holds(&fs, "/d/r", 3);
}
