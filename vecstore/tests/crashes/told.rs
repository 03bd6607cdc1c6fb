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
