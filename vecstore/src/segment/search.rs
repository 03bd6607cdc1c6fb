//! Finds the position of a hash among a segment's sorted hashes.
//!
//! Hashes of keys are evenly distributed, so the value of a hash predicts its position. Among n hashes the
//! first guess is off by about the square root of n; a second guess, from the hash found there, is off by
//! about the square root of that. A binary search among a million hashes waits for memory some twenty times,
//! this search three times. With unevenly distributed hashes (keys can be chosen for that) it costs twice a
//! binary search.
//!
//! An [`Index`] also remembers the positions of some hashes, which leaves one wait for memory. For a segment
//! that is often asked for absent keys it builds a filter. Both take memory only after the first lookup, and
//! no more than a fixed amount per segment.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::filter::{IN_MEMORY, KeyFilter};

/// Width of the first step from a guess that is off.
const STEP: usize = 8;
/// Hashes around a guess that are compared together.
const WINDOW: usize = 16;
/// Hashes below which no cells are remembered: so few fit into a small part of the processor's cache.
const FEW: usize = 512;
/// Approximate number of hashes in a cell. A guess within a cell is off by the square root of it.
const CELL: usize = 32;
/// Binary logarithm of the largest number of cells: 64 KiB.
const MOST_CELLS: u32 = 14;
/// A filter is built after one lookup of an absent key per this many hashes of the segment.
const PER_VAIN: usize = 16;

/// State that lookups keep about a segment's hashes. It follows from the hashes alone, so threads may store
/// it in any order. No thread waits for another here, so these types are not those of `sync`.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Position of each cell's first hash, plus one; 0 if not known yet.
    cells: OnceLock<Box<[AtomicU32]>>,
    filter: OnceLock<KeyFilter>,
    in_vain: AtomicU32,
}

impl Index {
    /// False only if the segment certainly does not have the hash.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        self.filter.get().is_none_or(|filter| filter.may_have(hash))
    }

    /// Counts a lookup of an absent hash. Builds the filter after enough of them.
    pub fn was_in_vain(&self, hashes: &[u64]) {
        if self.filter.get().is_some() {
            return;
        }
        let count = self.in_vain.load(Ordering::Relaxed).saturating_add(1);
        self.in_vain.store(count, Ordering::Relaxed);
        if count as usize * PER_VAIN >= hashes.len() {
            self.remember(hashes);
        }
    }

    /// Builds the filter, unless there are too many hashes for a filter in memory.
    pub fn remember(&self, hashes: &[u64]) {
        if hashes.len() <= IN_MEMORY {
            self.filter.get_or_init(|| KeyFilter::in_memory(hashes));
        }
    }

    /// Uses a filter from a derived file from now on, unless there is a filter already.
    pub fn use_filter(&self, filter: KeyFilter) {
        let _ = self.filter.set(filter);
    }

    pub fn filter(&self) -> Option<&KeyFilter> {
        self.filter.get()
    }

    /// The first position whose hash is not less than `hash`, or the number of hashes if there is none. Calls
    /// `near` beforehand with an approximate position, which the caller can prefetch.
    #[inline]
    pub fn lower_bound(&self, hashes: &[u64], hash: u64, near: impl Fn(usize)) -> usize {
        if hashes.len() < FEW {
            return lower_bound(hashes, hash);
        }
        let cells = self
            .cells
            .get_or_init(|| (0..=1 << cell_bits(hashes.len())).map(|_| AtomicU32::new(0)).collect());
        let bits = (cells.len() - 1).ilog2();
        let cell = (hash >> (64 - bits)) as usize;
        let start = begin_of(cells, cell, bits, hashes);
        let end = begin_of(cells, cell + 1, bits, hashes);
        let within = hashes.get(start..end).unwrap_or_default();
        let mut guess = places(hash << bits, within.len());
        near(start + guess);
        if within.len() > CELL * WINDOW {
            // A second guess, as in `lower_bound`: closer, but it waits for memory once more.
            let found = within.get(guess).copied().unwrap_or(hash);
            guess = if found < hash {
                guess.saturating_add(places((hash - found) << bits, within.len()))
            } else {
                guess.saturating_sub(places((found - hash) << bits, within.len()))
            };
            near(start + guess);
        }
        // Comparing the whole window takes less time than a branch that the processor cannot predict.
        let from = guess.saturating_sub(WINDOW / 2).min(within.len().saturating_sub(WINDOW));
        let window = within.get(from..within.len().min(from + WINDOW)).unwrap_or_default();
        let less = window.iter().map(|candidate| usize::from(*candidate < hash)).sum::<usize>();
        let is_first = less == 0 && from > 0;
        let is_last = less == window.len() && from + window.len() < within.len();
        if is_first || is_last { start + lower_bound(within, hash) } else { start + from + less }
    }
}

/// Binary logarithm of the number of cells for a number of hashes.
fn cell_bits(hashes: usize) -> u32 {
    (hashes / CELL).max(2).ilog2().min(MOST_CELLS)
}

/// Position of a cell's first hash, computed on first use and then remembered.
#[inline]
fn begin_of(cells: &[AtomicU32], cell: usize, bits: u32, hashes: &[u64]) -> usize {
    let Some(known) = cells.get(cell).filter(|_| cell + 1 < cells.len()) else { return hashes.len() };
    match known.load(Ordering::Relaxed) {
        0 => {
            let begin = lower_bound(hashes, (cell as u64) << (64 - bits));
            known.store(u32::try_from(begin + 1).unwrap_or(0), Ordering::Relaxed);
            begin
        }
        known => known as usize - 1,
    }
}

