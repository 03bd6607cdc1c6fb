//! Key filters of large segments: which keys a segment cannot have.

use std::path::Path;
use std::sync::Arc;

use super::read::open;
use super::write::{Content, Pending};
use super::{DerivedRecord, record_of};
use crate::base::Result;
use crate::format::derived::KEYF;
use crate::segment::{KeyFilter, Segment};
use crate::state::{Body, View};
use crate::vfs::Vfs;

/// Gives the large segments of a view the filters that a manifest lists. One that is missing or damaged is done without.
pub(crate) fn attach(vfs: &dyn Vfs, dir: &Path, body: &Body, segments: &[Arc<Segment>]) {
    for segment in segments.iter().filter(|segment| segment.wants_filter_file() && segment.filter().is_none())
    {
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

/// The segments of a view for which a filter is to be written: large ones without one that is listed and sound.
pub(super) fn wanted<'a>(view: &'a View, listed: &Body) -> impl Iterator<Item = &'a Segment> {
    let segments =
        view.segments.iter().map(|live| &*live.segment).filter(|segment| segment.wants_filter_file());
    segments.filter(|segment| {
        let is_damaged = segment.filter().and_then(KeyFilter::file).is_some_and(|file| file.is_damaged());
        is_damaged || record_of(listed, segment.name(), KEYF).is_none()
    })
}

/// True when a filter is to be written.
pub(crate) fn lacks_filters(view: &View, listed: &Body) -> bool {
    wanted(view, listed).next().is_some()
}

/// The filter of a segment.
pub(super) fn filter_of(segment: &Segment) -> Content {
    let hashes = segment.hashes();
    let (facts, words) = KeyFilter::for_file(hashes.iter().copied(), hashes.len());
    Content { kind: KEYF, facts, note: 0, body: words }
}

/// Writes the filter of a merge's output under a temporary name, if it is to have one; `prefix` says which lock is held.
pub(crate) fn pending(vfs: &dyn Vfs, dir: &Path, prefix: &str, segment: &Segment) -> Result<Option<Pending>> {
    let write = || Pending::write(vfs, dir, prefix, segment, &filter_of(segment));
    segment.wants_filter_file().then(write).transpose()
}
