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
use vecstore::vfs::Vfs;
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
        .lock_timeout(Duration::from_secs(2))
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
    // Who has waited for it in vain tells of it.
    (0..85).for_each(|i| put(&second, &format!("b{i}")).unwrap());
    assert!(failed.lock().unwrap().is_empty(), "{failed:?}");
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

/// What happens while an append is about to make the call that `wanted` describes: `meanwhile` gets the disk as another
/// process sees it, and the store as it was opened there before.
fn during_an_append(
    wanted: impl Fn(&sim::Call) -> bool,
    meanwhile: impl FnOnce(&SimFs, &Store) + Send + 'static,
) -> (SimFs, vecstore::Result<()>) {
    let begin = || {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        let theirs = fs.other_process();
        let other = options(&theirs).open(STORE).unwrap();
        put(&other, "0").unwrap();
        let from = fs.calls().len();
        (fs, store, theirs, other, from)
    };
    let (dry, store, _theirs, _other, from) = begin();
    put(&store, "1").unwrap();
    let at = dry.calls().iter().enumerate().position(|(at, call)| at >= from && wanted(call)).unwrap();
    let (fs, store, theirs, other, _) = begin();
    let (done, is_done) = channel();
    fs.before(at, move || {
        meanwhile(&theirs, &other);
        std::mem::forget(other);
        done.send(()).unwrap();
    });
    let appended = put(&store, "1");
    is_done.recv_timeout(Duration::from_secs(60)).unwrap();
    (fs, appended)
}

/// Between a commit's name and the flush of that name nobody else gets the lock, to skip what may still vanish.
#[test]
fn nobody_builds_on_a_commit_whose_name_is_being_flushed() {
    let flush = |call: &sim::Call| call.what == "flush directory" && call.path.ends_with("segments");
    let (_, appended) = during_an_append(flush, |_, other| {
        let skipped = put(other, "1");
        assert!(matches!(skipped, Err(vecstore::Error::Busy { .. })), "{skipped:?}");
    });
    appended.unwrap();
}

/// Somebody who does not ask for the lock puts a file where a commit is about to go: it is not replaced.
#[test]
fn a_name_that_is_taken_is_not_taken_away() {
    const NAME: &str = "segments/0000000002-0000000002.0.npy";
    let rename = |call: &sim::Call| call.what == "rename" && call.path.ends_with(NAME);
    let (fs, appended) = during_an_append(rename, |theirs, _| {
        let mut file = theirs.create_new(&Path::new(STORE).join(NAME)).unwrap();
        file.write_all(b"somebody else's").unwrap();
    });
    assert!(matches!(appended, Err(vecstore::Error::NameTaken { .. })), "{appended:?}");
    assert_eq!(fs.read(&Path::new(STORE).join(NAME), 1 << 20).unwrap(), b"somebody else's");
}

/// A writer dies between a name and its flush. Who comes next, and only looks, brings the commit out of doubt; a third
/// one, who knows LOCK's counter from before, must notice, or it would give the same number to another commit.
#[test]
fn whoever_finds_a_dead_writer_tells_the_others() {
    let begin = || {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        let others = [0, 1].map(|_| {
            let other = options(&fs.other_process()).open(STORE).unwrap();
            put(&other, "0").unwrap();
            other
        });
        let from = fs.calls().len();
        (fs, store, others, from)
    };
    let (dry, store, _others, from) = begin();
    put(&store, "1").unwrap();
    for at in from..dry.calls().len() {
        let (fs, store, [second, third], _) = begin();
        fs.die_at(at);
        // Once its name is flushed, the commit is acknowledged whatever becomes of the process.
        let acknowledged = put(&store, "1").is_ok();
        std::mem::forget(store);
        second.delete(&["nobody's"]).unwrap();
        let shown = second.refresh().unwrap().contains("1").unwrap();
        assert!(shown || !acknowledged, "killed before call {at}");
        put(&third, "2").unwrap();
        let last = options(&fs.other_process()).open(STORE).unwrap();
        assert!(last.snapshot().contains("2").unwrap(), "killed before call {at}");
        assert_eq!(last.snapshot().contains("1").unwrap(), shown, "killed before call {at}");
    }
}

/// Dropping a named checkpoint is durable also when nobody can look for files that only it needed.
#[test]
fn a_dropped_checkpoint_stays_dropped_while_somebody_merges() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
    put(&store, "0").unwrap();
    store.create_checkpoint("x").unwrap();
    let mut merging = fs.other_process().open_lock(&Path::new(STORE).join("LOCK.merge"), true).unwrap();
    assert!(merging.try_lock().unwrap());
    store.drop_checkpoint("x").unwrap();
    power_cut(&fs, |image| {
        let store = options(image).open(STORE).map_err(|error| error.to_string())?;
        let left = store.checkpoints().map_err(|error| error.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} came back")) }
    });
}

/// Somebody dies after removing a named checkpoint, before that is durable; another one merges. Where the power cut that
/// follows brings the checkpoint back, its files are there.
#[test]
fn a_checkpoint_that_comes_back_has_its_files() {
    let run = |die_at: Option<usize>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        put(&store, "1").unwrap();
        store.create_checkpoint("x").unwrap();
        let dropping = fs.other_process();
        let dropper = options(&dropping).open(STORE).unwrap();
        if let Some(at) = die_at {
            dropping.die_at(at);
        }
        assert_eq!(dropper.drop_checkpoint("x").is_ok(), die_at.is_none());
        let calls = dropping.calls();
        std::mem::forget(dropper);
        put(&store, "2").unwrap();
        assert_eq!(store.compact_full().unwrap().merges, 1);
        (fs, calls)
    };
    let (_, calls) = run(None);
    let removed = calls.iter().position(|call| call.what == "remove" && call.path.ends_with("x")).unwrap();
    let (fs, _) = run(Some(removed + 1));
    let came_back = std::cell::Cell::new(0);
    power_cut(&fs, |image| {
        let store = options(image).open(STORE).map_err(|error| error.to_string())?;
        for checkpoint in store.checkpoints().map_err(|error| error.to_string())? {
            let opened = options(image).at_checkpoint(&checkpoint.name).open(STORE);
            let snapshot = opened.map_err(|error| error.to_string())?.snapshot();
            assert_eq!(snapshot.missing(&["0", "1"]).unwrap(), [0usize; 0]);
            came_back.set(came_back.get() + 1);
        }
        Ok(())
    });
    assert_eq!(came_back.get(), 0, "whoever removes its files makes sure first that it stays away");
}

