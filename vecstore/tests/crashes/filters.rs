//! Key filters of large files, interrupted: power cuts while a checkpoint or a merge writes one, and calls that fail.
//! Nothing is appended meanwhile, so that the same keys are right at every moment.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sim::check::{is_clean, whole};
use crate::sim::crash::Rng;
use crate::sim::crashes::in_parallel;
use crate::sim::run::{STORE, options};
use crate::sim::tier::{full_or, sampled};
use crate::sim::{Fault, Node, SimFs, is_temporary};
use vecstore::{Error, OnDuplicate, Store, StoreConfig};

/// Keys of a batch: more than a filter in memory is made for.
const MANY: u32 = 65_600;
/// Keys of the store.
const KEYS: u32 = MANY + 3;
/// Ways to lose what is not flushed, per moment.
const COMBINATIONS: usize = 6;
const EIO: i32 = 5;

fn put(store: &Store, keys: std::ops::Range<u32>) -> Result<(), Error> {
    let mut batch = store.batch();
    for key in keys {
        batch.push_empty(key.to_le_bytes(), b"")?;
    }
    store.append(&mut batch, OnDuplicate::Error).map(drop)
}

/// What a disk has on it with a store of one large file and one small one, for which no handle has written filters yet.
fn prepared() -> Vec<Node> {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(1)).expect("it is created");
    put(&store, 0..MANY).expect("they are appended");
    put(&store, MANY..KEYS).expect("they are appended");
    assert!(!fs.exists("/d/s/derived"), "no append waits for them");
    fs.image()
}

/// Each step is told of, and the next one done whatever came of it.
fn work(fs: &SimFs) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut told = |result: Result<(), Error>| errors.extend(result.err());
    match options(fs).open(STORE) {
        Ok(store) => {
            told(store.checkpoint());
            told(store.compact_full().map(drop));
            told(store.close());
        }
        Err(error) => told(Err(error)),
    }
    errors
}

/// Every stored key is there and no other; and so they are after going on, when nothing is left behind either.
fn check(fs: &SimFs) -> Result<(), String> {
    let same = |fs: &SimFs, stored: u32| {
        let store = options(fs).read_only(true).open(STORE).map_err(|error| format!("opening: {error}"))?;
        let keys: Vec<[u8; 4]> = (0..stored + 1000).map(u32::to_le_bytes).collect();
        let missing = store.snapshot().missing(&keys).map_err(|error| error.to_string())?;
        let right: Vec<usize> = (stored as usize..keys.len()).collect();
        if missing == right { Ok(()) } else { Err(format!("{} keys are missing, not 1000", missing.len())) }
    };
    whole(fs)?;
    same(fs, KEYS)?;
    let store = options(fs).open(STORE).map_err(|error| format!("opening to write: {error}"))?;
    put(&store, KEYS..KEYS + 1).map_err(|error| format!("appending: {error}"))?;
    store.compact_full().map_err(|error| format!("merging: {error}"))?;
    store.close().map_err(|error| format!("closing: {error}"))?;
    same(fs, KEYS + 1)?;
    whole(fs)?;
    let derived = fs.names("/d/s/derived");
    if derived.len() != 1 || derived.iter().any(|name| is_temporary(name.as_ref())) {
        return Err(format!("one filter is needed, and there is {derived:?}"));
    }
    Ok(())
}

#[test]
fn power_cuts_around_filters_change_no_answer() {
    let fs = SimFs::from_image(prepared());
    assert!(work(&fs).is_empty());
    let filters = fs.calls().iter().filter(|call| call.path.to_string_lossy().ends_with(".keyf")).count();
    assert!(filters > 2, "one is written by the checkpoint, one by the merge");
    let history = fs.history();
    let moments = sampled(0..=history.log.len(), 3, 0);
    let states = AtomicUsize::new(0);
    in_parallel(|number| {
        let Some(at) = moments.get(number).copied() else { return false };
        let mut rng = Rng(at as u64);
        for fates in history.fates(at, full_or(COMBINATIONS, 2), &mut rng) {
            let image = history.image(at, &fates, &mut rng);
            states.fetch_add(1, Ordering::Relaxed);
            if let Err(wrong) = check(&SimFs::from_image(image)) {
                panic!("crash after {at} changes: {wrong}\n{}", history.tell(at, &fates));
            }
        }
        true
    });
    println!("crash states around filters: {}", states.into_inner());
}

#[test]
fn calls_around_filters_may_fail() {
    let image = prepared();
    let disk = || SimFs::from_image(image.clone());
    let whole_run = disk();
    assert!(work(&whole_run).is_empty());
    let calls = sampled(0..whole_run.calls().len(), 9, 4);
    let failed = Mutex::new(0);
    in_parallel(|number| {
        let Some(at) = calls.get(number).copied() else { return false };
        let fs = disk();
        let fault = Fault { at, errno: EIO, lasting: at % 2 == 0 };
        fs.set_fault(Some(fault));
        let errors = work(&fs);
        fs.set_fault(None);
        let what = || fs.calls().get(at).map(|call| format!("{call:?}"));
        for error in &errors {
            is_clean(error).unwrap_or_else(|wrong| panic!("call {at}, {:?}: {wrong}", what()));
        }
        *failed.lock().expect("no panic") += usize::from(!errors.is_empty());
        check(&fs).unwrap_or_else(|wrong| panic!("call {at}, {:?}: {wrong}", what()));
        true
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed > 0 && failed < calls.len(), "{failed} of {} calls made an operation fail", calls.len());
}
