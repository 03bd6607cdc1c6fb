//! Background merging beside threads that append: files stay few, and no thread waits for a merge.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::hooked::Hooked;
use crate::common::looks;
use crate::common::small::{contents, create, create_again, put, segment_files};
use vecstore::{Event, MergePolicy, OnDuplicate, OpenOptions, Reader, Store, StoreConfig};

/// A wait longer than this counts as a hang.
const HANG: Duration = Duration::from_secs(300);

/// A callback that reports merges, and the channel that it reports to.
fn merges() -> (impl Fn(&Event) + Send + Sync + 'static, Receiver<()>) {
    let (tell, told) = channel();
    let merged = move |event: &Event| {
        if matches!(event, Event::Merged { .. }) {
            let _ = tell.send(());
        }
    };
    (merged, told)
}

/// A merger that finds another process merging tries again by itself once that ends: no commit has to wake
/// it.
#[test]
fn a_merger_that_finds_another_merging_tries_again() {
    looks::watch();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (tell, told) = channel();
    let of_merges = move |event: &Event| match event {
        Event::Merged { .. } | Event::MergeFailed { .. } => drop(tell.send(event.clone())),
        _ => {}
    };
    let store = OpenOptions::new().on_event(of_merges).create(&path, StoreConfig::new(2)).unwrap();
    // Like a lock of another process: such a lock belongs to an open file, not to a process.
    let mut options = std::fs::File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    let others = options.open(path.join("LOCK.small")).unwrap();
    others.lock().unwrap();
    for i in 0..100 {
        put(&store, &format!("{i}"), i as f32);
    }
    // The merger has met the lock after the last commit, and once more without being woken.
    looks::wait(&path, 100, 2);
    assert_eq!(store.snapshot().segments().count(), 100);
    assert!(told.try_iter().next().is_none(), "that others merge is nothing to tell of");
    others.unlock().unwrap();
    let event = told.recv_timeout(HANG).expect("it looks again");
    assert!(matches!(event, Event::Merged { segments: 64.., .. }), "{event}");
    assert_eq!(contents(&store.snapshot()).len(), 100);
    store.close().unwrap();
}

#[test]
fn background_merging_keeps_files_few_while_threads_append_and_delete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(2)).unwrap();
    let reader = Reader::open(&path).unwrap();
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, most, path) = (&store, &most, &path);
            scope.spawn(move || {
                for i in 0..400 {
                    put(store, &format!("{thread}/{}", i % 150), i as f32);
                    if i % 10 == 0 {
                        store.delete(&[format!("{thread}/{}", (i + 75) % 150)]).unwrap();
                    }
                    if i % 50 == 0 {
                        most.fetch_max(segment_files(path).len(), Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..50 {
                let snapshot = reader.refresh().unwrap();
                let mut keys: Vec<Vec<u8>> = snapshot.iter().map(|e| e.unwrap().key().to_vec()).collect();
                let count = keys.len();
                keys.sort();
                keys.dedup();
                assert_eq!(keys.len(), count, "no key twice in any snapshot");
            }
        });
    });
    let expected = contents(&store.snapshot());
    for (key, row) in &expected {
        let i: usize = key.split('/').nth(1).unwrap().parse().unwrap();
        assert_eq!(row[0] as usize % 150, i);
    }
    drop(store);
    assert!(most.into_inner() < 200, "files stay few");
    assert!(segment_files(&path).len() < 200);
    assert!(vecstore::verify(&path).unwrap().is_whole());
    assert_eq!(contents(&create_again(&path).snapshot()), expected);
}

#[test]
fn one_shot_writers_leave_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(create(&path));
    for i in 0..400 {
        put(&create_again(&path), &i.to_string(), 1.0);
    }
    assert!(segment_files(&path).len() <= 200, "{}", segment_files(&path).len());
    assert_eq!(contents(&create_again(&path).snapshot()).len(), 400);
}

fn put_row(store: &Store, key: &str, row: &[f32]) {
    let mut batch = store.batch();
    batch.push(key, row).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
}

