//! What of the inputs goes into the output.

use std::ops::Range;

use crate::format::footer::Footer;
use crate::format::{COMPAT_LOST, Id};
use crate::segment::{EncodedSegment, SegmentBuilder, SegmentName};
use crate::view::LiveSegment;
use crate::{Error, Kind, Result};

/// Lays out the merge of neighbouring segments. The inputs' liveness must come from listed segments alone, so that an
/// entry is only left out for a newer one that can no longer be lost.
pub(crate) fn merged<'a>(
    inputs: &'a [LiveSegment],
    name: SegmentName,
    nonce: Id,
    settings: Vec<u8>,
) -> Result<EncodedSegment<'a>> {
    let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
        return Err(Error::bad_input("a merge needs a segment"));
    };
    let mut builder = SegmentBuilder::new(0);
    for live in inputs {
        copy_entries(live, name.first == 1, &mut builder)?;
    }
    // A kill that points into the output has done its work: its entry is left out. One that points before it still
    // counts.
    for kill in inputs.iter().flat_map(|live| live.segment.kills()).filter(|kill| kill.commit < name.first) {
        builder.kill(*kill);
    }
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
    builder.finish(identity, last.segment.dtype(), settings)
}

/// Copies the entries of one input that stay. A tombstone only goes when nothing older than the output exists.
fn copy_entries<'a>(
    live: &'a LiveSegment,
    from_the_start: bool,
    builder: &mut SegmentBuilder<'a>,
) -> Result<()> {
    let segment = &live.segment;
    let runs = segment.runs();
    let mut at = 0;
    // Where the next entry of the same run would continue: commit, entry, row.
    let mut expected: Option<(u64, u64, u64)> = None;
    let mut rows: Range<usize> = 0..0;
    for index in 0..segment.entry_count() {
        let kind = segment.kind(index)?;
        if !live.is_live(index) || (kind == Kind::Tombstone && from_the_start) {
            continue;
        }
        let number = index as u64;
        while runs.get(at + 1).is_some_and(|next| next.segment_entry <= number) {
            at += 1;
        }
        let run = runs.get(at).filter(|run| run.segment_entry <= number);
        let run =
            run.ok_or_else(|| Error::damaged(segment.path(), "RUNS", format!("entry {index} is in no run")))?;
        let span = segment.row_span(index)?;
        let (commit, entry) = (run.commit, run.entry + (number - run.segment_entry));
        let row = run.row + (span.start as u64).saturating_sub(run.segment_row);
        if expected != Some((commit, entry, row)) {
            builder.begin_run(commit, entry, row);
        }
        expected = Some((commit, entry + 1, row + span.len() as u64));
        builder.push(segment.key(index)?, kind, span.len() as u64, segment.payload(index)?);
        // Neighbouring rows are written in one piece.
        if span.start == rows.end {
            rows.end = span.end;
        } else {
            builder.add_rows(segment.row_bytes(rows.clone())?, segment.row_scales(rows));
            rows = span;
        }
    }
    builder.add_rows(segment.row_bytes(rows.clone())?, segment.row_scales(rows));
    Ok(())
}
