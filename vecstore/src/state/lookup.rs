//! Looks up many keys together.

use std::sync::Arc;

use super::View;
use crate::base::Result;
use crate::segment::{Segment, ask_for};

/// A key that is looked up: its hash, and its number among all keys of the lookup.
pub(crate) type Asked = (u64, usize);

/// Keys that are looked up in one segment before the next: the parts of the segment that a lookup reads stay
/// in the processor's cache.
const STRETCH: usize = 8192;
/// Keys whose memory is prefetched at the same time.
const TOGETHER: usize = 16;

impl View {
    /// Calls `found` with the newest entry of each key that is stored, tombstones included, and `none` for
    /// the other keys, in no order. `asked` is sorted by hash, so that neighbours are near each other in each
    /// filter and index. `key` gives the key of a number.
    pub fn find_all<'k>(
        &self,
        asked: &[Asked],
        key: impl Fn(usize) -> &'k [u8],
        mut found: impl FnMut(usize, &Arc<Segment>, usize) -> Result<()>,
        mut none: impl FnMut(usize),
    ) -> Result<()> {
        let (mut left, mut passed) = (Vec::new(), Vec::new());
        for stretch in asked.chunks(STRETCH) {
            left.clear();
            left.extend_from_slice(stretch);
            for live in self.segments.iter().rev() {
                live.segment.check_tables()?;
                pass(&live.segment, &mut left, &mut passed);
                for group in passed.chunks(TOGETHER) {
                    find_group(&live.segment, group, &key, |asked, entry| match entry {
                        Some(entry) => found(asked.1, &live.segment, entry),
                        None => {
                            left.push(asked);
                            Ok(())
                        }
                    })?;
                }
            }
            left.iter().for_each(|(_, number)| none(*number));
        }
        Ok(())
    }
}

/// Moves the keys that a segment may have from `left` to `passed`. The filters are asked for all keys first:
/// these accesses to memory do not wait for one another.
fn pass(segment: &Segment, left: &mut Vec<Asked>, passed: &mut Vec<Asked>) {
    passed.clear();
    left.retain(|asked| {
        let may_be = segment.may_have(asked.0);
        if may_be {
            passed.push(*asked);
        }
        !may_be
    });
}

/// Looks up a few keys. Each step prefetches the memory that the next step reads, for all keys, so that the
/// waits overlap.
fn find_group<'k>(
    segment: &Segment,
    group: &[Asked],
    key: impl Fn(usize) -> &'k [u8],
    mut found: impl FnMut(Asked, Option<usize>) -> Result<()>,
) -> Result<()> {
    let mut places = [None; TOGETHER];
    for ((hash, _), place) in group.iter().zip(&mut places) {
        *place = segment.place_of(*hash);
    }
    for ((_, number), place) in group.iter().zip(places) {
        if place.and_then(|place| segment.ask_for_key(place)).is_some() {
            ask_for(key(*number));
        }
    }
    for (asked, place) in group.iter().zip(places) {
        let entry = place.map_or(Ok(None), |place| segment.newest_at(place, asked.0, key(asked.1)));
        found(*asked, entry?)?;
    }
    Ok(())
}