/// The first flush of a named checkpoint's name fails. It is given anew, and what was acknowledged is there.
#[test]
fn a_named_checkpoint_whose_flush_failed_is_named_anew() {
    let run = |fault: Option<Fault>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        fs.set_fault(fault);
        store.create_checkpoint("x").unwrap();
        fs
    };
    let calls = run(None).calls();
    let flush = |call: &sim::Call| call.what == "flush directory" && call.path.ends_with("checkpoints");
    let at = calls.iter().position(flush).unwrap();
    let fs = run(Some(Fault { at, errno: 5, lasting: false }));
    power_cut(&fs, |image| {
        let opened = options(image).at_checkpoint("x").open(STORE).map_err(|error| error.to_string())?;
        if opened.snapshot().contains("0").unwrap() { Ok(()) } else { Err("it lists nothing".to_owned()) }
    });
}

/// A backup's new manifest may not be durable, because flushing its name failed. Whoever merges in the backup then does
/// not remove what only the former one lists.
#[test]
fn a_backup_whose_manifest_may_not_be_durable_keeps_its_files() {
    let run = |fault: Option<Fault>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        put(&store, "1").unwrap();
        store.backup(BACKUP).unwrap();
        put(&store, "2").unwrap();
        store.compact_full().unwrap();
        let from = fs.calls().len();
        fs.set_fault(fault);
        let backed_up = store.backup(BACKUP);
        fs.set_fault(None);
        assert_eq!(backed_up.is_ok(), fault.is_none());
        let other = fs.other_process();
        let backup = options(&other).open(BACKUP).unwrap();
        let began = other.changes();
        backup.compact_full().unwrap();
        std::mem::forget(backup);
        (fs, from, began)
    };
    let (fs, from, _) = run(None);
    let calls = fs.calls();
    let replace = |at: &usize| calls[*at].what == "replace" && calls[*at].path.starts_with(BACKUP);
    let replaced = (from..calls.len()).find(replace).unwrap();
    let flush = |at: &usize| calls[*at].what == "flush directory" && calls[*at].path == Path::new(BACKUP);
    let at = (replaced..calls.len()).find(flush).unwrap();
    let (fs, _, began) = run(Some(Fault { at, errno: 5, lasting: false }));
    let history = fs.history();
    let mut rng = Rng(3);
    for prefix in began..=history.log.len() {
        for fates in history.fates(prefix, 64, &mut rng) {
            let image = SimFs::from_image(history.image(prefix, &fates, &mut rng));
            let opened = options(&image).read_only(true).open(BACKUP);
            let tell = || history.tell(prefix, &fates);
            let backup = opened.unwrap_or_else(|error| panic!("{error}\n{}", tell()));
            let missing = backup.snapshot().missing(&["0", "1"]).unwrap();
            assert!(missing.is_empty(), "{missing:?} gone\n{}", tell());
        }
    }
}

/// A writer dies before `call` of its second commit; another one knows LOCK's counter from before.
fn dies_before(call: impl Fn(&sim::Call) -> bool) -> (SimFs, Store) {
    let begin = || {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        let other = options(&fs.other_process()).open(STORE).unwrap();
        put(&other, "0").unwrap();
        let from = fs.calls().len();
        (fs, store, other, from)
    };
    let (dry, store, _other, from) = begin();
    put(&store, "1").unwrap();
    let at = from + dry.calls()[from..].iter().position(call).unwrap();
    let (fs, store, other, _) = begin();
    fs.die_at(at);
    assert!(put(&store, "1").is_err());
    std::mem::forget(store);
    (fs, other)
}

/// It dies before its name is durable, and its record of that is torn: whoever skips what it wrote makes the name durable.
#[test]
fn a_torn_record_vouches_for_nothing() {
    let (fs, other) = dies_before(|call| call.what == "flush directory" && call.path.ends_with("segments"));
    let mut lock = fs.other_process().open_lock(&Path::new(STORE).join("LOCK"), false).unwrap();
    lock.write_record(&[7; 64]).unwrap();
    drop(lock);
    put(&other, "1").unwrap();
    assert_eq!(other.snapshot().last_commit(), 2, "it was skipped");
    power_cut(&fs, |image| {
        let store = options(image).open(STORE).map_err(|error| error.to_string())?;
        if store.snapshot().contains("1").unwrap() {
            Ok(())
        } else {
            Err("what was skipped is gone".to_owned())
        }
    });
}

/// What the dead were writing goes with the next commit, also of somebody who knows everything that was committed.
#[test]
fn what_the_dead_were_writing_goes() {
    let (fs, other) = dies_before(|call| call.what == "rename");
    let temporaries = || {
        let names = fs.names("/d/s/segments").into_iter();
        names.filter(|name| name.starts_with("tmp-")).count()
    };
    assert_eq!(temporaries(), 1);
    put(&other, "2").unwrap();
    assert_eq!(temporaries(), 0);
}
