//! Where keys are, many of them looked up together.

use std::sync::Arc;

use super::View;
use crate::base::Result;
use crate::segment::{Segment, ask_for};

/// A key that is looked for: its hash, and its number among those that are.
pub(crate) type Asked = (u64, usize);

/// Keys that are looked for in one segment, then in the next: what it takes to look there stays in the processor's cache.
const STRETCH: usize = 8192;
/// Keys that wait for memory at the same time.
const TOGETHER: usize = 16;

impl View {
    /// Tells `found` of each key that any entry has where its newest one is, tombstones included, and `none` of the others, in
    /// no order. `asked` is in the order of hashes, so that neighbours are near each other in each filter and each index; `key`
    /// gives the key of a number.
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

/// Moves the keys that a segment may have. All filters come first: none of these looks waits for one before.
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

/// Looks for a few keys. Each step asks for the memory that the next one needs, for all of them: none waits alone.
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
