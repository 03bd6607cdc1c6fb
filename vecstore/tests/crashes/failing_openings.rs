//! Every call fails while a store is created, opened or read: existing files stay, and readers write nothing.

use std::collections::BTreeSet;
use std::path::Path;

use crate::sim::check::{is_clean, whole};
use crate::sim::oracle::State;
use crate::sim::run::{Do, Run, STORE, options};
use crate::sim::start::Start;
use crate::sim::{Fault, SimFs};
use vecstore::{Error, OnDuplicate, Progress, StoreConfig};

/// Errors of a disk, from linux/errno.h.
const EIO: i32 = 5;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

/// Each call of a creation fails: there is no store or a whole one, and another creation works.
#[test]
fn a_failed_call_during_creation_leaves_no_store_or_a_whole_one() {
    let calls = {
        let mut run = Run::new(SimFs::new());
        run.act(Do::Create(0));
        run.fs.calls()
    };
    let mut failures = 0;
    for (at, call) in calls.iter().enumerate() {
        for errno in [ENOSPC, EIO, EMFILE] {
            for lasting in [false, true] {
                let fs = SimFs::new();
                fs.set_fault(Some(Fault { at, errno, lasting }));
                let mut run = Run::new(fs.clone());
                run.act(Do::Create(0));
                fs.set_fault(None);
                let context = format!("call {at} ({:?}), errno {errno}, lasting {lasting}", call);
                for (_, error) in &run.errors {
                    is_clean(error).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
                }
                let failed = !run.errors.is_empty();
                failures += usize::from(failed);
                run.errors.clear();
                run.act(Do::Open(1));
                if let Some((_, Error::NotFound { .. })) = run.errors.first() {
                    assert!(failed, "{context}: it was said to be there");
                    run.errors.clear();
                    run.act(Do::Create(1));
                }
                run.act(Do::Append(1));
                run.show(1).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
                assert!(run.errors.is_empty(), "{context}: {:?}", run.errors);
                whole(&fs).unwrap_or_else(|wrong| panic!("{context}: {wrong}"));
                if !lasting {
                    let beside: Vec<String> = fs.names("/d").into_iter().filter(|name| name != "s").collect();
                    assert!(beside.is_empty(), "{context}: left beside the store: {beside:?}");
                }
            }
        }
    }
    assert!(failures > 3 * calls.len(), "{failures} of {} faults failed the creation", 6 * calls.len());
}

#[test]
fn reading_changes_nothing_on_the_disk() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
    for key in ["a", "b", "c"] {
        let mut batch = store.batch();
        batch.push(key, &[1.0f32]).unwrap();
        store.append(&mut batch, OnDuplicate::Skip).unwrap();
    }
    drop(store);
    let (before, reader) = (fs.changes(), fs.other_process());
    let store = options(&reader).for_reading().open(STORE).unwrap();
    let snapshot = store.refresh().unwrap();
    assert_eq!(snapshot.iter().count(), 3);
    assert!(snapshot.get("b").unwrap().is_some());
    assert!(vecstore::verify_on(&reader, Path::new(STORE), &Progress::new()).unwrap().is_whole());
    drop(store);
    assert_eq!(fs.changes(), before, "{:?}", reader.calls());
    assert!(reader.calls().iter().all(|call| call.what != "lock"), "{:?}", reader.calls());
}

/// Each call fails while a reader opens and reads: the reader gets an error that names a path, or a right
/// answer.
#[test]
fn a_failed_call_while_reading_gives_an_error_or_a_right_answer() {
    let start = Start::new();
    let fs = start.disk();
    let right: BTreeSet<State> = start.right.into_iter().map(|world| world.store).collect();
    let read = |fs: &SimFs| -> Result<State, String> {
        let store = options(fs).for_reading().open(STORE).map_err(|error| {
            is_clean(&error).expect("a clean error");
            error.to_string()
        })?;
        State::read(&store.snapshot())
    };
    let other = fs.other_process();
    assert!(right.contains(&read(&other).expect("nothing fails")));
    let calls = other.calls().len();
    assert!(calls > 5);
    let mut failures = 0;
    for at in 0..calls {
        for errno in [EIO, EMFILE, EACCES] {
            let other = fs.other_process();
            other.set_fault(Some(Fault { at, errno, lasting: false }));
            match read(&other) {
                Ok(state) => assert!(right.contains(&state), "call {at}, errno {errno}: {state:?}"),
                Err(_) => failures += 1,
            }
        }
    }
    assert!(failures > calls, "{failures} of {} faults failed the reader", 3 * calls);
    assert_eq!(fs.changes(), 0, "a reader writes nothing");
}
