//! How failed calls are reported: an unknown outcome is not reported as known, nor a known one as unknown.

use std::path::Path;

use crate::sim::run::{STORE, options};
use crate::sim::{Fault, Misfortune, SimFs};
use vecstore::{Error, OnDuplicate, Progress, Store, StoreConfig};

/// Errors of a disk, from linux/errno.h.
const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

fn put(store: &Store, key: &str) -> vecstore::Result<()> {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).map(drop)
}

/// If a segment does not get its name, the batch fails, no file stays behind, and the handle goes on.
#[test]
fn a_failed_rename_fails_the_batch_and_the_handle_goes_on() {
    let begin = || {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
        put(&store, "a").unwrap();
        let before = fs.calls().len();
        (fs, store, before)
    };
    let (fs, store, before) = begin();
    put(&store, "b").unwrap();
    let at = before + fs.calls()[before..].iter().position(|call| call.what == "rename").unwrap();
    for errno in [EIO, ENOSPC] {
        let (fs, store, _) = begin();
        fs.set_fault(Some(Fault { at, errno, lasting: false }));
        let error = put(&store, "b").unwrap_err();
        match errno {
            ENOSPC => assert!(matches!(error, Error::NoSpace { .. }), "{error}"),
            _ => assert!(matches!(error, Error::Io { .. }), "{error}"),
        }
        assert_eq!(fs.names("/d/s/segments"), ["0000000001-0000000001.0.npy"]);
        put(&store, "b").unwrap();
        assert_eq!(store.snapshot().last_commit(), 2);
    }
}

/// A path that cannot be examined may have a store: the error is not `NotFound`.
#[test]
fn an_unreadable_path_is_not_reported_as_not_found() {
    const NOTHING: &str = "/d/nothing";
    let fs = SimFs::new();
    let error = options(&fs).for_reading().open(NOTHING).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let look = |call: &crate::sim::Call| call.what == "metadata" && call.path == Path::new(NOTHING);
    let at = fs.calls().iter().position(look).unwrap();
    let fs = SimFs::new();
    fs.set_fault(Some(Fault { at, errno: EIO, lasting: false }));
    let error = options(&fs).for_reading().open(NOTHING).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

/// A commit whose file its own handle cannot map is durable nevertheless. The handle knows that it lacks the
/// commit, and looks for it again.
#[test]
fn a_commit_that_cannot_be_mapped_is_still_a_commit() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
    put(&store, "a").unwrap();
    // Mapping fails while the file is being written, and later by its name.
    fs.arm("map", 0, Misfortune::Fails(EMFILE, false));
    let again = fs.clone();
    fs.before_next("flush directory", move || again.arm("map", 0, Misfortune::Fails(EMFILE, true)));
    put(&store, "b").unwrap();
    assert!(!store.snapshot().contains("b").unwrap(), "it was not mapped");
    fs.set_fault(None);
    let error = put(&store, "b").unwrap_err();
    assert!(matches!(error, Error::DuplicateKey { .. }), "{error}");
    put(&store, "c").unwrap();
    assert_eq!(store.snapshot().last_commit(), 3);
}

/// The first merge fails after its output has its name; the next merge removes this file.
#[test]
fn the_next_merge_removes_the_output_of_a_failed_one() {
    let run = |commits: usize, at: Option<usize>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
        fs.set_fault(at.map(|at| Fault { at, errno: EIO, lasting: false }));
        (0..commits).for_each(|number| put(&store, &number.to_string()).unwrap());
        (fs, store)
    };
    let (fs, _store) = run(140, None);
    let calls = fs.calls();
    let is_output = |call: &crate::sim::Call| call.path.to_string_lossy().contains("tmp-merge-small-");
    let merge = calls.iter().position(is_output).expect("appends merge when files pile up");
    let is_list = |call: &crate::sim::Call| call.what == "replace" && call.path.ends_with("MANIFEST");
    let listed = merge + calls[merge..].iter().position(is_list).expect("it is listed");
    let (fs, store) = run(400, Some(listed));
    let names = fs.names("/d/s/segments");
    let mut ranges: Vec<(String, String)> =
        names.iter().map(|name| (name[..10].to_owned(), name[11..21].to_owned())).collect();
    ranges.sort();
    let follow = |pair: &[(String, String)]| pair[0].1 < pair[1].0;
    assert!(ranges.len() > 1 && ranges.windows(2).all(follow), "one file for each commit: {names:?}");
    assert_eq!(store.snapshot().totals().entries, 400);
}

/// A store with a directory that cannot be listed is not called whole.
#[test]
fn verify_reports_a_failed_listing_as_a_fault() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
    (0..3).for_each(|number| put(&store, &number.to_string()).unwrap());
    let before = fs.calls().len();
    assert!(vecstore::verify_on(&fs, Path::new(STORE), &Progress::new()).unwrap().is_whole());
    let calls = fs.calls();
    let lists: Vec<usize> = (before..calls.len()).filter(|at| calls[*at].what == "list").collect();
    assert!(lists.len() >= 3, "segments twice, bitmaps, checkpoints");
    for at in lists {
        // The numbers of calls go on from the first verification.
        let fault = fs.calls().len() + (at - before);
        fs.set_fault(Some(Fault { at: fault, errno: EIO, lasting: false }));
        let report = vecstore::verify_on(&fs, Path::new(STORE), &Progress::new()).unwrap();
        assert!(!report.is_whole(), "{:?} cannot be listed", calls[at].path);
        fs.set_fault(None);
    }
}

/// A checkpoint is also due after 256 MiB of commits, because commits that the manifest does not list are
/// copied after a writer died.
#[test]
fn a_checkpoint_comes_after_256_mib_of_commits() {
    let dir = tempfile::tempdir().unwrap();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let events = std::sync::Arc::clone(&told);
    let options =
        vecstore::OpenOptions::new().merge_policy(vecstore::MergePolicy::OnDemand).on_event(move |event| {
            if let vecstore::Event::Checkpoint { last, .. } = event {
                events.lock().unwrap().push(*last);
            }
        });
    let dim = 1 << 16;
    let store = options.create(dir.path().join("s"), StoreConfig::new(dim)).unwrap();
    let (row, mut batch) = (vec![1.0f32; dim], store.batch());
    for commit in 1..=9 {
        // 32 MiB, and a file is a little longer than its rows.
        (0..128).try_for_each(|entry| batch.push(format!("{commit}/{entry}"), &row)).unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
        let expected: &[u64] = if commit < 8 { &[] } else { &[8] };
        assert_eq!(*told.lock().unwrap(), expected, "after {commit} x 32 MiB");
    }
}
