//! What a failed call is told as: what is not known is not told as known, and the other way round.

use std::path::Path;

use crate::sim::run::{STORE, options};
use crate::sim::{Fault, Misfortune, SimFs};
use vecstore::{Error, OnDuplicate, Store, StoreConfig};

/// From linux/errno.h.
const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

fn put(store: &Store, key: &str) -> vecstore::Result<()> {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).map(drop)
}

/// A segment that did not get its name is not there: the batch failed, the handle goes on, and nothing stays
/// behind.
#[test]
fn a_name_that_was_not_given() {
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

/// That a place cannot be looked at does not make it empty.
#[test]
fn a_place_that_cannot_be_looked_at() {
    const NOTHING: &str = "/d/nothing";
    let fs = SimFs::new();
    let error = options(&fs).read_only(true).open(NOTHING).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let look = |call: &crate::sim::Call| call.what == "metadata" && call.path == Path::new(NOTHING);
    let at = fs.calls().iter().position(look).unwrap();
    let fs = SimFs::new();
    fs.set_fault(Some(Fault { at, errno: EIO, lasting: false }));
    let error = options(&fs).read_only(true).open(NOTHING).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

/// A commit whose file cannot be mapped, nor the directory read, is there all the same; the handle knows that
/// it does not know it, and looks again.
#[test]
fn a_commit_that_cannot_be_mapped() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
    put(&store, "a").unwrap();
    // Neither while it is being written, nor by its name.
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

/// The first merge ends after its output has its name; the next one removes that.
#[test]
fn what_a_failed_merge_leaves_goes_with_the_next() {
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

/// What cannot be listed is no reason to call a store whole.
#[test]
fn a_listing_that_fails_is_a_fault() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
    (0..3).for_each(|number| put(&store, &number.to_string()).unwrap());
    let before = fs.calls().len();
    assert!(vecstore::verify_with(&fs, Path::new(STORE), |_| {}).unwrap().is_whole());
    let calls = fs.calls();
    let lists: Vec<usize> = (before..calls.len()).filter(|at| calls[*at].what == "list").collect();
    assert!(lists.len() >= 3, "segments twice, bitmaps, checkpoints");
    for at in lists {
        // The calls are counted on.
        let fault = fs.calls().len() + (at - before);
        fs.set_fault(Some(Fault { at: fault, errno: EIO, lasting: false }));
        let report = vecstore::verify_with(&fs, Path::new(STORE), |_| {}).unwrap();
        assert!(!report.is_whole(), "{:?} cannot be listed", calls[at].path);
        fs.set_fault(None);
    }
}

/// Few large commits are listed as soon as many small ones: what is not listed is copied when a writer dies.
#[test]
fn checkpoints_come_with_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let events = std::sync::Arc::clone(&told);
    let options = vecstore::OpenOptions::new().merging(vecstore::Merging::OnDemand).on_event(move |event| {
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
