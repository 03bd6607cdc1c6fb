//! Counts allocated memory, so that it can be compared with the size of the files read.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory that reading files may take beyond their own size.
pub const ALLOWED: usize = 64 << 20;

/// Allocator that counts the bytes in use, and the most there were since the maximum was last reset.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// The most memory that any bounded work has taken beyond the size of its files.
static BEYOND: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // Counted whole, although the system provides such pages only when they are touched.
        count(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as in `alloc`; the pointer is from System.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(size: usize) {
    let now = NOW.fetch_add(size, Ordering::Relaxed) + size;
    MOST.fetch_max(now, Ordering::Relaxed);
}

/// Runs `work` on files of `files` bytes, and panics if it takes more memory than they justify. Allocations
/// of other threads count, too.
pub fn bounded<T>(files: usize, what: &str, work: impl FnOnce() -> T) -> T {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = work();
    let took = MOST.load(Ordering::Relaxed).saturating_sub(before);
    BEYOND.fetch_max(took.saturating_sub(files), Ordering::Relaxed);
    assert!(took <= files + ALLOWED, "{what} took {took} bytes of memory for files of {files}");
    result
}

/// The most memory that any bounded work took beyond the size of its files since the last call of this
/// function.
pub fn most_beyond() -> usize {
    BEYOND.swap(0, Ordering::Relaxed)
}
