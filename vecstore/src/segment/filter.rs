//! Key filters: each key of a segment sets a few bits. If one of a key's bits is not set, the segment does
//! not have that key.
//!
//! A segment of few keys builds its filter in memory, when it is written or after many lookups of absent
//! keys. The filter of a large segment is a derived file. Both have the same layout of words.

use super::derived::DerivedFile;
use crate::base::{Error, Result};
use crate::format::derived::Header;

/// Most keys for which a filter is built in memory: it takes 96 KiB.
pub(crate) const IN_MEMORY: usize = 1 << 16;
/// Bits per key of a filter in memory, and how many of them a key sets: one absent key in a hundred passes.
const IN_MEMORY_BITS: (usize, u32) = (12, 4);
/// Bits per key of a filter in a file, and how many of them a key sets: three absent keys in a thousand pass.
const IN_FILE_BITS: (usize, u32) = (16, 5);
/// Most bits that a key sets: each takes six bits of half a hash.
const MOST_SET: u64 = 5;

/// A filter over the hashes of keys. All bits of one key lie in one word.
#[derive(Debug)]
pub(crate) struct KeyFilter {
    words: Words,
    count: u64,
    set: u32,
}

#[derive(Debug)]
enum Words {
    Owned(Box<[u64]>),
    /// Boxed, so that the fields that a lookup in owned words needs lie close together.
    Mapped(Box<DerivedFile>),
}

impl KeyFilter {
    /// Builds a filter in memory.
    pub fn in_memory(hashes: &[u64]) -> Self {
        let words = words_of(hashes.iter().copied(), hashes.len(), IN_MEMORY_BITS);
        KeyFilter { count: words.len() as u64, set: IN_MEMORY_BITS.1, words: Words::Owned(words.into()) }
    }

    /// The header's facts and the words of a filter that goes to a file.
    pub fn for_file(hashes: impl Iterator<Item = u64>, count: usize) -> ([u64; 8], Vec<u64>) {
        let words = words_of(hashes, count, IN_FILE_BITS);
        let facts = [count as u64, words.len() as u64, u64::from(IN_FILE_BITS.1), 0, 0, 0, 0, 0];
        (facts, words)
    }

    /// Opens the filter of a derived file, after checking its facts against the segment's number of entries.
    pub fn of_file(file: DerivedFile, entries: u64) -> Result<Self> {
        let Header { facts: [keys, count, set, rest @ ..], kind_version, body_len, .. } = *file.header();
        let is_possible = (1..=MOST_SET).contains(&set)
            && (1..=u64::from(u32::MAX)).contains(&count)
            && (keys, Some(body_len), rest) == (entries, count.checked_mul(8), [0; 5])
            && kind_version == 1;
        if !is_possible {
            let detail =
                format!("a filter of {keys} keys with {count} words and {set} bits for each is not possible");
            return Err(Error::damaged(file.path(), "header", detail));
        }
        Ok(KeyFilter { words: Words::Mapped(Box::new(file)), count, set: u32::try_from(set).unwrap_or(0) })
    }

    /// False only if no key has this hash. True if the hash's word lies in a damaged block of the file.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        let at = word_of(self.count, hash);
        let word = match &self.words {
            Words::Owned(words) => words.get(at).copied(),
            Words::Mapped(file) => {
                file.get(at * 8).and_then(|bytes| bytes.first_chunk()).map(|b| u64::from_le_bytes(*b))
            }
        };
        let bits = bits_of(hash, self.set);
        word.is_none_or(|word| word & bits == bits)
    }

    /// The derived file that holds the filter; `None` for a filter in memory.
    pub fn file(&self) -> Option<&DerivedFile> {
        match &self.words {
            Words::Owned(_) => None,
            Words::Mapped(file) => Some(file),
        }
    }
}

fn words_of(hashes: impl Iterator<Item = u64>, count: usize, (bits, set): (usize, u32)) -> Vec<u64> {
    let mut words = vec![0; (count * bits).div_ceil(64).max(1)];
    let count = words.len() as u64;
    for hash in hashes {
        if let Some(word) = words.get_mut(word_of(count, hash)) {
            *word |= bits_of(hash, set);
        }
    }
    words
}

/// Index of a hash's word, from the upper half of the hash: ascending hashes have ascending words.
#[inline]
fn word_of(words: u64, hash: u64) -> usize {
    ((hash >> 32).wrapping_mul(words) >> 32) as usize
}

/// The bits that a hash sets in its word, from the lower half of the hash.
#[inline]
fn bits_of(hash: u64, set: u32) -> u64 {
    let first = |set: u32| (0..set).fold(0, |bits, number| bits | 1 << (hash >> (6 * number) & 63));
    // A constant number of bits lets the compiler unroll the loop.
    match set {
        4 => first(4),
        5 => first(5),
        _ => first(set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_passes_its_keys_and_few_others() {
        let all: Vec<u64> =
            (0..40_000u64).map(|number| crate::format::key_hash(&number.to_le_bytes())).collect();
        let (there, others): (Vec<u64>, Vec<u64>) = all.iter().partition(|hash| **hash % 2 == 0);
        let (facts, words) = KeyFilter::for_file(there.iter().copied(), there.len());
        assert_eq!(facts, [there.len() as u64, words.len() as u64, 5, 0, 0, 0, 0, 0]);
        let in_file = KeyFilter { count: words.len() as u64, set: 5, words: Words::Owned(words.into()) };
        for (filter, one_in) in [(KeyFilter::in_memory(&there), 60), (in_file, 200)] {
            assert!(there.iter().all(|hash| filter.may_have(*hash)));
            let passed = others.iter().filter(|hash| filter.may_have(**hash)).count();
            assert!(passed > 0 && passed * one_in < others.len(), "{passed} of {}", others.len());
        }
    }

    #[test]
    fn an_empty_filter_passes_nothing() {
        assert!(!KeyFilter::in_memory(&[]).may_have(7));
    }
}
