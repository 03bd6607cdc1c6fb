//! What small segments hold, by the hashes of their keys, for whoever writes.
//!
//! A key of a new batch is usually stored nowhere, and nobody knows before every segment has been asked. Most segments are
//! small and fresh, and asking a hundred of them one by one costs more than the rest of a commit's work; this asks all of
//! them at once.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::format::Id;
use crate::view::View;

/// Entries up to which a segment counts as small: what one merge makes of many small batches is not, in the end.
const SMALL: usize = 4096;

/// Whoever chooses keys knows their hashes, and could choose those that a set would put into the same place. So each set
/// mixes them with numbers of its own; that takes two multiplications. (After one, hashes at even distances may still get into
/// each other's way, for some of the numbers.)
#[derive(Debug)]
struct Seed(u64, u64);

impl Default for Seed {
    fn default() -> Self {
        let random = RandomState::new();
        Seed(random.hash_one(1), random.hash_one(2) | 1)
    }
}

impl BuildHasher for Seed {
    type Hasher = Mixed;

    fn build_hasher(&self) -> Mixed {
        Mixed { hash: self.0, factor: self.1 }
    }
}

/// Hashes are hashes already, but for the seed.
struct Mixed {
    hash: u64,
    factor: u64,
}

/// Both halves of a product.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        folded(folded(self.hash, self.factor), self.factor)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.hash = self.hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.hash ^= hash;
    }
}

/// The hashes of all keys in a view's small segments, and where the others are.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// The nonces of the small segments whose hashes are there, in order.
    small: Vec<Id>,
    hashes: HashSet<u64, Seed>,
    /// Positions in the view of all other segments.
    large: Vec<usize>,
}

impl Recent {
    /// Learns what has changed since the last view it saw. Segments that were merged are forgotten by learning all anew.
    pub fn update(&mut self, view: &View) {
        self.large.clear();
        let mut known = 0;
        for (position, live) in view.segments.iter().enumerate() {
            let segment = &live.segment;
            if segment.entry_count() > SMALL {
                self.large.push(position);
                continue;
            }
            let nonce = segment.footer().nonce;
            if self.small.get(known) != Some(&nonce) {
                self.forget_from(known, view);
                self.small.push(nonce);
                self.hashes.extend(segment.hashes());
            }
            known += 1;
        }
        self.forget_from(known, view);
    }

    /// Forgets all small segments but the first ones.
    fn forget_from(&mut self, count: usize, view: &View) {
        if self.small.len() <= count {
            return;
        }
        self.small.truncate(count);
        self.hashes.clear();
        let small = view.segments.iter().filter(|live| live.segment.entry_count() <= SMALL);
        small.take(count).for_each(|live| self.hashes.extend(live.segment.hashes()));
    }

    /// False when no small segment has a key with this hash.
    pub fn may_have(&self, hash: u64) -> bool {
        self.hashes.contains(&hash)
    }

    /// Positions of the segments that are not small, ascending.
    pub fn large(&self) -> &[usize] {
        &self.large
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key_hash;
    use crate::{Merging, OnDuplicate, OpenOptions, Store, StoreConfig};

    fn append(store: &Store, keys: std::ops::Range<usize>) {
        let mut batch = store.batch();
        keys.for_each(|key| batch.push(format!("key {key}"), &[1.0f32]).unwrap());
        store.append(batch, OnDuplicate::Error).unwrap();
    }

    fn may_have(recent: &Recent, key: usize) -> bool {
        recent.may_have(key_hash(format!("key {key}").as_bytes()))
    }

    #[test]
    fn what_is_appended_is_learned_and_what_is_merged_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = OpenOptions::new()
            .merging(Merging::OnDemand)
            .create(dir.path().join("s"), StoreConfig::new(1))
            .unwrap();
        let mut recent = Recent::default();
        let update = |recent: &mut Recent| recent.update(&store.inner.view.read());
        append(&store, 0..3000);
        append(&store, 3000..3010);
        update(&mut recent);
        assert!(may_have(&recent, 0) && may_have(&recent, 3009) && !may_have(&recent, 3010));
        assert_eq!(recent.large(), []);
        append(&store, 3010..3020);
        update(&mut recent);
        assert!(may_have(&recent, 0) && may_have(&recent, 3019));
        assert_eq!(recent.small.len(), 3);
        // Still small, then no more.
        store.compact().unwrap();
        append(&store, 3020..3021);
        update(&mut recent);
        assert!(may_have(&recent, 0) && may_have(&recent, 3020));
        assert_eq!(recent.small.len(), 2);
        append(&store, 3021..7000);
        store.compact().unwrap();
        append(&store, 7000..7001);
        update(&mut recent);
        assert_eq!((recent.large(), recent.small.len()), ([0].as_slice(), 1));
        assert!(may_have(&recent, 7000) && !may_have(&recent, 0));
    }

    /// Hashes that agree in the bits by which a set finds places, however those are chosen.
    #[test]
    fn nobody_can_choose_keys_that_get_into_each_others_way() {
        let (one, other) = (Seed::default(), Seed::default());
        for shift in [0, 16, 32, 48] {
            let places = |seed: &Seed| {
                let place = |number: u64| seed.hash_one(number << shift) % (1 << 20);
                (0..4096).map(place).collect::<HashSet<u64>>()
            };
            assert!(places(&one).len() > 4000, "{}", places(&one).len());
            assert_ne!(places(&one), places(&other));
        }
    }
}
