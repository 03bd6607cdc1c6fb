//! Events at a wrong moment: a process dies between a name and its flush, merges segments of another
//! process's view, or removes files that another process is building.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::hooked::Hooked;
use crate::common::{assert_one_passed, looks, one_test};
use crate::sim::SimFs;
use crate::sim::moment::{power_cut, put};
use crate::sim::run::{BACKUP, STORE, options};
use vecstore::vfs::Vfs;
use vecstore::{Event, MergePolicy, OnDuplicate, OpenOptions, Store, StoreConfig};

/// A wait that takes longer than this is a hang.
const HANG: Duration = Duration::from_secs(300);

#[test]
fn a_segment_rewritten_by_another_handle_is_taken_over_once() {
    looks::watch();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let dim = 512;
    let first =
        OpenOptions::new().merge_policy(MergePolicy::OnDemand).create(&path, StoreConfig::new(dim)).unwrap();
    let replace = |store: &Store, count: usize| {
        let mut batch = store.batch();
        for i in 0..count {
            batch.push(format!("{i}"), &vec![1.0f32; dim]).unwrap();
        }
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    };
    replace(&first, 1000);
    let merger = std::fs::File::options().read(true).write(true).open(path.join("LOCK.merge"));
    // While another process has the merge lock, the second handle learns of a segment that is mostly dead.
    let merger = merger.or_else(|_| std::fs::File::create(path.join("LOCK.merge"))).unwrap();
    merger.lock().unwrap();
    let checkpoints = Arc::new(Mutex::new(0));
    let told = Arc::clone(&checkpoints);
    let count =
        move |event: &Event| *told.lock().unwrap() += u32::from(matches!(event, Event::Checkpoint { .. }));
    // The merger of the second handle meets the lock, and does not go on before the test lets it.
    let ((tell, has_met), (go_on, may)) = (channel(), channel::<()>());
    let once = Mutex::new(Some((tell, may)));
    let fs = Hooked::new(move |call, path| {
        if call == "refused"
            && path.ends_with("LOCK.merge")
            && let Some((tell, may)) = once.lock().unwrap().take()
        {
            tell.send(()).unwrap();
            may.recv().unwrap();
        }
    });
    let second = OpenOptions::new().vfs(fs).on_event(count).open(&path).unwrap();
    replace(&second, 900);
    has_met.recv_timeout(HANG).unwrap();
    drop(merger);
    // A third handle rewrites the segment.
    let (tell, rewritten) = channel();
    let merged = move |event: &Event| {
        if matches!(event, Event::Merged { .. }) {
            let _ = tell.send(());
        }
    };
    let third = OpenOptions::new().on_event(merged).open(&path).unwrap();
    put(&third, "0").unwrap();
    rewritten.recv_timeout(HANG).unwrap();
    drop(third);
    assert!(path.join("segments/0000000001-0000000001.1.npy").exists());
    *checkpoints.lock().unwrap() = 0;
    go_on.send(()).unwrap();
    for i in 0..20 {
        put(&second, &format!("new {i}")).unwrap();
        // The second handle had made one commit before.
        looks::wait(&path, i + 2, 1);
    }
    let checkpoints = *checkpoints.lock().unwrap();
    assert!(checkpoints <= 2, "{checkpoints} checkpoints for 20 commits");
}

/// A process that merges in a backup dies before the manifest of the new epoch is durable; another handle
/// commits in this epoch.
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
        // A dead process closes nothing.
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

