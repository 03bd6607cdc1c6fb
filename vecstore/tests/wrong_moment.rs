//! Things that happen at the wrong moment: somebody dies between a name and its flush, merges what another sees as it
//! was, clears away what another is building.

mod sim;

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sim::crash::Rng;
use sim::run::{BACKUP, STORE, options};
use sim::{Fault, SimFs};
use vecstore::{Event, Merging, OnDuplicate, OpenOptions, Store, StoreConfig};

fn put(store: &Store, key: &str) -> vecstore::Result<()> {
    let mut batch = store.batch();
    batch.push(key, &vec![1.0f32; store.dim()])?;
    store.append(batch, OnDuplicate::Skip).map(drop)
}

/// Tries every state that a power cut may leave now.
fn power_cut(fs: &SimFs, check: impl Fn(&SimFs) -> Result<(), String>) {
    let history = fs.history();
    let now = history.log.len();
    let mut rng = Rng(3);
    for fates in history.fates(now, 200, &mut rng) {
        let image = history.image(now, &fates, &mut rng);
        check(&SimFs::from_image(image))
            .unwrap_or_else(|wrong| panic!("{wrong}\n{}", history.tell(now, &fates)));
    }
}

#[test]
fn a_backup_with_files_beyond_its_manifest_can_be_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let on_demand = OpenOptions::new().merging(Merging::OnDemand);
    let store = on_demand.create(&path, StoreConfig::new(2)).unwrap();
    (0..3).for_each(|i| put(&store, &i.to_string()).unwrap());
    store.backup(&dest).unwrap();
    put(&store, "3").unwrap();
    // What a killed backup leaves: the file is linked, the manifest was not replaced.
    let name = "segments/0000000004-0000000004.0.npy";
    std::fs::hard_link(path.join(name), dest.join(name)).unwrap();
    let backup = on_demand.open(&dest).unwrap();
    assert_eq!(backup.compact_full().unwrap().merges, 1);
    drop(backup);
    assert_eq!(Store::open(&dest).unwrap().snapshot().last_commit(), 3);
    assert!(vecstore::verify(&dest, |_| {}).unwrap().is_whole());
}

#[test]
fn a_backup_that_was_only_opened_stays_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let store = OpenOptions::new().merging(Merging::OnDemand).create(&path, StoreConfig::new(2)).unwrap();
    (0..70).for_each(|i| put(&store, &i.to_string()).unwrap());
    store.backup(&dest).unwrap();
    let backup = Store::open(&dest).unwrap();
    // Nothing to write; and something to merge.
    put(&backup, "0").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    drop(backup);
    put(&store, "more").unwrap();
    assert_eq!(store.backup(&dest).unwrap().kept, 70);
}

