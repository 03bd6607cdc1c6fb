//! Which entries of the inputs go into the output.

use crate::base::{Error, Result};
use crate::format::footer::Footer;
use crate::format::{COMPAT_KEPT, Id};
use crate::segment::{Joined, SegmentName};
use crate::state::LiveSegment;
use crate::types::Kind;

/// Joins the entries of neighbouring segments that stay. The inputs' liveness must come from listed segments
/// alone, so that an entry is left out only for a newer one that can no longer be lost. A tombstone is left
/// out only if nothing is older than the output.
pub(super) fn joined<'a>(
    inputs: &'a [LiveSegment],
    first_commit: u64,
    step: &dyn Fn(usize) -> Result<()>,
) -> Result<Joined<'a>> {
    let segments = inputs.iter().map(|live| &*live.segment);
    Joined::new(segments, first_commit, |position, entry| {
        if entry % (1 << 16) == 0 {
            step(0)?;
        }
        let Some(live) = inputs.get(position) else {
            return Err(Error::internal("an input too many"));
        };
        Ok(live.is_live(entry)? && !(first_commit == 1 && live.segment.kind(entry)? == Kind::Tombstone))
    })
}

/// The fields of the output's footer that do not follow from its entries.
pub(super) fn identity(inputs: &[LiveSegment], name: SegmentName, nonce: Id) -> Result<Footer> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(Error::internal("a merge of nothing"));
    };
    let (first, last) = (first.segment.footer(), last.segment.footer());
    let SegmentName { first: from, last: to, generation } = name;
    let mut identity = Footer { first: from, last: to, generation, nonce, ..last.identity() };
    identity.link_in = first.link_in;
    // The flag that entries were lost is kept. The time is that of the last commit.
    identity.compat = inputs.iter().fold(0, |flags, live| flags | live.segment.footer().compat & COMPAT_KEPT);
    Ok(identity)
}