/// Appends `commits` one-row batches, and damages the newest segment after every `every` of them. Merges go
/// around damaged segments.
fn append_and_damage(commits: usize, every: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let told = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand).on_event(move |event| match event {
        Event::Damaged { error, .. } => {
            assert!(event.to_string().contains("`vecstore repair`"), "{error}");
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Event::MergeFailed { error, .. } => panic!("{error}"),
        _ => {}
    });
    let store = options.create(&path, StoreConfig::new(2)).unwrap();
    let (mut damaged, mut most) = (0, 0);
    for number in 0..commits {
        put(&store, &number.to_string(), 1.0);
        if number % every == 1 {
            let victim = path.join(format!("segments/{0:010}-{0:010}.0.npy", number + 1));
            let mut bytes = std::fs::read(&victim).unwrap();
            bytes[4097] ^= 4;
            std::fs::write(&victim, bytes).unwrap();
            damaged += 1;
        }
        most = most.max(segment_files(&path).len());
    }
    assert!(most <= 200 + 2 * damaged, "{most} files, {damaged} of them damaged");
    assert_eq!(contents(&store.snapshot()).len(), commits);
    let met = told.load(Ordering::Relaxed);
    assert!(met > 0 && met <= damaged, "each is told once: {met} of {damaged}");
    // Another handle knows the damaged segments.
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.compact().unwrap().damaged, damaged);
    assert!(segment_files(&path).len() <= 2 * damaged + 1);
    drop(store);
    vecstore::repair(&path).unwrap();
    assert_eq!(Store::open(&path).unwrap().snapshot().totals().rows as usize, commits - damaged);
}

#[test]
fn merges_go_around_damaged_files() {
    append_and_damage(600, 600);
    append_and_damage(600, 60);
    append_and_damage(300, 3);
}

/// Full segments are never merged again, so that their number is no reason for appends to wait.
#[test]
fn appends_go_on_beside_many_full_segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let dim = 1 << 13;
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand).max_segment(32 << 10);
    // An append that waited would fail: another process holds the merge lock all the time.
    let options = options.lock_timeout(Duration::from_millis(1)).on_event(|event| {
        assert!(!matches!(event, Event::MergeFailed { .. }), "{event}");
    });
    let store = options.create(&path, StoreConfig::new(dim)).unwrap();
    let other = std::fs::File::create(path.join("LOCK.merge")).unwrap();
    other.lock().unwrap();
    for number in 0..600 {
        put_row(&store, &number.to_string(), &vec![0.5f32; dim]);
    }
    assert_eq!(store.snapshot().segments().count(), 600);
    assert!(vecstore::verify(&path).unwrap().is_whole());
}

#[test]
fn a_compaction_ends_beside_a_thread_that_appends_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..20 {
        put(&store, &i.to_string(), 1.0);
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let (tell, begun) = channel();
    std::thread::scope(|scope| {
        let (store, done) = (&store, &done);
        scope.spawn(move || {
            let mut i = 20;
            while !done.load(Ordering::Relaxed) {
                put(store, &i.to_string(), 1.0);
                i += 1;
                // The receiver listens for the first append only.
                let _ = tell.send(());
            }
        });
        begun.recv_timeout(HANG).expect("it appends");
        let merges = store.compact_full().unwrap().merges + store.compact().unwrap().merges;
        done.store(true, Ordering::Relaxed);
        assert!(merges <= 4, "{merges}");
    });
    assert!(vecstore::verify(&path).unwrap().is_whole());
}

/// Appends `appends` times in the middle of a full compaction of six segments of 4 MiB and `small` small
/// ones, and then until the compaction ends. Returns how often newer segments were merged meanwhile, and the
/// most files there were.
fn append_beside_a_long_merge(small: usize, appends: usize) -> (usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let dim = 1 << 15;
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    let store = options.create(&path, StoreConfig::new(dim)).unwrap();
    let row = vec![0.5f32; dim];
    let put = |number: usize, rows: usize| {
        let mut batch = store.batch();
        for i in 0..rows {
            batch.push(format!("{number}/{i}"), &row).unwrap();
        }
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    };
    // Six large segments: several steps of the merge below.
    (0..6).for_each(|number| put(number, 32));
    let mut number = 6 + small;
    (6..number).for_each(|number| put(number, 1));

    let within = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&within);
    // The merge waits for the appends before its second piece. More pieces follow than it writes between two
    // looks for new commits.
    let ((tell, in_the_middle), (go_on, may)) = (channel(), channel::<()>());
    let once = Mutex::new(Some((tell, may)));
    let pieces = AtomicUsize::new(0);
    let fs = Hooked::new(move |call, path| {
        let is_output =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tmp-merge-large-"));
        if call == "write"
            && is_output
            && pieces.fetch_add(1, Ordering::SeqCst) == 1
            && let Some((tell, may)) = once.lock().unwrap().take()
        {
            tell.send(()).unwrap();
            may.recv().unwrap();
        }
    });
    let counting = options.clone().vfs(fs).on_event(move |event| {
        if let Event::Merged { first, .. } = event {
            counted.fetch_add(usize::from(*first > 1), Ordering::SeqCst);
        }
    });
    let other = counting.open(&path).unwrap();
    let mut most = 0;
    std::thread::scope(|scope| {
        let compaction = scope.spawn(|| other.compact_full().unwrap());
        in_the_middle.recv_timeout(HANG).unwrap();
        let mut one_more = || {
            put(number, 1);
            number += 1;
            most = most.max(segment_files(&path).len());
        };
        (0..appends).for_each(|_| one_more());
        go_on.send(()).unwrap();
        while !compaction.is_finished() {
            one_more();
        }
        // The small segments are merged into one first.
        assert_eq!(compaction.join().unwrap().merges, 1 + u64::from(small > 0));
    });
    assert!(vecstore::verify(&path).unwrap().is_whole());
    (within.load(Ordering::SeqCst), most)
}

