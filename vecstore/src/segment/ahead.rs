//! Bytes that are about to be needed: the processor is told before it would notice, and waits once instead of several times.

/// Bytes that come into a processor's cache together.
const LINE: usize = 64;

/// Asks for the memory of `bytes`, as far as a few lines. Where a processor has no such instruction, or none that is known
/// here, nothing happens.
pub(crate) fn ask_for(bytes: &[u8]) {
    const MOST: usize = 8 * LINE;
    for line in bytes.get(..MOST).unwrap_or(bytes).chunks(LINE) {
        prefetch(line);
    }
}

#[cfg(target_arch = "x86_64")]
fn prefetch(line: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instruction reads nothing that a program could notice, and never faults. The address is that of a slice.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_: &[u8]) {}
