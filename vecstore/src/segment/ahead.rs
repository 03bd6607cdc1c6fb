//! Prefetching: the processor learns early which bytes are needed next, and waits once instead of several
//! times.

/// Length of a line of the processor's cache.
const LINE: usize = 64;

/// Prefetches `bytes`, up to a few cache lines. Does nothing on processors for which no such instruction is
/// known here.
pub(crate) fn ask_for(bytes: &[u8]) {
    const MOST: usize = 8 * LINE;
    for line in bytes.get(..MOST).unwrap_or(bytes).chunks(LINE) {
        prefetch(line);
    }
}

#[cfg(target_arch = "x86_64")]
fn prefetch(line: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instruction changes no state that a program can observe and never faults. The address is
    // that of a slice.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_: &[u8]) {}
