//! Key filters of large files: power cuts and failing calls while the checkpoint after a large batch, or a
//! merge, writes a filter.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sim::check::{is_clean, whole};
use crate::sim::crash::Rng;
use crate::sim::crashes::in_parallel;
use crate::sim::run::{STORE, options};
use crate::sim::tier::{full_or, sampled};
use crate::sim::{Fault, Node, SimFs, is_temporary};
use vecstore::{Error, OnDuplicate, Store, StoreConfig};

/// Keys of the large batch: more than a filter in memory is built for, so the filter is a derived file.
const MANY: u32 = 65_600;
/// Keys of the store before the large batch.
const FEW: u32 = 3;
/// Keys of the store after the large batch.
const KEYS: u32 = FEW + MANY;
/// Combinations of fates per moment.
const COMBINATIONS: usize = 6;
const EIO: i32 = 5;

fn put(store: &Store, keys: std::ops::Range<u32>) -> Result<(), Error> {
    let mut batch = store.batch();
    for key in keys {
        batch.push_empty(key.to_le_bytes())?;
    }
    store.append(&mut batch, OnDuplicate::Error).map(drop)
}

/// The image of a disk with a store of few keys.
fn prepared() -> Vec<Node> {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(1)).expect("it is created");
    put(&store, 0..FEW).expect("they are appended");
    fs.image()
}

/// Appends a large batch, merges, and closes. Returns when the batch was acknowledged, and every error.
fn work(fs: &SimFs) -> (Option<usize>, Vec<Error>) {
    let (mut acknowledged, mut errors) = (None, Vec::new());
    match options(fs).open(STORE) {
        Ok(store) => {
            match put(&store, FEW..KEYS) {
                Ok(()) => acknowledged = Some(fs.changes()),
                Err(error) => errors.push(error),
            }
            errors.extend(store.compact_full().err());
            errors.extend(store.close().err());
        }
        Err(error) => errors.push(error),
    }
    (acknowledged, errors)
}

/// Number of stored keys, among `2 * most` keys; an error unless they are the first ones.
fn stored(fs: &SimFs, most: u32) -> Result<u32, String> {
    let store = options(fs).for_reading().open(STORE).map_err(|error| format!("opening: {error}"))?;
    let keys: Vec<[u8; 4]> = (0..most * 2).map(u32::to_le_bytes).collect();
    let missing = store.snapshot().missing(&keys).map_err(|error| error.to_string())?;
    let first = missing.first().copied().unwrap_or(keys.len());
    if missing.into_iter().eq(first..keys.len()) {
        u32::try_from(first).map_err(|error| error.to_string())
    } else {
        Err(format!("keys after {first} are missing, and others are not"))
    }
}

/// Checks that the batch is there as a whole or not at all, as `right` says, and that going on leaves one
/// filter and no other derived file.
fn check(fs: &SimFs, right: impl Fn(bool) -> bool) -> Result<(), String> {
    whole(fs)?;
    let found = stored(fs, KEYS)?;
    if ![FEW, KEYS].contains(&found) || !right(found == KEYS) {
        return Err(format!("{found} keys are there"));
    }
    let store = options(fs).open(STORE).map_err(|error| format!("opening to write: {error}"))?;
    put(&store, found..KEYS + 1).map_err(|error| format!("appending: {error}"))?;
    store.compact_full().map_err(|error| format!("merging: {error}"))?;
    store.close().map_err(|error| format!("closing: {error}"))?;
    if stored(fs, KEYS + 1)? != KEYS + 1 {
        return Err("after going on keys are missing".to_owned());
    }
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
    let (acknowledged, errors) = work(&fs);
    assert!(errors.is_empty(), "{errors:?}");
    let filters = fs.calls().iter().filter(|call| call.path.to_string_lossy().ends_with(".keyf")).count();
    assert!(filters > 2, "one is the checkpoint's, one the merge's");
    let history = fs.history();
    let moments = sampled(0..=history.log.len(), 3, 0);
    let states = AtomicUsize::new(0);
    in_parallel(|number| {
        let Some(at) = moments.get(number).copied() else { return false };
        let mut rng = Rng(at as u64);
        for fates in history.fates(at, full_or(COMBINATIONS, 2), &mut rng) {
            let image = history.image(at, &fates, &mut rng);
            states.fetch_add(1, Ordering::Relaxed);
            let right = |is_there| is_there || acknowledged.is_none_or(|when| at < when);
            if let Err(wrong) = check(&SimFs::from_image(image), right) {
                panic!("crash after {at} changes: {wrong}\n{}", history.tell(at, &fates));
            }
        }
        true
    });
    println!("crash states around filters: {}", states.into_inner());
}

#[test]
fn failed_calls_around_filters_change_no_answer() {
    let image = prepared();
    let disk = || SimFs::from_image(image.clone());
    let whole_run = disk();
    assert!(work(&whole_run).1.is_empty());
    let calls = sampled(0..whole_run.calls().len(), 9, 4);
    let failed = Mutex::new(0);
    in_parallel(|number| {
        let Some(at) = calls.get(number).copied() else { return false };
        let fs = disk();
        let fault = Fault { at, errno: EIO, lasting: at % 2 == 0 };
        fs.set_fault(Some(fault));
        let (acknowledged, errors) = work(&fs);
        fs.set_fault(None);
        let what = || fs.calls().get(at).map(|call| format!("{call:?}"));
        for error in &errors {
            is_clean(error).unwrap_or_else(|wrong| panic!("call {at}, {:?}: {wrong}", what()));
        }
        *failed.lock().expect("no panic") += usize::from(!errors.is_empty());
        // If the flush of its name failed, the batch is there although it was not acknowledged.
        let is_unknown = errors.iter().any(|error| matches!(error, Error::OutcomeUnknown { .. }));
        check(&fs, |is_there| is_there == acknowledged.is_some() || is_unknown)
            .unwrap_or_else(|wrong| panic!("call {at}, {:?}: {wrong}", what()));
        true
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed > 0 && failed < calls.len(), "{failed} of {} calls made an operation fail", calls.len());
}
