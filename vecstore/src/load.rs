//! Builds a view from what is on disk: the manifest, then the segments after it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::IoContext;
use crate::manifest::{Manifest, SegmentRecord};
use crate::segment::{Segment, SegmentName};
use crate::tiling::{self, Tiling};
use crate::vfs::Vfs;
use crate::view::View;
use crate::{Error, Result};

/// Directory of the segments within a store.
pub(crate) const SEGMENTS: &str = "segments";

/// How often a moving directory is listed again before the last error counts.
const ATTEMPTS: usize = 10;

/// Names of all segment files of a store, ascending.
pub(crate) fn list_segments(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<SegmentName>> {
    let path = dir.join(SEGMENTS);
    let names = vfs.list(&path).at(&path, "list the segments")?;
    let mut names: Vec<SegmentName> = names.iter().filter_map(|name| SegmentName::parse(name)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Reads the store's state. Segments that `known` holds already are used again, not mapped again.
///
/// Takes no lock: a listing is not atomic, and a merge may replace files while we look. A gap, or a file that went
/// away between listing and mapping, therefore means "list again"; only when manifest and listing stay the same is
/// it a fault.
pub(crate) fn load(vfs: &dyn Vfs, dir: &Path, known: Option<&View>) -> Result<View> {
    let mut before: Option<(u64, Vec<SegmentName>)> = None;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let manifest = Manifest::read(vfs, dir)?;
        let names = list_segments(vfs, dir)?;
        let seen = (manifest.generation, names);
        let again = before.as_ref() == Some(&seen) || attempt >= ATTEMPTS;
        match try_load(vfs, dir, &manifest, &seen.1, known) {
            Ok(view) => return Ok(view),
            Err(error) if again || !is_motion(&error) => return Err(error),
            Err(_) => before = Some(seen),
        }
    }
}

/// Errors that a writer or merger at work can cause in a reader that looks at the wrong moment.
fn is_motion(error: &Error) -> bool {
    match error {
        Error::MissingSegment { .. } => true,
        // Only a merge that replaced files between reading the manifest and listing.
        Error::ForeignSegment { .. } => true,
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn try_load(
    vfs: &dyn Vfs,
    dir: &Path,
    manifest: &Manifest,
    names: &[SegmentName],
    known: Option<&View>,
) -> Result<View> {
    let records = &manifest.body.segments;
    let lists: Vec<SegmentName> = records.iter().map(SegmentRecord::name).collect();
    let chosen = match tiling::choose(&lists, names) {
        Tiling::Whole(chosen) => chosen,
        Tiling::Gap(commit) => return Err(Error::MissingSegment { path: dir.join(SEGMENTS), commit }),
    };
    let listed: HashMap<SegmentName, &SegmentRecord> =
        records.iter().map(|record| (record.name(), record)).collect();

    // Usually nothing but commits has been added since: then all that is known stays.
    let mut view = View::empty(manifest);
    if let Some(known) = known.filter(|known| continues(known, &view, &chosen)) {
        view.segments = known.segments.clone();
        view.totals = known.totals;
    }
    for name in chosen.into_iter().skip(view.segments.len()) {
        let path = dir.join(SEGMENTS).join(name.to_string());
        let segment = match known.and_then(|known| known.open_segment(&path)) {
            Some(segment) => segment,
            None => Arc::new(Segment::open(vfs, &path, name)?),
        };
        view.add(segment, listed.get(&name).copied())?;
    }
    Ok(view)
}

/// The state that a manifest lists, and nothing after it. Segments that `known` holds are used again.
pub(crate) fn listed(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest, known: Option<&View>) -> Result<View> {
    let mut view = View::empty(manifest);
    for record in &manifest.body.segments {
        let path = dir.join(SEGMENTS).join(record.name().to_string());
        let segment = match known.and_then(|known| known.open_segment(&path)) {
            Some(segment) => segment,
            None => Arc::new(Segment::open(vfs, &path, record.name())?),
        };
        view.add(segment, Some(record))?;
    }
    Ok(view)
}

/// True when the chosen files begin with those of the known view, of the same store.
fn continues(known: &View, new: &View, chosen: &[SegmentName]) -> bool {
    known.meta.store_id == new.meta.store_id
        && known.meta.epochs == new.meta.epochs
        && known.segments.len() <= chosen.len()
        && known.segments.iter().zip(chosen).all(|(live, name)| live.segment.name() == *name)
}