#[test]
fn files_stay_few_while_a_long_merge_is_under_way() {
    let (_, most) = append_beside_a_long_merge(0, 160);
    // Appends wait from 180 segments on; the inputs of a finished merge may exist besides until they are
    // removed.
    assert!(most < 180 + 64 + 4, "{most} files");
}

#[test]
fn a_long_merge_of_many_files_does_not_keep_appends_waiting() {
    let (within, most) = append_beside_a_long_merge(104, 160);
    assert!(within > 0, "the appends would wait for the long merge");
    assert!(most < 180 + 64 + 4, "{most} files");
}

/// A writer lists commits in the manifest now and then. A merge takes listed segments only, so that the
/// writer need not wait for a manifest made for the merge.
#[test]
fn a_merge_leaves_unlisted_segments_to_the_next_merge() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..10 {
        put(&store, &format!("k{i}"), 1.0);
    }
    store.close().unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let store = OpenOptions::new()
        .merge_policy(MergePolicy::OnDemand)
        .on_event(move |event| match event {
            Event::Checkpoint { first, last, .. } => seen.lock().unwrap().push(("listed", *first, *last)),
            Event::Merged { first, last, .. } => seen.lock().unwrap().push(("merged", *first, *last)),
            _ => {}
        })
        .open(&path)
        .unwrap();
    for i in 10..130 {
        put(&store, &format!("k{i}"), 1.0);
    }
    assert_eq!(*events.lock().unwrap(), [("listed", 11, 74), ("merged", 1, 74)]);
    assert_eq!(segment_files(&path).len(), 1 + 56);
    assert_eq!(contents(&store.snapshot()).len(), 130);
}

#[test]
fn space_of_rows_deleted_from_a_large_segment_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let dim = 4096;
    let (merged, told) = merges();
    let store = OpenOptions::new().on_event(merged).create(&path, StoreConfig::new(dim)).unwrap();
    let mut batch = store.batch();
    for i in 0..200 {
        batch.push(format!("{i}"), &vec![i as f32; dim]).unwrap();
    }
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let before = store.snapshot().totals().bytes;
    let keys: Vec<String> = (0..120).map(|i| format!("{i}")).collect();
    store.delete(&keys).unwrap();
    told.recv_timeout(HANG).expect("it is merged by itself");
    let after = Reader::open(&path).unwrap().snapshot().totals().bytes;
    assert!(after <= before / 2, "{after} of {before} bytes");
    assert_eq!(contents(&store.snapshot()).len(), 80);
    drop(store);
    assert!(vecstore::verify(&path).unwrap().is_whole());
}

/// Commits wake the merger now and then, not each time; the last commits of a burst are merged all the same.
#[test]
fn the_last_commits_of_a_burst_are_merged_too() {
    looks::watch();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    for i in 0..60 {
        put(&store, &format!("before {i}"), 1.0);
    }
    drop(store);
    let (merged, told) = merges();
    let store = OpenOptions::new().on_event(merged).open(&path).unwrap();
    put(&store, "the first", 1.0);
    // The merger has looked, and found nothing to do yet.
    looks::wait(&path, 1, 1);
    for i in 0..6 {
        put(&store, &format!("burst {i}"), 1.0);
    }
    told.recv_timeout(HANG).expect("it is merged without another commit");
    assert_eq!(store.snapshot().totals().rows, 67);
}
