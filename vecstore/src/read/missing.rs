//! Which of many keys are not stored.
//!
//! Keys are asked for in the order of their hashes, which is that of every segment's key index, so that both are read from
//! one end to the other, a stretch of hashes at a time: what is asked stays in the processor's cache while one segment after the
//! other answers. What must be looked up in between, the keys themselves, lies anywhere in memory; so it is looked up for many
//! keys at a time, one kind of look after the other, and the processor waits for many of them at once.

use std::num::NonZeroUsize;

use crate::base::Result;
use crate::base::sync::{spawn_scoped, thread};
use crate::format::key_hash;
use crate::segment::{Segment, ask_for};
use crate::state::{LiveSegment, View};
use crate::types::Kind;

/// Keys below which a further thread costs more than it saves.
const KEYS_PER_THREAD: usize = 20_000;
/// Keys that are looked up together.
const TOGETHER: usize = 256;
/// Keys that all segments are asked for before the next ones.
const STRETCH: usize = 8192;

/// A key by its hash and its position among those that were asked for.
type Asked = (u64, usize);

/// Positions of the keys that are not stored, ascending.
pub(crate) fn missing<K: AsRef<[u8]> + Sync>(view: &View, keys: &[K]) -> Result<Vec<usize>> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = cores.min(keys.len() / KEYS_PER_THREAD).max(1);
    let each = keys.len().div_ceil(threads).max(1);
    let part = |first: usize, keys: &[K]| {
        let hashed = keys.iter().zip(first..).map(|(key, position)| (key_hash(key.as_ref()), position));
        hashed.collect::<Vec<Asked>>()
    };
    let parts: Vec<Result<Vec<usize>>> = if threads == 1 {
        vec![of_part(view, keys, part(0, keys))]
    } else {
        thread::scope(|scope| {
            let threads: Vec<_> = keys
                .chunks(each)
                .enumerate()
                .map(|(number, chunk)| {
                    let run = move || of_part(view, keys, part(number * each, chunk));
                    // Where the system gives no further thread this one does it.
                    spawn_scoped(scope, run).map_err(|_| run)
                })
                .collect();
            let done = threads.into_iter().map(|thread| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(run) => run(),
            });
            done.collect()
        })
    };
    let mut all = Vec::new();
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}

/// The same for some of the keys.
fn of_part<K: AsRef<[u8]>>(view: &View, keys: &[K], asked: Vec<Asked>) -> Result<Vec<usize>> {
    let mut missing = Vec::new();
    for stretch in sorted(asked).chunks(STRETCH) {
        let mut wanted = Wanted::new(stretch.to_vec());
        // From the newest segment to the oldest: the first entry found for a key decides.
        for live in view.segments.iter().rev() {
            if wanted.open == 0 {
                break;
            }
            wanted.ask(live, keys, &mut missing)?;
        }
        let undecided = wanted.keys.iter().zip(&wanted.decided).filter(|(_, decided)| !**decided);
        missing.extend(undecided.map(|((_, position), _)| *position));
    }
    missing.sort_unstable();
    Ok(missing)
}

/// Keys that no segment has decided yet, sorted by hash.
struct Wanted {
    keys: Vec<Asked>,
    decided: Vec<bool>,
    open: usize,
}

/// A key whose hash a segment has.
#[derive(Clone, Copy, Default)]
struct Match {
    /// Where it is among those that are wanted.
    at: usize,
    /// Where the hash is in the segment's index.
    from: usize,
    entry: usize,
}

impl Wanted {
    fn new(keys: Vec<Asked>) -> Self {
        Wanted { decided: vec![false; keys.len()], open: keys.len(), keys }
    }

