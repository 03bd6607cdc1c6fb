//! Segments that a merge has found damaged. The manifest remembers them, so that merges go around them, and `vecstore info` says
//! so.

use std::collections::BTreeSet;

use crate::base::Result;
use crate::segment::SegmentName;
use crate::state::{Body, decode_record, encode_record};

/// In `extra` of a manifest: listed segments that are damaged.
const RECORD: &str = "vecstore.damaged";

/// The damaged segments that a manifest knows of. What it does not list any more has been repaired, say.
pub(crate) fn of(body: &Body) -> BTreeSet<SegmentName> {
    let known: Option<Vec<(u64, u64, u32)>> = body.extra.get(RECORD).and_then(|bytes| decode_record(bytes));
    let known = known.unwrap_or_default().into_iter();
    let known: BTreeSet<SegmentName> =
        known.map(|(first, last, generation)| SegmentName { first, last, generation }).collect();
    let listed = body.segments.iter().map(|record| record.name());
    listed.filter(|name| known.contains(name)).collect()
}

/// Records them.
pub(crate) fn set(body: &mut Body, damaged: &BTreeSet<SegmentName>) -> Result<()> {
    if damaged.is_empty() {
        body.extra.remove(RECORD);
        return Ok(());
    }
    let damaged: Vec<(u64, u64, u32)> =
        damaged.iter().map(|name| (name.first, name.last, name.generation)).collect();
    body.extra.insert(RECORD.to_owned(), encode_record(&damaged)?);
    Ok(())
}
