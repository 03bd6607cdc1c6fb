//! Segments that a merge has found damaged. The manifest remembers them: merges go around them, and `vecstore
//! info` tells of them.

use std::collections::BTreeSet;

use crate::base::Result;
use crate::segment::SegmentName;
use crate::state::{Body, decode_record, encode_record};

/// In `extra` of a manifest: listed segments that are damaged.
const RECORD: &str = "vecstore.damaged";

/// The damaged segments that a manifest knows of. A repair may have replaced those that it does not list any
/// more.
pub(crate) fn of(body: &Body) -> BTreeSet<SegmentName> {
    let known = body.extra.get(RECORD).and_then(|bytes| decode_record(bytes));
    let mut known: BTreeSet<SegmentName> = known.unwrap_or_default();
    known.retain(|name| body.record_of(*name).is_some());
    known
}

/// Forgets them: where files are other ones, or were all found sound.
pub(crate) fn forget(body: &mut Body) {
    body.extra.remove(RECORD);
}

/// Records them.
pub(crate) fn set(body: &mut Body, damaged: &BTreeSet<SegmentName>) -> Result<()> {
    body.extra.insert(RECORD.to_owned(), encode_record(damaged)?);
    Ok(())
}