    /// Decides what this segment knows; positions of keys that it says are deleted go to `missing`.
    fn ask<K: AsRef<[u8]>>(
        &mut self,
        live: &LiveSegment,
        keys: &[K],
        missing: &mut Vec<usize>,
    ) -> Result<()> {
        let segment = &live.segment;
        let hashes = segment.hashes();
        let mut matches: Vec<Match> = Vec::with_capacity(TOGETHER);
        let first = self.keys.first().map_or(0, |(hash, _)| *hash);
        let (mut from, mut at) = (segment.place_of(first), 0);
        // Leapfrog: each side skips ahead to the other's next hash, so that a small segment costs little against many
        // keys and the other way round.
        while let (Some((hash, _)), Some(rest)) = (self.keys.get(at), hashes.get(from..)) {
            from += gallop(rest, |candidate| candidate < hash);
            let Some(found) = hashes.get(from) else { break };
            if found != hash {
                at += gallop(self.keys.get(at..).unwrap_or_default(), |(wanted, _)| wanted < found);
                continue;
            }
            if self.decided.get(at).is_some_and(|decided| !decided) {
                matches.push(Match { at, from, entry: 0 });
                if matches.len() == TOGETHER {
                    self.decide(segment, keys, &mut matches, missing)?;
                }
            }
            at += 1;
        }
        self.decide(segment, keys, &mut matches, missing)?;
        // Forgetting the decided ones only now and then keeps the sum of all this linear in the number of keys.
        if self.open < self.keys.len() / 2 {
            let mut decided = std::mem::replace(&mut self.decided, vec![false; self.open]).into_iter();
            self.keys.retain(|_| !decided.next().unwrap_or(false));
        }
        Ok(())
    }

    /// Compares keys whose hashes are equal. Steps that wait for memory do so for all of them together.
    fn decide<K: AsRef<[u8]>>(
        &mut self,
        segment: &Segment,
        keys: &[K],
        matches: &mut Vec<Match>,
        missing: &mut Vec<usize>,
    ) -> Result<()> {
        let hashes = segment.hashes();
        for one in matches.iter_mut() {
            one.entry = segment.hash_entry(one.from).unwrap_or(usize::MAX);
        }
        let mut spans = [None; TOGETHER];
        for (span, one) in spans.iter_mut().zip(matches.iter()) {
            *span = segment.key_span(one.entry).map(|span| (span.start, span.end));
        }
        let mut wanted: [&[u8]; TOGETHER] = [&[]; TOGETHER];
        for (wanted, one) in wanted.iter_mut().zip(matches.iter()) {
            let position = self.keys.get(one.at).map_or(usize::MAX, |(_, position)| *position);
            *wanted = keys.get(position).map(AsRef::as_ref).unwrap_or_default();
        }
        let bytes = segment.all_keys();
        for (span, wanted) in spans.iter().zip(&wanted).take(matches.len()) {
            ask_for(span.and_then(|(start, end)| bytes.get(start..end)).unwrap_or_default());
            ask_for(wanted);
        }
        for ((one, span), key) in matches.drain(..).zip(spans).zip(wanted) {
            let Some((hash, position)) = self.keys.get(one.at).copied() else { continue };
            // More than one entry with this hash, or another key: the newest that has the key, if any.
            let alone = hashes.get(one.from + 1) != Some(&hash);
            let stored = span.and_then(|(start, end)| bytes.get(start..end));
            let entry = if alone && stored == Some(key) {
                Some(one.entry)
            } else {
                segment.newest_at(one.from, hash, key)?
            };
            let Some(entry) = entry else { continue };
            if let Some(decided) = self.decided.get_mut(one.at) {
                *decided = true;
            }
            self.open -= 1;
            if segment.kind(entry)? == Kind::Tombstone {
                missing.push(position);
            }
        }
        Ok(())
    }
}

