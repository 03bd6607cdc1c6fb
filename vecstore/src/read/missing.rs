//! Finds the keys that are not stored, among many.

use std::sync::Arc;

use crate::base::Result;
use crate::format::key_hash;
use crate::read::in_parts;
use crate::segment::Segment;
use crate::state::{Asked, View};
use crate::types::Kind;

/// Keys per thread: with fewer, a further thread costs more than it saves.
const KEYS_PER_THREAD: usize = 20_000;

/// Positions of the keys that are not stored, ascending.
pub(crate) fn missing<K: AsRef<[u8]> + Sync>(view: &View, keys: &[K]) -> Result<Vec<usize>> {
    let parts = in_parts(keys, keys.len() / KEYS_PER_THREAD, |first, part| {
        let hashes = part.iter().zip(first..).map(|(key, position)| (key_hash(key.as_ref()), position));
        let mut asked: Vec<Asked> = hashes.collect();
        asked.sort_unstable();
        let key = |position| keys.get(position).map(AsRef::as_ref).unwrap_or_default();
        let (mut missing, mut deleted) = (Vec::new(), Vec::new());
        let found = |position, segment: &Arc<Segment>, entry| {
            if segment.kind(entry)? == Kind::Tombstone {
                deleted.push(position);
            }
            Ok(())
        };
        view.find_all(&asked, key, found, |position| missing.push(position))?;
        missing.append(&mut deleted);
        missing.sort_unstable();
        Ok(missing)
    })?;
    Ok(parts.concat())
}

#[cfg(test)]
mod tests {
    use crate::handle::{MergePolicy, OpenOptions};
    use crate::types::{OnDuplicate, StoreConfig};

    /// Enough keys for several threads: stored, deleted, replaced, asked for twice, never stored.
    #[test]
    fn missing_keys_are_the_keys_that_a_lookup_does_not_find() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
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
