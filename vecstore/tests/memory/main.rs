//! Memory of a merge: 64 MiB and 24 bytes for each entry, whatever keys, payloads and attributes take. What is mapped from
//! files does not count: the system takes it back when it needs room.
//!
//! With `VECSTORE_TESTS=full` there are 20 million keys and 4 GiB of payloads, otherwise a tenth and a sixteenth.

#[path = "../sim/tier.rs"]
#[allow(dead_code, reason = "each test binary uses its part of this module")]
mod tier;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use vecstore::{Compacted, Details, Merging, OnDuplicate, OpenOptions, Result, Store, StoreConfig};

/// The system's allocator, which counts the bytes that are taken, and how many they were at most.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn take(bytes: usize) {
    let taken = TAKEN.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(taken, Ordering::Relaxed);
}

fn give_back(bytes: usize) {
    TAKEN.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator, with the arguments as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: what holds for the caller's arguments holds here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        give_back(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        // Both may be there for a moment.
        take(len);
        // SAFETY: as above.
        let place = unsafe { System.realloc(place, layout, len) };
        give_back(layout.size());
        place
    }
}

/// Memory is counted for the whole process: one test at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Bytes that `work` takes at most, beyond what was taken before.
fn most_taken(work: impl FnOnce() -> Result<Compacted>) -> (usize, Compacted) {
    let before = TAKEN.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let done = work().unwrap();
    (MOST.load(Ordering::Relaxed) - before, done)
}

/// A store of this many segments, each of which `fill` has made.
fn store(dir: &Path, segments: u64, fill: impl Fn(u64, &mut vecstore::Batch) -> Result<()>) -> Store {
    let options = OpenOptions::new().merging(Merging::OnDemand);
    let store = options.create(dir.join("store.vecs"), StoreConfig::new(1)).unwrap();
    let mut batch = store.batch();
    for segment in 0..segments {
        fill(segment, &mut batch).unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    drop(batch);
    store
}

/// Merges neighbours, then everything into one segment.
fn merge(what: &str, store: &Store, entries: u64, a_key: &str) {
    let most = (64 << 20) + 24 * entries as usize;
    let of_merge = most_taken(|| store.compact());
    assert_eq!(store.delete(&[a_key]).unwrap().deleted, 1);
    let of_all = most_taken(|| store.compact_full());
    for (name, (taken, done)) in [("compact", of_merge), ("compact --full", of_all)] {
        assert!(done.merges > 0, "{what}, {name}: nothing was merged");
        println!("{what}, {name}: {taken} bytes at most, {most} allowed, {} written", done.bytes_written);
        assert!(taken <= most, "{what}, {name}: {taken} bytes, more than {most}");
    }
    assert_eq!(store.snapshot().totals().entries, entries - 1);
}

#[test]
fn of_many_keys() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let (segments, each) = (20, tier::full_or(1_000_000, 100_000));
    let store = store(dir.path(), segments, |segment, batch| {
        (0..each).try_for_each(|entry| {
            let details =
                Details::new().attribute("number", entry as i64).attribute("text", "a text of some words");
            batch.push_with(format!("a key of usual length, {segment}/{entry}"), &[entry as f32], details)
        })
    });
    merge("many keys", &store, segments * each, "a key of usual length, 3/17");
}

#[test]
fn of_large_payloads() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let (segments, payloads) = (tier::full_or(128, 8), 8);
    let text = vec![b'x'; 4 << 20];
    let store = store(dir.path(), segments, |segment, batch| {
        (0..payloads).try_for_each(|entry| batch.push_with(format!("{segment}/{entry}"), &[1.0], &text))
    });
    merge("large payloads", &store, segments * payloads, "3/7");
}
