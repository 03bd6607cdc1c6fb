//! The place of a hash in a segment's sorted hashes.
//!
//! Hashes of keys are spread evenly, so that the value says about where it stands: among n of them the guess is off by
//! about the square root of n, and a second one, from what stands there, by the square root of that. A binary search among a
//! million waits for memory some twenty times, this for three. Hashes that are not spread evenly (keys can be chosen for
//! that) cost what a binary search costs, twice over.

/// How far the first step goes from a guess that is off.
const STEP: usize = 8;

/// The first position whose hash is not less than `hash`; the number of hashes when there is none.
pub(crate) fn lower_bound(hashes: &[u64], hash: u64) -> usize {
    let Some(last) = hashes.len().checked_sub(1) else { return 0 };
    // `distance` of 2^64 in positions.
    let places = |distance: u64| ((u128::from(distance) * hashes.len() as u128) >> 64) as usize;
    let at = |position: usize| hashes.get(position).copied().unwrap_or(u64::MAX);
    let first = places(hash);
    let found = at(first);
    let guess = if found < hash {
        first.saturating_add(places(hash - found)).min(last)
    } else {
        first.saturating_sub(places(found - hash))
    };
    // Steps that grow until the place lies between two of them.
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
        for hash in wanted {
            let expected = hashes.partition_point(|candidate| *candidate < hash);
            assert_eq!(lower_bound(hashes, hash), expected, "{hash:#x} among {}", hashes.len());
        }
    }

    fn near(hashes: &[u64]) -> impl Iterator<Item = u64> + '_ {
        let around = |hash: &u64| [hash.wrapping_sub(1), *hash, hash.wrapping_add(1)];
        hashes.iter().flat_map(around).chain([0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX])
    }

    #[test]
    fn finds_what_a_binary_search_finds() {
        for count in [0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 500, 4096] {
            let mut even: Vec<u64> =
                (0..count as u64).map(|number| crate::format::key_hash(&number.to_le_bytes())).collect();
            even.sort_unstable();
            agrees(&even, near(&even));
        }
    }

    #[test]
    fn hashes_that_are_not_spread_evenly_are_found_too() {
        let crowded: Vec<u64> = (0..1000).collect();
        let high: Vec<u64> = (0..1000).map(|number| u64::MAX - 1000 + number).collect();
        let same = vec![7; 300];
        let steep: Vec<u64> = (0..64).map(|bit| 1 << bit).collect();
        let two: Vec<u64> = [vec![0; 100], vec![u64::MAX; 100]].concat();
        for hashes in [&crowded, &high, &same, &steep, &two] {
            agrees(hashes, near(hashes));
        }
    }
}