/// Sorts by hash: first into buckets by the leading bits, then each bucket, which fits the processor's cache.
fn sorted(keys: Vec<Asked>) -> Vec<Asked> {
    const BITS: u32 = 8;
    if keys.len() < 1 << 12 {
        let mut keys = keys;
        keys.sort_unstable();
        return keys;
    }
    let bucket = |hash: u64| usize::try_from(hash >> (64 - BITS)).unwrap_or(0);
    let mut ends = [0usize; 1 << BITS];
    for (hash, _) in &keys {
        ends.get_mut(bucket(*hash)).into_iter().for_each(|count| *count += 1);
    }
    let mut first = 0;
    for end in &mut ends {
        let count = *end;
        *end = first;
        first += count;
    }
    let mut out = vec![(0, 0); keys.len()];
    for key in keys {
        if let Some(end) = ends.get_mut(bucket(key.0)) {
            if let Some(place) = out.get_mut(*end) {
                *place = key;
            }
            *end += 1;
        }
    }
    let mut start = 0;
    for end in ends {
        out.get_mut(start..end).unwrap_or_default().sort_unstable();
        start = end;
    }
    out
}

/// Number of leading elements that satisfy `before`, found by doubling steps and then bisection.
fn gallop<T>(sorted: &[T], before: impl Fn(&T) -> bool) -> usize {
    let mut bound = 1;
    while sorted.get(bound - 1).is_some_and(&before) {
        bound *= 2;
    }
    let low = bound / 2;
    let high = bound.min(sorted.len());
    low + sorted.get(low..high).unwrap_or_default().partition_point(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::{Merging, OpenOptions};
    use crate::types::{OnDuplicate, StoreConfig};

    #[test]
    fn gallop_is_partition_point() {
        let sorted: Vec<u32> = (0..100).map(|x| x / 3 * 2).collect();
        for limit in 0..80 {
            assert_eq!(gallop(&sorted, |x| *x < limit), sorted.partition_point(|x| *x < limit));
        }
        assert_eq!(gallop::<u32>(&[], |_| true), 0);
    }

    #[test]
    fn buckets_sort() {
        for (count, spread) in [(0, 1), (100, 1), (5000, 1), (20_000, 1), (20_000, u64::MAX / 3)] {
            let keys: Vec<Asked> = (0..count)
                .map(|number: usize| (key_hash(&number.to_le_bytes()) % spread.max(1000), number))
                .collect();
            let mut expected = keys.clone();
            expected.sort_unstable();
            assert_eq!(sorted(keys), expected);
        }
    }

    /// Enough keys for several threads and many groups; stored, deleted, replaced, asked for twice, never stored.
    #[test]
    fn what_is_missing_is_what_a_lookup_does_not_find() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions::new().merging(Merging::OnDemand);
        let store = options.create(dir.path().join("s"), StoreConfig::new(1)).unwrap();
        let name = |number: usize| format!("key {number}");
        for part in 0..4 {
            let mut batch = store.batch();
            (part * 10_000..(part + 1) * 10_000).for_each(|n| batch.push(name(n * 2), &[1.0f32]).unwrap());
            store.append(&mut batch, OnDuplicate::Error).unwrap();
        }
        let deleted: Vec<String> = (0..8_000).map(|number| name(number * 7)).collect();
        store.delete(&deleted).unwrap();
        let mut again = store.batch();
        (0..500).for_each(|number| again.push(name(number * 14), &[2.0f32]).unwrap());
        store.append(&mut again, OnDuplicate::Replace).unwrap();
        let snapshot = store.snapshot();
        let mut keys: Vec<String> = (0..90_000).map(name).collect();
        keys.extend((0..1000).map(name));
        let expected: Vec<usize> =
            (0..keys.len()).filter(|position| !snapshot.contains(&keys[*position]).unwrap()).collect();
        assert!(expected.len() > 40_000 && expected.len() < 60_000, "{}", expected.len());
        assert_eq!(snapshot.missing(&keys).unwrap(), expected);
        for threads in 0..2 {
            let found = crate::base::sync::threads::given(threads, || snapshot.missing(&keys)).unwrap();
            assert_eq!(found, expected, "from a machine that gives {threads} threads");
        }
        store.compact_full().unwrap();
        assert_eq!(store.snapshot().missing(&keys).unwrap(), expected);
        assert_eq!(store.snapshot().missing::<String>(&[]).unwrap(), [0usize; 0]);
    }
}