/// Converts a distance, as a fraction of 2^64, to a number of positions among `count`.
#[inline]
fn places(distance: u64, count: usize) -> usize {
    ((u128::from(distance) * count as u128) >> 64) as usize
}

/// The first position whose hash is not less than `hash`, or the number of hashes if there is none.
pub(crate) fn lower_bound(hashes: &[u64], hash: u64) -> usize {
    let Some(last) = hashes.len().checked_sub(1) else { return 0 };
    let places = |distance| places(distance, hashes.len());
    let at = |position: usize| hashes.get(position).copied().unwrap_or(u64::MAX);
    let first = places(hash);
    let found = at(first);
    let guess = if found < hash {
        first.saturating_add(places(hash - found)).min(last)
    } else {
        first.saturating_sub(places(found - hash))
    };
    // The steps double until the position lies between two of them.
    let (mut low, mut high, mut step) = (guess, guess, STEP);
    if at(guess) < hash {
        low = guess + 1;
        high = low;
        while high < hashes.len() && at(high) < hash {
            low = high + 1;
            high = high.saturating_add(step);
            step = step.saturating_mul(2);
        }
        high = high.min(hashes.len());
    } else {
        while low > 0 && at(low - 1) >= hash {
            high = low - 1;
            low = low.saturating_sub(step);
            step = step.saturating_mul(2);
        }
    }
    low + hashes.get(low..high).unwrap_or_default().partition_point(|candidate| *candidate < hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agrees(hashes: &[u64], wanted: impl IntoIterator<Item = u64>) {
        let index = Index::default();
        for hash in wanted {
            let expected = hashes.partition_point(|candidate| *candidate < hash);
            assert_eq!(lower_bound(hashes, hash), expected, "{hash:#x} among {}", hashes.len());
            // The second lookup uses the remembered cells.
            for _ in 0..2 {
                let found = index.lower_bound(hashes, hash, |_| ());
                assert_eq!(found, expected, "{hash:#x} among {}, by the index", hashes.len());
            }
        }
    }

    fn near(hashes: &[u64]) -> impl Iterator<Item = u64> + '_ {
        let around = |hash: &u64| [hash.wrapping_sub(1), *hash, hash.wrapping_add(1)];
        hashes.iter().flat_map(around).chain([0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX])
    }

    fn even(count: u64) -> Vec<u64> {
        let mut even: Vec<u64> =
            (0..count).map(|number| crate::format::key_hash(&number.to_le_bytes())).collect();
        even.sort_unstable();
        even
    }

    #[test]
    fn results_equal_those_of_a_binary_search() {
        for count in [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 500, FEW as u64, 4096] {
            let even = even(count);
            agrees(&even, near(&even));
        }
    }

    /// Cells so full that each lookup makes a second guess within its cell.
    #[test]
    fn full_cells_are_searched_too() {
        let cells = 1u64 << MOST_CELLS;
        let full = CELL as u64 * WINDOW as u64 * 2;
        // All hashes lie in the first cells of a long array, which are as full as all cells of a much longer
        // array.
        let hashes: Vec<u64> = even(full * 4).iter().map(|hash| hash / (cells / 4)).collect();
        let mut long = hashes.clone();
        long.resize(CELL << MOST_CELLS, u64::MAX);
        agrees(&long, near(&hashes).chain([0, u64::MAX]));
    }

    #[test]
    fn unevenly_distributed_hashes_are_found_too() {
        let crowded: Vec<u64> = (0..1000).collect();
        let high: Vec<u64> = (0..1000).map(|number| u64::MAX - 1000 + number).collect();
        let same = vec![7; 600];
        let steep: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
        let two: Vec<u64> = [vec![0; 300], vec![u64::MAX; 300]].concat();
        for hashes in [&crowded, &high, &same, &steep, &two] {
            agrees(hashes, near(hashes));
        }
    }

    /// A damaged file may have unsorted hashes. The result is a position within bounds all the same.
    #[test]
    fn unsorted_hashes_still_give_a_position() {
        let mut hashes = even(5000);
        hashes.reverse();
        let index = Index::default();
        for hash in near(&hashes) {
            assert!(index.lower_bound(&hashes, hash, |_| ()) <= hashes.len());
        }
    }

    #[test]
    fn lookups_of_absent_keys_build_a_filter() {
        let hashes = even(20_000);
        let index = Index::default();
        for _ in 1..hashes.len() / PER_VAIN {
            index.was_in_vain(&hashes);
            assert!(index.may_have(7) && index.filter.get().is_none(), "not asked often enough");
        }
        index.was_in_vain(&hashes);
        assert!(index.filter.get().is_some());
        assert!(hashes.iter().all(|hash| index.may_have(*hash)));
    }

    #[test]
    fn large_segments_build_no_filter_in_memory() {
        let hashes = even(IN_MEMORY as u64 + 1);
        let index = Index::default();
        (0..hashes.len()).for_each(|_| index.was_in_vain(&hashes));
        assert!(index.filter.get().is_none());
    }
}