#[test]
fn what_another_handle_rewrote_is_taken_over_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let dim = 512;
    let first = OpenOptions::new().merging(Merging::OnDemand).create(&path, StoreConfig::new(dim)).unwrap();
    let replace = |store: &Store, count: usize| {
        let mut batch = store.batch();
        for i in 0..count {
            batch.push(format!("{i}"), &vec![1.0f32; dim]).unwrap();
        }
        store.append(batch, OnDuplicate::Replace).unwrap();
    };
    replace(&first, 1000);
    let merger = std::fs::File::options().read(true).write(true).open(path.join("LOCK.merge"));
    // While somebody else has the merge lock, the second handle learns of a segment that is mostly dead.
    let merger = merger.or_else(|_| std::fs::File::create(path.join("LOCK.merge"))).unwrap();
    merger.lock().unwrap();
    let checkpoints = Arc::new(Mutex::new(0));
    let told = Arc::clone(&checkpoints);
    let count =
        move |event: &Event| *told.lock().unwrap() += u32::from(matches!(event, Event::Checkpoint { .. }));
    let second = OpenOptions::new().on_event(count).open(&path).unwrap();
    replace(&second, 900);
    std::thread::sleep(Duration::from_millis(100));
    drop(merger);
    // A third one rewrites it.
    let third = Store::open(&path).unwrap();
    put(&third, "0").unwrap();
    let rewritten = path.join("segments/0000000001-0000000001.1.npy");
    let start = Instant::now();
    while !rewritten.exists() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(third);
    *checkpoints.lock().unwrap() = 0;
    for i in 0..20 {
        put(&second, &format!("new {i}")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let checkpoints = *checkpoints.lock().unwrap();
    assert!(checkpoints <= 2, "{checkpoints} checkpoints for 20 commits");
}

#[test]
fn pinned_files_do_not_hold_up_appends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let on_demand = OpenOptions::new().merging(Merging::OnDemand);
    let first = on_demand.create(&path, StoreConfig::new(2)).unwrap();
    (0..100).for_each(|i| put(&first, &format!("a{i}")).unwrap());
    let failed = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&failed);
    let second = on_demand
        .clone()
        .lock_timeout(Duration::from_secs(20))
        .on_event(move |event| {
            if let Event::MergeFailed { error, .. } = event {
                told.lock().unwrap().push(error.to_string());
            }
        })
        .open(&path)
        .unwrap();
    put(&second, "b").unwrap();
    first.refresh().unwrap();
    first.create_checkpoint("pin").unwrap();
    first.compact_full().unwrap();
    // Some other process is in a long merge from here on.
    let merger = std::fs::File::options().read(true).write(true).open(path.join("LOCK.merge")).unwrap();
    merger.lock().unwrap();
    let start = Instant::now();
    (0..85).for_each(|i| put(&second, &format!("b{i}")).unwrap());
    assert!(failed.lock().unwrap().is_empty(), "{failed:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "somebody waited for the lock");
}

#[test]
fn a_backup_after_a_failed_flush_gives_its_names_anew() {
    let back_up_twice = |fault: Option<Fault>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        store.backup(BACKUP).unwrap();
        put(&store, "1").unwrap();
        let from = fs.calls().len();
        fs.set_fault(fault);
        let first = store.backup(BACKUP).map(drop);
        fs.set_fault(None);
        let second = store.backup(BACKUP).map(drop);
        (fs, store, from, first, second)
    };
    let (fs, _store, from, ..) = back_up_twice(None);
    let calls = fs.calls();
    let flush = |at: &usize| {
        calls[*at].what == "flush directory" && calls[*at].path == Path::new(BACKUP).join("segments")
    };
    let at = (from..calls.len()).find(flush).unwrap();
    let (fs, _store, _, first, second) = back_up_twice(Some(Fault { at, errno: 5, lasting: false }));
    assert!(first.is_err());
    second.unwrap();
    power_cut(&fs, |image| {
        let backup = options(image).read_only(true).open(BACKUP).map_err(|error| error.to_string())?;
        if backup.snapshot().last_commit() == 2 { Ok(()) } else { Err("commit 2 is gone".to_owned()) }
    });
}

/// A merge of a backup dies before the manifest that begins an epoch is durable; another handle goes on in it.
#[test]
fn an_epoch_is_durable_before_its_first_commit() {
    let run = |die_at: Option<usize>| {
        let fs = SimFs::new();
        let source = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&source, "0").unwrap();
        put(&source, "1").unwrap();
        source.backup(BACKUP).unwrap();
        let writer = options(&fs.other_process()).open(BACKUP).unwrap();
        // Skipped: nothing is written, but the handle knows LOCK's counter.
        put(&writer, "0").unwrap();
        put(&source, "2").unwrap();
        source.backup(BACKUP).unwrap();
        let merging = fs.other_process();
        let merger = options(&merging).open(BACKUP).unwrap();
        if let Some(at) = die_at {
            merging.die_at(at);
        }
        let merged = merger.compact_full();
        assert_eq!(merged.is_ok(), die_at.is_none());
        let calls = merging.calls();
        // The dead close nothing.
        std::mem::forget(merger);
        put(&writer, "acknowledged").unwrap();
        std::mem::forget(writer);
        (fs, calls)
    };
    let (_, calls) = run(None);
    let replaced =
        |at: &usize| calls[*at].what == "replace" && calls[*at].path == Path::new(BACKUP).join("MANIFEST");
    let places: Vec<usize> = (0..calls.len()).filter(replaced).collect();
    assert!(!places.is_empty());
    for at in places {
        let (fs, _) = run(Some(at + 1));
        power_cut(&fs, |image| {
            let store = options(image).open(BACKUP).map_err(|error| error.to_string())?;
            let found = store.snapshot().contains("acknowledged").map_err(|error| error.to_string())?;
            if found { Ok(()) } else { Err("an acknowledged key is gone".to_owned()) }
        });
    }
}

