//! What small segments hold, by the hashes of their keys, for whoever writes.
//!
//! A key of a new batch is usually stored nowhere, and nobody knows before every segment has been asked. Most segments are
//! small and fresh, and asking a hundred of them one by one costs more than the rest of a commit's work; this asks all of
//! them at once.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Weak};

use crate::segment::Segment;
use crate::state::View;

/// Entries up to which a segment counts as small: what one merge makes of many small batches is not, in the end.
const SMALL: usize = 4096;

/// How many segments at the beginning of the view are the ones that are known.
fn count_same(known: &[Known], view: &View) -> usize {
    let pairs = known.iter().zip(&view.segments);
    pairs.take_while(|(known, live)| known.segment.as_ptr() == Arc::as_ptr(&live.segment)).count()
}

fn is_large(segment: &Segment) -> bool {
    segment.entry_count() > SMALL
}

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

/// A segment that was looked at: no other one can be in its place in memory as long as this is there.
#[derive(Debug)]
struct Known {
    segment: Weak<Segment>,
    is_large: bool,
}

/// The hashes of all keys in a view's small segments, and where the others are.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// All segments of the view that was looked at last, in order.
    known: Vec<Known>,
    /// Entries of the small ones.
    entries: usize,
    /// Also some of segments that were merged since: to be told "perhaps" in vain costs a look at the segments, to learn
    /// everything anew after each merge cost a third of all the work on commits.
    hashes: HashSet<u64, Seed>,
    /// Positions in the view of all other segments.
    large: Vec<usize>,
}

impl Recent {
    /// Learns what has changed since the last view it saw.
    pub fn update(&mut self, view: &View) {
        let same = count_same(&self.known, view);
        if same < self.known.len() {
            self.look_again(view, same);
        } else {
            let new = view.segments.iter().enumerate().skip(same);
            new.for_each(|(position, live)| self.learn(position, &live.segment));
        }
        if self.hashes.len() > 2 * self.entries + SMALL {
            self.forget(view);
        }
    }

    /// Learns a segment that has just come to the end of the view, by the hashes of its keys: the file's own are not in memory
    /// yet. Does nothing if it knows another view.
    pub fn add(&mut self, view: &View, segment: &Arc<Segment>, hashes: &[u64]) {
        let before = view.segments.len().saturating_sub(1);
        if self.known.len() == before && count_same(&self.known, view) == before && hashes.len() <= SMALL {
            self.entries += hashes.len();
            self.hashes.extend(hashes);
            self.known.push(Known { segment: Arc::downgrade(segment), is_large: false });
        }
    }

    /// Goes through a view some of whose segments are new, and from where on some are gone. What is left of these comes in
    /// the same order.
    fn look_again(&mut self, view: &View, same: usize) {
        let mut behind = self.known.split_off(same).into_iter();
        self.large.retain(|position| *position < same);
        let kept = view.segments.iter().take(same).filter(|live| !is_large(&live.segment));
        self.entries = kept.map(|live| live.segment.entry_count()).sum();
        for (position, live) in view.segments.iter().enumerate().skip(same) {
            let is_it = |known: &Known| known.segment.as_ptr() == Arc::as_ptr(&live.segment);
            let Some(passed) = behind.as_slice().iter().position(is_it) else {
                self.learn(position, &live.segment);
                continue;
            };
            let Some(known) = behind.nth(passed) else { continue };
            if known.is_large {
                self.large.push(position);
            } else {
                self.entries += live.segment.entry_count();
            }
            self.known.push(known);
        }
    }

    fn learn(&mut self, position: usize, segment: &Arc<Segment>) {
        let is_large = is_large(segment);
        if is_large {
            self.large.push(position);
        } else {
            self.entries += segment.entry_count();
            self.hashes.extend(segment.hashes());
        }
        self.known.push(Known { segment: Arc::downgrade(segment), is_large });
    }

    /// Forgets the hashes of segments that are not there any more.
    fn forget(&mut self, view: &View) {
        self.hashes.clear();
        let small = view.segments.iter().filter(|live| !is_large(&live.segment));
        small.for_each(|live| self.hashes.extend(live.segment.hashes()));
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
    use crate::handle::{Merging, OpenOptions, Store};
    use crate::types::{OnDuplicate, StoreConfig};

    fn append(store: &Store, keys: std::ops::Range<usize>) {
        let mut batch = store.batch();
        keys.for_each(|key| batch.push(format!("key {key}"), &[1.0f32]).unwrap());
        store.append(&mut batch, OnDuplicate::Error).unwrap();
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
        assert!(recent.large().is_empty());
        append(&store, 3010..3020);
        update(&mut recent);
        assert!(may_have(&recent, 0) && may_have(&recent, 3019));
        assert_eq!(recent.known.len(), 3);
        // Still small, then no more.
        store.compact().unwrap();
        append(&store, 3020..3021);
        update(&mut recent);
        assert!(may_have(&recent, 0) && may_have(&recent, 3020));
        assert_eq!(recent.known.len(), 2);
        append(&store, 3021..7000);
        update(&mut recent);
        store.compact().unwrap();
        append(&store, 7000..7001);
        update(&mut recent);
        assert_eq!((recent.large(), recent.known.len()), ([0].as_slice(), 2));
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

    #[test]
    fn merges_at_any_place_lose_no_key_and_leave_little_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = OpenOptions::new()
            .merging(Merging::OnDemand)
            .create(dir.path().join("s"), StoreConfig::new(1))
            .unwrap();
        let (mut recent, mut merges) = (Recent::default(), 0);
        // Merges by themselves at every 128 files; some large segments in between.
        for commit in 0..500 {
            let first = commit * 5_000;
            append(&store, first..first + if commit % 150 == 149 { 4_500 } else { 30 });
            if commit % 3 == 0 {
                continue;
            }
            let view = Arc::clone(&store.inner.view.read());
            merges += usize::from(recent.known.iter().any(|known| known.segment.strong_count() == 0));
            recent.update(&view);
            let small = || view.segments.iter().filter(|live| !is_large(&live.segment));
            for live in small() {
                assert!(
                    live.segment.hashes().iter().all(|hash| recent.may_have(*hash)),
                    "{}",
                    live.segment.path().display()
                );
            }
            let entries: usize = small().map(|live| live.segment.entry_count()).sum();
            assert_eq!((recent.entries, recent.known.len()), (entries, view.segments.len()));
            assert!(recent.hashes.len() <= 2 * entries + SMALL);
            let large: Vec<usize> =
                (0..view.segments.len()).filter(|at| is_large(&view.segments[*at].segment)).collect();
            assert_eq!(recent.large, large);
        }
        assert!(merges > 2, "{merges}");
    }
}
