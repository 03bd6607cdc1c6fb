//! Whether a segment may have a key: a few bits for each, of which all are set if it has.
//!
//! A segment of few keys makes its filter in memory, when it is written or asked in vain often; that of a large one is a
//! derived file. Both are the same words.

use super::derived::DerivedFile;
use crate::base::{Error, Result};
use crate::format::derived::Header;

/// Keys up to which a segment makes its filter in memory: 96 KiB.
pub(crate) const IN_MEMORY: usize = 1 << 16;
/// Bits for each key in memory, and how many of them are set: one key in a hundred that is not there passes.
const IN_MEMORY_BITS: (usize, u32) = (12, 4);
/// The same in a file: three keys in a thousand.
const IN_FILE_BITS: (usize, u32) = (16, 5);
/// The most bits that can be set for a key: each takes six bits of half a hash.
const MOST_SET: u64 = 5;

/// A filter of keys.
#[derive(Debug)]
pub(crate) struct KeyFilter {
    words: Words,
    count: u64,
    set: u32,
}

#[derive(Debug)]
enum Words {
    Owned(Box<[u64]>),
    /// Boxed, so that all that a look in memory needs lies together.
    Mapped(Box<DerivedFile>),
}

impl KeyFilter {
    /// A filter in memory.
    pub fn in_memory(hashes: &[u64]) -> Self {
        let words = words_of(hashes.iter().copied(), hashes.len(), IN_MEMORY_BITS);
        KeyFilter { count: words.len() as u64, set: IN_MEMORY_BITS.1, words: Words::Owned(words.into()) }
    }

    /// The facts and the words of a filter for a file.
    pub fn for_file(hashes: impl Iterator<Item = u64>, count: usize) -> ([u64; 8], Vec<u64>) {
        let words = words_of(hashes, count, IN_FILE_BITS);
        let facts = [count as u64, words.len() as u64, u64::from(IN_FILE_BITS.1), 0, 0, 0, 0, 0];
        (facts, words)
    }

    /// The filter that a file holds.
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

    /// False when no key with this hash is there. Where the file is damaged, any may be.
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

    /// The derived file, where it is one.
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

/// The word that a hash belongs to, from its upper half: those of ascending hashes ascend.
#[inline]
fn word_of(words: u64, hash: u64) -> usize {
    ((hash >> 32).wrapping_mul(words) >> 32) as usize
}

/// Its bits there, from its lower half.
#[inline]
fn bits_of(hash: u64, set: u32) -> u64 {
    let first = |set: u32| (0..set).fold(0, |bits, number| bits | 1 << (hash >> (6 * number) & 63));
    // Numbers that the compiler knows take no loop.
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
    fn a_filter_passes_what_is_there_and_little_else() {
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
    fn of_no_keys() {
        assert!(!KeyFilter::in_memory(&[]).may_have(7));
    }
}
