//! Which of many keys are not stored.

use crate::base::Result;
use crate::format::key_hash;
use crate::read::in_parts;
use crate::segment::{Segment, ask_for, ask_for_value};
use crate::state::View;
use crate::types::Kind;

/// Keys below which a further thread costs more than it saves.
const KEYS_PER_THREAD: usize = 20_000;

/// Keys that are looked for together: what it takes to look for them in one segment stays in the processor's cache.
const STRETCH: usize = 8192;
/// Keys that wait for memory at the same time.
const TOGETHER: usize = 16;

/// A key that is looked for: its hash, and its position among those asked for.
type Asked = (u64, usize);

/// Positions of the keys that are not stored, ascending.
pub(crate) fn missing<K: AsRef<[u8]> + Sync>(view: &View, keys: &[K]) -> Result<Vec<usize>> {
    let parts = in_parts(keys, keys.len() / KEYS_PER_THREAD, |first, part| {
        let hashes = part.iter().zip(first..).map(|(key, position)| (key_hash(key.as_ref()), position));
        let mut all: Vec<Asked> = hashes.collect();
        // What is asked for is near each other in every segment then: filters and indexes are in the order of hashes.
        all.sort_unstable();
        let (mut missing, mut left, mut passed) = (Vec::new(), Vec::new(), Vec::new());
        for stretch in all.chunks(STRETCH) {
            left.clear();
            left.extend_from_slice(stretch);
            for live in view.segments.iter().rev() {
                look_in(&live.segment, keys, (&mut left, &mut passed), &mut missing)?;
            }
            missing.extend(left.iter().map(|(_, position)| *position));
        }
        missing.sort_unstable();
        Ok(missing)
    })?;
    Ok(parts.concat())
}

/// Looks for keys in one segment, and leaves those that it does not have. `passed` is scratch memory.
fn look_in<K: AsRef<[u8]>>(
    segment: &Segment,
    keys: &[K],
    (left, passed): (&mut Vec<Asked>, &mut Vec<Asked>),
    missing: &mut Vec<usize>,
) -> Result<()> {
    passed.clear();
    // First all filters, then all indexes: none of these waits for the one before.
    left.retain(|asked| {
        let may_be = segment.may_have(asked.0);
        if may_be {
            passed.push(*asked);
        }
        !may_be
    });
    for group in passed.chunks(TOGETHER) {
        let mut places = [None; TOGETHER];
        // Each step asks for the memory that the next one needs, for all of the group: none of them waits alone.
        for ((hash, position), place) in group.iter().zip(&mut places) {
            keys.get(*position).map(ask_for_value);
            *place = segment.place_of(*hash);
        }
        let key = |position: &usize| keys.get(*position).map(AsRef::as_ref).unwrap_or_default();
        for ((_, position), place) in group.iter().zip(places) {
            if place.and_then(|place| segment.ask_for_key(place)).is_some() {
                ask_for(key(position));
            }
        }
        for ((hash, position), place) in group.iter().zip(places) {
            let found = place.map_or(Ok(None), |place| segment.newest_at(place, *hash, key(position)))?;
            match found {
                None => left.push((*hash, *position)),
                Some(entry) if segment.kind(entry)? == Kind::Tombstone => missing.push(*position),
                Some(_) => {}
            }
        }
    }
    Ok(())
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