/// 40 commits come in while a merge writes its output: they are merged before it goes on.
#[test]
fn a_long_merge_lets_newer_files_go_first() {
    // A row is 256 KiB: the merge takes several steps.
    let dim = vecstore::MAX_DIM;
    let run = |hook_at: Option<usize>| {
        let fs = SimFs::new();
        let writer = options(&fs).create(STORE, StoreConfig::new(dim)).unwrap();
        for number in 0..4 {
            let mut batch = writer.batch();
            (0..20).for_each(|i| batch.push(format!("{number}/{i}"), &vec![0.5f32; dim]).unwrap());
            writer.append(batch, OnDuplicate::Error).unwrap();
        }
        let merged = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&merged);
        let merging = fs.other_process();
        let merger = options(&merging).on_event(move |event| {
            if let Event::Merged { first, segments, .. } = event {
                told.lock().unwrap().push((*first, *segments));
            }
        });
        let merger = merger.open(STORE).unwrap();
        if let Some(at) = hook_at {
            merging.before(at, move || (0..40).for_each(|i| put(&writer, &format!("new {i}")).unwrap()));
        }
        merger.compact_full().unwrap();
        assert_eq!(merger.snapshot().totals().entries, if hook_at.is_some() { 120 } else { 80 });
        let merged = merged.lock().unwrap().clone();
        (merging.calls(), merged)
    };
    let (calls, merged) = run(None);
    assert_eq!(merged, [(1, 4)]);
    let output = calls.iter().position(|call| call.path.to_string_lossy().contains("tmp-merge-")).unwrap();
    let (_, merged) = run(Some(output));
    assert_eq!(merged, [(5, 40), (1, 4)]);
}

/// Two processes create the same store; one clears away what the other is building, in the moment it is not locked.
#[test]
fn a_builder_that_is_alive_loses_nothing() {
    let dry = SimFs::new();
    options(&dry).create(STORE, StoreConfig::new(2)).unwrap();
    let calls = dry.calls();
    let lock = calls.iter().position(|call| call.what == "lock").unwrap();
    let (fs, second) = (SimFs::new(), Arc::new(Mutex::new(None)));
    let (swept, has_swept) = channel();
    let (other, theirs) = (fs.other_process(), Arc::clone(&second));
    fs.before(lock, move || {
        // The other lists, finds the lock free, and clears everything away before the first takes it.
        *theirs.lock().unwrap() = Some(std::thread::spawn(move || {
            let created = options(&other).create(STORE, StoreConfig::new(2)).map(drop);
            swept.send(()).unwrap();
            created
        }));
        has_swept.recv().unwrap();
    });
    let first = options(&fs).create(STORE, StoreConfig::new(2)).map(drop);
    let second = second.lock().unwrap().take().unwrap().join().unwrap();
    assert!(first.is_ok() != second.is_ok(), "one of them creates it: {first:?}, {second:?}");
    options(&fs).open(STORE).unwrap();
    let left: Vec<String> = fs.names("/d").into_iter().filter(|name| name != "s").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_was_left_beside_a_relative_path_goes() {
    let dir = tempfile::tempdir().unwrap();
    // The only test of this process that depends on the current directory.
    std::env::set_current_dir(dir.path()).unwrap();
    std::fs::create_dir_all(".s.creating-00/segments").unwrap();
    std::fs::write(".s.creating-00/LOCK.turn", b"").unwrap();
    std::os::unix::fs::symlink(dir.path(), ".s.creating-01").unwrap();
    drop(Store::create("s", StoreConfig::new(2)).unwrap());
    assert!(!Path::new(".s.creating-00").exists());
    assert!(Path::new(".s.creating-01").exists(), "not made by a builder");
}
