//! Checks of entries that checksums cannot make: reasons of rejected entries, tombstones without content,
//! attributes.

use super::check::{Step, fault, from_error};
use super::{Segment, SegmentFault};
use crate::base::Result;
use crate::format::{rejected, section};
use crate::types::Kind;
use crate::vfs::ReadAt;

/// Entries that are checked between two calls of `step`, which may end the check.
const ENTRIES_PER_STEP: usize = 1 << 16;

/// Checks reasons, tombstones and attributes of a segment whose tables are right. Payloads are read from
/// `file`, because `segment` may have been opened without them.
pub(super) fn check_contents(
    segment: &Segment,
    file: &dyn ReadAt,
    step: Step<'_>,
) -> Result<Vec<SegmentFault>> {
    let mut faults = Vec::new();
    for index in 0..segment.entry_count() {
        if index % ENTRIES_PER_STEP == 0 {
            step(0)?;
        }
        if segment.kind(index)? == Kind::Rejected && !has_reason(segment, file, index) {
            let detail = "its reason, or the length of that, is not one";
            let told = fault("PAYL", None, format!("entry {index} is rejected, and {detail}"));
            faults.push(SegmentFault { keys: vec![segment.key(index)?.to_vec()], ..told });
            break;
        }
        if segment.kind(index)? == Kind::Tombstone && !is_bare(segment, index) {
            faults.push(fault(
                "KIND",
                None,
                format!("entry {index} is a tombstone, and has a payload or attributes"),
            ));
            break;
        }
    }
    match segment.directory() {
        Err(error) => faults.push(from_error(error)),
        Ok(directory) => {
            let (attr, attd) = segment.attribute_bytes();
            let mut checked = Ok(());
            for column in directory.columns() {
                step(0)?;
                checked = checked.and_then(|()| directory.check(column, attd));
            }
            let checked = checked.and_then(|()| directory.check_layout(attr, attd));
            faults.extend(checked.err().map(|what| fault("ATTD", None, what)));
        }
    }
    Ok(faults)
}

/// True if an entry has neither payload nor attributes. Unreadable ones are ignored here: another check
/// reports them.
fn is_bare(segment: &Segment, index: usize) -> bool {
    let columns = segment.directory().map_or(&[][..], |directory| directory.columns());
    let has_value = |column| segment.value(index, column).is_ok_and(|value| value.is_some());
    segment.payload_span(index).is_none_or(|span| span.is_empty()) && !columns.iter().any(has_value)
}

/// True if the payload of a rejected entry, which lies within its section, can be read and decoded as a
/// reason.
fn has_reason(segment: &Segment, file: &dyn ReadAt, index: usize) -> bool {
    let payloads = segment.layout().sections.iter().find(|line| line.tag == section::PAYL);
    let Some((line, span)) = payloads.zip(segment.payload_span(index)) else { return false };
    let mut bytes = vec![0; span.len()];
    file.read_at(&mut bytes, line.offset + span.start as u64).is_ok() && rejected::decode(&bytes).is_some()
}
