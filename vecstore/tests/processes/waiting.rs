//! Locks that other processes hold: which operations wait, for how long, and which go on meanwhile.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::hooked::Hooked;
use crate::common::small::put;
use vecstore::{Error, Event, MergePolicy, OpenOptions, Store, StoreConfig};

/// A wait that takes longer than this is a hang.
const HANG: Duration = Duration::from_secs(300);
/// A lock timeout longer than any test.
const LONG: Duration = Duration::from_secs(1_000_000);

/// Takes a lock as another process does.
fn hold(path: &Path) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.lock().unwrap();
    file
}

fn fill(store: &Store, numbers: Range<u32>) {
    for number in numbers {
        put(store, &number.to_string(), 1.0);
    }
}

/// Appends do not wait for LOCK.manifest: a stopped process may hold it, and every writer would wait for the
/// append that holds the commit lock.
#[test]
fn an_automatic_checkpoint_waits_for_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    let fs = Hooked::new(move |call, path| {
        if call == "refused" && path.ends_with("LOCK.manifest") {
            let times = counted.fetch_add(1, Ordering::SeqCst);
            assert!(times < 50, "an append waits for LOCK.manifest");
        }
    });
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&events);
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand).lock_timeout(LONG).vfs(fs);
    let options = options.on_event(move |event| told.lock().unwrap().push(event.to_string()));
    let store = options.create(&path, StoreConfig::new(2)).unwrap();
    let other = hold(&path.join("LOCK.manifest"));
    fill(&store, 0..70);
    assert!(refused.load(Ordering::SeqCst) > 0, "it was tried");
    assert_eq!(*events.lock().unwrap(), Vec::<String>::new(), "that is no failure yet");
    drop(other);
    put(&store, "70", 1.0);
    let events = events.lock().unwrap();
    assert!(
        matches!(&events[..], [only] if only.starts_with("checkpoint: the manifest lists commits 1 to 71")),
        "{events:?}"
    );
}

/// A slow callback delays its own thread, and no other process.
#[test]
fn a_callback_is_called_without_a_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    drop(options.create(&path, StoreConfig::new(2)).unwrap());
    let other = options.clone().lock_timeout(Duration::ZERO).open(&path).unwrap();
    let called = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&called);
    let store = options.on_event(move |event| {
        if matches!(event, Event::Checkpoint { .. }) {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            put(&other, &format!("other {number}"), 1.0);
            other.checkpoint().unwrap();
        }
    });
    let store = store.open(&path).unwrap();
    // The callback's checkpoint lists every commit, including one of its own.
    fill(&store, 0..65);
    store.checkpoint().unwrap();
    store.set_setting("name", "value").unwrap();
    assert_eq!(called.load(Ordering::SeqCst), 2, "after 64 commits, and when it was asked for");
    assert_eq!(store.refresh().unwrap().totals().entries, 67);
}

/// Closing does not wait for a lock of another process, whatever the handle's threads are doing.
#[test]
fn a_store_is_dropped_at_once_while_its_merger_waits_for_the_commit_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let ((met, has_met), (go_on, may)) = (channel(), channel::<()>());
    let (may, begun) = (Mutex::new(Some(may)), AtomicUsize::new(0));
    let fs = Hooked::new(move |call, path| {
        if std::thread::current().name() != Some("vecstore-small") {
            return;
        }
        if call == "taken" && path.ends_with("LOCK.small") && begun.fetch_add(1, Ordering::SeqCst) == 0 {
            // Waits until the other process has the lock.
            may.lock().unwrap().take().unwrap().recv().unwrap();
        }
        if call == "refused" && path.ends_with("LOCK") {
            let _ = met.send(());
        }
    });
    let store = OpenOptions::new().lock_timeout(LONG).vfs(fs).create(&path, StoreConfig::new(2)).unwrap();
    fill(&store, 0..40);
    store.checkpoint().unwrap();
    // More commits than a merge needs, but fewer than those after which a checkpoint is due.
    fill(&store, 40..80);
    let other = hold(&path.join("LOCK"));
    go_on.send(()).unwrap();
    has_met.recv_timeout(HANG).expect("the merger wants to list commits");
    // Other threads of the handle go on, too.
    assert_eq!(store.refresh().unwrap().totals().entries, 80);
    let (dropped, is_dropped) = channel();
    std::thread::spawn(move || {
        drop(store);
        dropped.send(()).unwrap();
    });
    is_dropped.recv_timeout(HANG).expect("nothing is waited for");
    drop(other);
}

/// An operation waits for a lock until its timeout, and then reports that the lock is held.
#[test]
fn an_operation_waits_for_the_lock_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let options =
        OpenOptions::new().merge_policy(MergePolicy::OnDemand).lock_timeout(Duration::from_millis(200));
    let store = options.create(&path, StoreConfig::new(2)).unwrap();
    let other = hold(&path.join("LOCK"));
    let begin = std::time::Instant::now();
    let error = store.checkpoint().unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(200));
    drop(other);
    store.checkpoint().unwrap();
}