/// Two processes create the same store; one of them removes the files that the other one has made but not
/// locked yet.
#[test]
fn one_of_two_racing_creators_makes_the_store() {
    let dry = SimFs::new();
    options(&dry).create(STORE, StoreConfig::new(2)).unwrap();
    let calls = dry.calls();
    let lock = calls.iter().position(|call| call.what == "lock").unwrap();
    let (fs, second) = (SimFs::new(), Arc::new(Mutex::new(None)));
    let (swept, has_swept) = channel();
    let (other, theirs) = (fs.other_process(), Arc::clone(&second));
    fs.before(lock, move || {
        // The second process finds the lock free, and removes everything before the first one takes it.
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
fn leftovers_beside_a_relative_path_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let words = one_test("wrong_moment::left_beside_a_relative_path");
    let output = Command::new(&words[0]).args(&words[1..]).current_dir(dir.path()).output().unwrap();
    assert_one_passed("beside a relative path", &output);
}

#[test]
#[ignore = "started by the test above, in a process whose current directory is empty"]
fn left_beside_a_relative_path() {
    std::fs::create_dir_all(".s.creating-00/segments").unwrap();
    std::fs::write(".s.creating-00/LOCK.turn", b"").unwrap();
    std::os::unix::fs::symlink(std::env::current_dir().unwrap(), ".s.creating-01").unwrap();
    drop(Store::create("s", StoreConfig::new(2)).unwrap());
    assert!(!Path::new(".s.creating-00").exists());
    assert!(Path::new(".s.creating-01").exists(), "not made by a builder");
}

/// Runs `meanwhile` when an append is about to make the call that `wanted` selects. `meanwhile` gets the disk
/// of another process, and a handle that this process opened before.
fn during_an_append(
    wanted: impl Fn(&crate::sim::Call) -> bool,
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
    is_done.recv_timeout(HANG).unwrap();
    (fs, appended)
}

/// Between a commit's rename and the flush of its name no other process gets the lock: it could skip keys
/// that may still vanish.
#[test]
fn no_process_builds_on_a_commit_whose_name_is_being_flushed() {
    let flush = |call: &crate::sim::Call| call.what == "flush directory" && call.path.ends_with("segments");
    let (_, appended) = during_an_append(flush, |_, other| {
        let skipped = put(other, "1");
        assert!(matches!(skipped, Err(vecstore::Error::Busy { .. })), "{skipped:?}");
    });
    appended.unwrap();
}

/// A process without the lock creates a file under the name of the next commit: it is not replaced.
#[test]
fn a_commit_never_replaces_a_file_of_its_name() {
    const NAME: &str = "segments/0000000002-0000000002.0.npy";
    let rename = |call: &crate::sim::Call| call.what == "rename" && call.path.ends_with(NAME);
    let (fs, appended) = during_an_append(rename, |theirs, _| {
        let mut file = theirs.create_new(&Path::new(STORE).join(NAME)).unwrap();
        file.write_all(b"another's").unwrap();
    });
    assert!(matches!(appended, Err(vecstore::Error::NameTaken { .. })), "{appended:?}");
    assert_eq!(fs.read(&Path::new(STORE).join(NAME), 1 << 20).unwrap(), b"another's");
}

/// A writer dies at any call of a commit. A second handle, which writes nothing, settles the commit. A third
/// one, which knows LOCK's counter from before, must notice: it would give the same number to another commit.
#[test]
fn other_writers_notice_a_commit_settled_after_its_writer_died() {
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
        second.delete(&["not there"]).unwrap();
        let shown = second.refresh().unwrap().contains("1").unwrap();
        assert!(shown || !acknowledged, "killed before call {at}");
        put(&third, "2").unwrap();
        let last = options(&fs.other_process()).open(STORE).unwrap();
        assert!(last.snapshot().contains("2").unwrap(), "killed before call {at}");
        assert_eq!(last.snapshot().contains("1").unwrap(), shown, "killed before call {at}");
    }
}

/// A writer dies before `call` of its second commit; another handle knows LOCK's counter from before.
fn dies_before(call: impl Fn(&crate::sim::Call) -> bool) -> (SimFs, Store) {
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

/// A writer dies before the name of its commit is durable, and LOCK's record is torn: the next writer, which
/// skips the key of this commit, makes the name durable.
#[test]
fn a_torn_lock_record_vouches_for_no_name() {
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

/// The next commit removes the temporary file of a dead writer, even if its handle knows every commit.
#[test]
fn temporary_files_of_a_dead_writer_go_with_the_next_commit() {
    let (fs, other) = dies_before(|call| call.what == "rename");
    let temporaries = || {
        let names = fs.names("/d/s/segments").into_iter();
        names.filter(|name| name.starts_with("tmp-")).count()
    };
    assert_eq!(temporaries(), 1);
    put(&other, "2").unwrap();
    assert_eq!(temporaries(), 0);
}
