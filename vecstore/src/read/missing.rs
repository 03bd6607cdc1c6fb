//! Which of many keys are not stored.

use crate::base::Result;
use crate::format::key_hash;
use crate::read::in_parts;
use crate::state::View;
use crate::types::Kind;

/// Keys below which a further thread costs more than it saves.
const KEYS_PER_THREAD: usize = 20_000;

/// Keys that are looked for together.
const STRETCH: usize = 8192;

/// Positions of the keys that are not stored, ascending.
pub(crate) fn missing<K: AsRef<[u8]> + Sync>(view: &View, keys: &[K]) -> Result<Vec<usize>> {
    let parts = in_parts(keys, keys.len() / KEYS_PER_THREAD, |first, part| {
        let mut missing = Vec::new();
        // One segment after the other is asked for a stretch of keys: what it takes to look there stays in the processor's
        // cache. Its index is sorted by hash, and so is what is asked for.
        for (number, stretch) in part.chunks(STRETCH).enumerate() {
            let keys = stretch.iter().zip(first + number * STRETCH..);
            let hashed = keys.map(|(key, position)| (key_hash(key.as_ref()), position, key.as_ref()));
            let mut left: Vec<(u64, usize, &[u8])> = hashed.collect();
            left.sort_unstable_by_key(|(hash, ..)| *hash);
            for live in view.segments.iter().rev() {
                let mut still = Vec::with_capacity(left.len());
                for asked in left {
                    match live.segment.find(asked.0, asked.2)? {
                        None => still.push(asked),
                        Some(entry) if live.segment.kind(entry)? == Kind::Tombstone => missing.push(asked.1),
                        Some(_) => {}
                    }
                }
                left = still;
            }
            missing.extend(left.iter().map(|(_, position, _)| *position));
        }
        missing.sort_unstable();
        Ok(missing)
    })?;
    Ok(parts.concat())
}

#[cfg(test)]
mod tests {
    use crate::handle::{Merging, OpenOptions};
    use crate::types::{OnDuplicate, StoreConfig};

    /// Enough keys for several threads; stored, deleted, replaced, asked for twice, never stored.
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