/// Leaves LOCK as a dying holder does: see docs/FORMAT.md.
fn die(path: &Path) {
    let lock = path.join("LOCK");
    let mut record = std::fs::read(&lock).unwrap();
    record[32..36].copy_from_slice(&1u32.to_le_bytes());
    let crc = crc32fast::hash(&record[..252]);
    record[252..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&lock, record).unwrap();
}

/// Commits in doubt are copied only when the manifest can list the copies: otherwise each attempt would leave
/// copies. The opener waits for LOCK.manifest as for any lock.
#[test]
fn commits_in_doubt_are_copied_once_however_long_the_manifest_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    let store = options.create(&path, StoreConfig::new(2)).unwrap();
    fill(&store, 0..3);
    let other = hold(&path.join("LOCK.manifest"));
    drop(store);
    die(&path);
    let files = |path: &Path| crate::common::small::segment_files(path);
    let (refused, store, other) = (AtomicUsize::new(0), path.clone(), Mutex::new(Some(other)));
    let fs = Hooked::new(move |call, path| {
        // The lock is released after many attempts.
        if call == "refused"
            && path.ends_with("LOCK.manifest")
            && refused.fetch_add(1, Ordering::SeqCst) == 400
        {
            assert_eq!(files(&store).len(), 3, "{:?}", files(&store));
            drop(other.lock().unwrap().take());
        }
    });
    let store = options.lock_timeout(LONG).vfs(fs).open(&path).unwrap();
    assert_eq!(store.snapshot().last_commit(), 3);
    let names = crate::common::small::segment_files(&path);
    assert!(names.len() == 3 && names.iter().all(|name| name.ends_with(".1.npy")), "{names:?}");
}

/// An append that waits in vain for a merger of small files reports the lock that the merger holds.
#[test]
fn an_append_reports_a_stuck_merger_of_small_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let told = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::clone(&told);
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand).lock_timeout(Duration::ZERO);
    let options = options.on_event(move |event| events.lock().unwrap().push(event.clone()));
    let store = options.create(&path, StoreConfig::new(2)).unwrap();
    let _other = hold(&path.join("LOCK.small"));
    fill(&store, 0..190);
    let told = told.lock().unwrap();
    let is_busy = |event: &Event| {
        let Event::MergeFailed { error: Error::Busy { path, .. }, .. } = event else { return false };
        path.ends_with("LOCK.small")
    };
    assert!(told.iter().any(is_busy), "{told:?}");
}

/// Closing commits every submitted batch, and does not wait for a merger of another process.
#[test]
fn a_store_is_closed_at_once_while_its_committer_waits_for_a_merger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (met, has_met) = channel();
    let fs = Hooked::new(move |call, path| {
        let is_committer = std::thread::current().name() == Some("vecstore-commit");
        if is_committer && call == "refused" && path.ends_with("LOCK.small") {
            let _ = met.send(());
        }
    });
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand).lock_timeout(LONG).vfs(fs);
    let store = options.create(&path, StoreConfig::new(2)).unwrap();
    let _other = hold(&path.join("LOCK.small"));
    fill(&store, 0..179);
    let mut batch = store.batch();
    batch.push("last", &[1.0f32, 2.0]).unwrap();
    let ticket = store.submit(batch, vecstore::OnDuplicate::Error).unwrap();
    has_met.recv_timeout(HANG).expect("the committer wants to merge");
    let (closed, is_closed) = channel();
    std::thread::spawn(move || closed.send(store.close()).unwrap());
    is_closed.recv_timeout(HANG).expect("nothing is waited for").unwrap();
    assert_eq!(ticket.wait().unwrap().commit, Some(180));
}

/// One thread waits for the commit lock; another thread refreshes and reads.
#[test]
fn a_reader_goes_on_beside_an_append_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (met, has_met) = channel();
    let fs = Hooked::new(move |call, path| {
        if call == "refused" && path.ends_with("LOCK") {
            let _ = met.send(());
        }
    });
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand).lock_timeout(LONG).vfs(fs);
    let store = Arc::new(options.create(&path, StoreConfig::new(2)).unwrap());
    put(&store, "0", 1.0);
    let other = hold(&path.join("LOCK"));
    let appends = Arc::clone(&store);
    let append = std::thread::spawn(move || fill(&appends, 1..2));
    has_met.recv_timeout(HANG).expect("it waits");
    let reads = Arc::clone(&store);
    let (looked, has_looked) = channel();
    std::thread::spawn(move || looked.send(reads.refresh().unwrap().totals().entries).unwrap());
    assert_eq!(has_looked.recv_timeout(HANG).expect("it waits for no append"), 1);
    drop(other);
    append.join().unwrap();
    assert_eq!(store.refresh().unwrap().totals().entries, 2);
}
