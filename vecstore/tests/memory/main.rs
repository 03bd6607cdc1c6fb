//! Memory of a merge: at most 64 MiB and 24 bytes for each entry, whatever the size of keys, payloads and
//! attributes. Mapped files do not count: the system reclaims their pages when it needs memory.
//!
//! With `VECSTORE_TESTS=full`, the stores have 20 million keys and 4 GiB of payloads, otherwise a tenth and a
//! sixteenth.

#[path = "../sim/tier.rs"]
#[allow(dead_code, reason = "each test binary uses its part of this module")]
mod tier;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use vecstore::{CompactReport, MergePolicy, OnDuplicate, OpenOptions, Result, Store, StoreConfig};

/// The system's allocator; counts the bytes in use, and their maximum.
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

// SAFETY: every call is passed on to the system's allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        give_back(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        // Old and new memory may exist at the same time.
        take(len);
        // SAFETY: as in `alloc`.
        let place = unsafe { System.realloc(place, layout, len) };
        give_back(layout.size());
        place
    }
}

/// Memory is counted for the whole process, so that tests run one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Most bytes that `work` takes at any time, beyond those in use before.
fn most_taken(work: impl FnOnce() -> Result<CompactReport>) -> (usize, CompactReport) {
    let before = TAKEN.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let done = work().unwrap();
    (MOST.load(Ordering::Relaxed) - before, done)
}

/// A store of `segments` segments; `fill` fills the batch of each.
fn store(dir: &Path, segments: u64, fill: impl Fn(u64, &mut vecstore::Batch) -> Result<()>) -> Store {
    let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    let store = options.create(dir.join("store.vecs"), StoreConfig::new(1)).unwrap();
    let mut batch = store.batch();
    for segment in 0..segments {
        fill(segment, &mut batch).unwrap();
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    drop(batch);
    store
}

/// Merges neighbours, then all segments into one, and checks the memory that each merge takes.
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
fn a_merge_of_many_keys_takes_little_memory() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let (segments, each) = (20, tier::full_or(1_000_000, 100_000));
    let store = store(dir.path(), segments, |segment, batch| {
        (0..each).try_for_each(|entry| {
            let key = format!("a key of usual length, {segment}/{entry}");
            let entry = batch.entry(key).row(&[entry as f32]).attribute("number", entry as i64);
            entry.attribute("text", "a text of some words").push()
        })
    });
    merge("many keys", &store, segments * each, "a key of usual length, 3/17");
}

#[test]
fn a_merge_of_large_payloads_takes_little_memory() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let dir = tempfile::tempdir().unwrap();
    let (segments, payloads) = (tier::full_or(128, 8), 8);
    let text = vec![b'x'; 4 << 20];
    let store = store(dir.path(), segments, |segment, batch| {
        (0..payloads)
            .try_for_each(|entry| batch.entry(format!("{segment}/{entry}")).row(&[1.0]).payload(&text).push())
    });
    merge("large payloads", &store, segments * payloads, "3/7");
}
