//! Key filters of large segments: derived files that say which keys a segment cannot have.

use std::path::Path;
use std::sync::Arc;

use super::read::open;
use super::write::{Content, Pending};
use super::{DerivedRecord, record_of};
use crate::base::Result;
use crate::format::derived::KEYF;
use crate::segment::{KeyFilter, Segment};
use crate::state::Body;
use crate::vfs::Vfs;

/// Gives segments the filters that a manifest lists. A segment works without a filter that is missing or
/// damaged.
pub(crate) fn attach<'a>(
    vfs: &dyn Vfs,
    dir: &Path,
    body: &Body,
    segments: impl Iterator<Item = &'a Arc<Segment>>,
) {
    for segment in segments.filter(|segment| segment.filter().is_none()) {
        let Some(record) = record_of(body, segment.name(), KEYF) else { continue };
        match open_filter(vfs, dir, record, segment) {
            Ok(filter) => segment.use_filter(filter),
            Err(error) => {
                log::warn!("{error}; keys are looked up without it, and the next checkpoint writes it anew")
            }
        }
    }
}

pub(super) fn open_filter(
    vfs: &dyn Vfs,
    dir: &Path,
    record: &DerivedRecord,
    segment: &Segment,
) -> Result<KeyFilter> {
    KeyFilter::of_file(open(vfs, dir, record, segment)?, segment.footer().entries)
}

/// Content of a segment's filter file.
pub(super) fn filter_of(segment: &Segment) -> Content {
    let hashes = segment.hashes();
    let (facts, words) = KeyFilter::for_file(hashes.iter().copied(), hashes.len());
    Content { kind: KEYF, facts, note: 0, body: words }
}

/// Writes the filter of a merge's output under a temporary name, if it should have one; `prefix` says which
/// lock is held.
pub(crate) fn pending(vfs: &dyn Vfs, dir: &Path, prefix: &str, segment: &Segment) -> Result<Option<Pending>> {
    let write = || Pending::write(vfs, dir, prefix, segment, &filter_of(segment));
    segment.wants_filter_file().then(write).transpose()
}
