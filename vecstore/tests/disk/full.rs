//! A disk that fills up: appends, merges, backups and restores run out of room. Nothing is lost, the error
//! says how much room was needed and how much is free, and work continues once there is room, by itself or
//! with the same call.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::sim::check::whole;
use crate::sim::oracle::DIM;
use crate::sim::run::{BACKUP, STORE, options};
use crate::sim::{Room, SimFs, is_temporary};
use vecstore::{
    BackupOptions, Error, Event, MergePolicy, OnDuplicate, Progress, RepairOptions, Store, StoreConfig,
};

/// Limit on waiting for background work and locks.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rows per batch: a batch takes about 16 KiB, more than a full disk has left for manifests.
const ROWS: usize = 512;
/// Bytes of a lock's record.
const RECORD: u64 = 256;

fn append(store: &Store, key: usize) -> vecstore::Result<vecstore::Appended> {
    let mut batch = store.batch();
    batch.push_rows(format!("key {key}"), vec![[1.0f32; DIM]; ROWS]).expect("a good entry");
    store.append(&mut batch, OnDuplicate::Error)
}

/// Leaves `bytes` free on a disk that copies on write: overwriting needs room, too.
fn leave(fs: &SimFs, bytes: u64, is_quota: bool) {
    fs.set_room(Some(Room { bytes: fs.used() + bytes, is_quota, copies: true, names: false, late: false }));
}

/// Leaves `bytes` free on a disk that overwrites in place: a lock can be taken however full the disk is.
fn leave_in_place(fs: &SimFs, bytes: u64) {
    fs.set_room(Some(Room {
        bytes: fs.used() + bytes,
        is_quota: false,
        copies: false,
        names: false,
        late: false,
    }));
}

/// Leaves `bytes` free on a disk that notices only in a flush that they are used up. Returns the disk's size.
fn leave_for_flushes(fs: &SimFs, bytes: u64) -> u64 {
    let bytes = fs.used() + bytes;
    fs.set_room(Some(Room { bytes, is_quota: false, copies: false, names: false, late: true }));
    bytes
}

/// Bytes needed and free, as the error of a full disk reports them.
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

/// Asserts that a new reader finds exactly keys 0 to `keys`, and that every byte on the disk is right.
fn assert_holds(fs: &SimFs, path: &str, keys: usize) {
    let reader = options(fs).for_reading().open(path).expect("it opens");
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
            // Without any room, not even the lock's record can be written.
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

/// A failed write has given its room back when the free space is reported.
#[test]
fn a_failed_flush_does_not_reduce_the_reported_free_space() {
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

    // The reported free space is that after the call; nothing but a lock file may have been added.
    let said = |error: Error, full: u64| {
        let (needed, free) = needed_and_free(&error);
        assert_eq!(free, full - fs.used(), "{error}");
        needed
    };
    let full = leave_for_flushes(&fs, left);
    assert_eq!(said(append(&store, 2).expect_err("there is no room"), full), batch);
    said(store.compact_full().expect_err("there is no room"), full);
    assert_eq!(temporaries(&fs, "/d/s/segments"), Vec::<String>::new());

    // Calls that copy: a restore, and a repair that rescues what is intact in a damaged segment.
    fs.set_room(None);
    store.close().expect("there is room");
    leave_for_flushes(&fs, left);
    let restored = vecstore::restore_on(&fs, Path::new(STORE), Path::new("/d/r"), &Progress::new());
    let (_, free) = needed_and_free(&restored.expect_err("there is no room"));
    assert!(left - free <= 2 * RECORD, "all but locks of the new store, which go with it: {free} of {left}");
    // The damage is in the footer, which can be corrected: the repair writes the whole segment anew.
    fs.rot(&Path::new("/d/s/segments").join(&segment), batch as usize - 200);
    let full = leave_for_flushes(&fs, left);
    let error =
        vecstore::repair_on(&fs, Path::new(STORE), RepairOptions::new()).expect_err("there is no room");
    assert!(error.to_string().contains("segments/"), "{error}");
    said(error, full);
}

/// Appends until the merger has run out of room, on a disk with room for appends. Returns the merger's first
/// event.
fn fill(is_quota: bool) -> (SimFs, Store, Receiver<Event>, Event) {
    let fs = SimFs::new();
    let (tell, told) = channel();
    let store = options(&fs)
        .merge_policy(MergePolicy::Background)
        .lock_timeout(PATIENCE)
        .on_event(move |event| drop(tell.send(event.clone())))
        .create(STORE, StoreConfig::new(DIM))
        .expect("there is room");
    for key in 0..63 {
        append(&store, key).expect("there is room");
    }
    // A merge of 64 files needs as much room as they take. A quarter of it is too little, and enough for
    // appends.
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
    // Each failure is reported with a higher number of attempts, and appends continue meanwhile.
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

    // Once there is room, the merger merges by itself, without a call.
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

/// A quota is noticed only in the middle of the output, which is then removed.
#[test]
fn a_merge_beyond_a_quota_disturbs_no_append_and_is_made_up_for() {
    a_merge_runs_out_of_room(true);
}

#[test]
fn a_failed_compaction_says_how_much_room_it_needs() {
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
fn a_failed_backup_on_a_full_disk_leaves_nothing_behind() {
    // Links take no room, but the pin, a manifest and lock files do: the room ends at each of them in turn.
    a_backup_runs_out_of_room(true, (4_000, 50));
    // The copy of a segment takes about 16 KiB.
    a_backup_runs_out_of_room(false, (24_000, 300));
}

fn a_backup_runs_out_of_room(link: bool, (most, step): (u64, usize)) {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(DIM)).expect("there is room");
    append(&store, 0).expect("there is room");
    let backup = || store.backup_with(BACKUP, BackupOptions::new().link(link));
    let mut failures = 0;
    for left in (0..most).step_by(step) {
        leave_in_place(&fs, left);
        let Err(error) = backup() else { break };
        needed_or_lock(&error);
        failures += 1;
        assert!(!fs.exists(BACKUP), "a first backup is there as a whole or not at all");
        assert!(fs.names("/").iter().all(|name| !name.starts_with(".b.")), "{:?}", fs.names("/"));
        assert_eq!(fs.names("/d/s/versions"), Vec::<String>::new(), "no pin is left");
        assert_holds(&fs, STORE, 1);
    }
    assert!(failures > 3, "{failures} failed");
    assert_holds(&fs, BACKUP, 1);

    // A failed second backup leaves the first one as it was.
    fs.set_room(None);
    append(&store, 1).expect("there is room");
    failures = 0;
    for left in (0..most).step_by(step) {
        leave_in_place(&fs, left);
        let Err(error) = backup() else { break };
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

/// A new lock file needs room for its record too; the error then does not tell the free space.
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
        let error = vecstore::restore_on(&fs, Path::new(BACKUP), restored, &Progress::new())
            .expect_err("there is no room");
        needed_or_lock(&error);
        assert_eq!(fs.names("/d"), ["s"]);
    }
    fs.set_room(None);
    vecstore::restore_on(&fs, Path::new(BACKUP), restored, &Progress::new()).expect("there is room");
    assert_holds(&fs, "/d/r", 3);
}
