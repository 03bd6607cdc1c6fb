//! What of the inputs goes into the output.

use crate::base::{Error, Result};
use crate::format::footer::Footer;
use crate::format::{COMPAT_LOST, Id};
use crate::segment::{Joined, SegmentName};
use crate::state::LiveSegment;
use crate::types::Kind;

/// What stays of neighbouring segments. The inputs' liveness must come from listed segments alone, so that an entry is only left
/// out for a newer one that can no longer be lost. A tombstone only goes when nothing older than the output exists.
pub(super) fn joined(inputs: &[LiveSegment], first_commit: u64) -> Result<Joined<'_>> {
    let segments = inputs.iter().map(|live| &*live.segment);
    Joined::new(segments, first_commit, |position, entry| {
        let Some(live) = inputs.get(position) else { return Ok(false) };
        Ok(live.is_live(entry) && !(first_commit == 1 && live.segment.kind(entry)? == Kind::Tombstone))
    })
}

/// What the output's footer says that does not follow from its entries.
pub(super) fn identity(inputs: &[LiveSegment], name: SegmentName, nonce: Id) -> Result<Footer> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(Error::Internal { what: "a merge of nothing" });
    };
    let newest = last.segment.footer();
    let mut identity = Footer::empty();
    identity.store_id = newest.store_id;
    identity.epoch = newest.epoch;
    identity.nonce = nonce;
    identity.link_in = first.segment.footer().link_in;
    identity.link_out = newest.link_out;
    identity.fingerprint = newest.fingerprint;
    identity.first = name.first;
    identity.last = name.last;
    identity.generation = name.generation;
    identity.dim = newest.dim;
    identity.dtype = newest.dtype;
    identity.metric = newest.metric;
    // That entries were lost stays said.
    identity.compat = inputs.iter().fold(0, |flags, live| flags | live.segment.footer().compat & COMPAT_LOST);
    Ok(identity)
}
