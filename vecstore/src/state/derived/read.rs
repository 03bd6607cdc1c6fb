//! Reading bitmaps: the superseded entries that a manifest's bitmaps contain.

use std::path::Path;
use std::sync::Arc;

use super::dead::{Dead, Replay};
use super::{DERIVED, DerivedRecord, record_of};
use crate::base::{Error, Result};
use crate::format::derived::{Header, Kind, LIVE};
use crate::segment::{DerivedFile, Segment};
use crate::state::{Body, SegmentRecord};
use crate::vfs::Vfs;

/// Maps the derived file of a manifest's record, and checks that it is the listed file.
pub(super) fn open(
    vfs: &dyn Vfs,
    dir: &Path,
    record: &DerivedRecord,
    segment: &Segment,
) -> Result<DerivedFile> {
    let path = dir.join(DERIVED).join(record.name().to_string());
    let file = DerivedFile::open(vfs, &path, record.kind, segment)?;
    let Header { version, crc, file_len, .. } = *file.header();
    if (version, crc, file_len) != (record.version, record.crc, record.file_len) {
        let detail = format!("it is not the file about {} that the manifest lists", segment.name());
        return Err(Error::damaged(&path, "header", detail));
    }
    Ok(file)
}

/// Maps a bitmap and checks that its header fits the segment and the manifest.
pub(super) fn open_live(
    vfs: &dyn Vfs,
    dir: &Path,
    body: &Body,
    record: &DerivedRecord,
    segment: &Segment,
) -> Result<DerivedFile> {
    let file = open(vfs, dir, record, segment)?;
    let Header { facts: [entries, rows, dead @ .., dead_rows, through], kind_version, body_len, .. } =
        *file.header();
    let footer = segment.footer();
    let sum = dead.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
    let is_possible = dead.iter().zip(&footer.kinds).all(|(dead, count)| dead <= count)
        && dead_rows <= footer.rows
        && (entries, rows, sum) == (footer.entries, footer.rows, Some(record.note))
        && body_len == (footer.entries.div_ceil(64) + footer.rows.div_ceil(64)) * 8
        && through <= body.last_commit()
        && kind_version == 1;
    if !is_possible {
        let detail =
            format!("it does not count what {} has, or knows of commits that are not there", segment.name());
        return Err(Error::damaged(file.path(), "header", detail));
    }
    Ok(file)
}

/// The listed segments up to the commit for which the bitmaps are complete.
fn known_to_bitmaps(body: &Body) -> &[SegmentRecord] {
    let count = body.segments.partition_point(|segment| segment.last <= body.live_last);
    body.segments.get(..count).unwrap_or_default()
}

/// Maps the bitmaps that a manifest lists. Returns the superseded entries of each of the first segments, as
/// many as the bitmaps are complete for; `None` if a bitmap is missing or its header is damaged. `segments`
/// are those opened for the manifest, from the first on.
///
/// # Errors
/// A bitmap is missing and this is not the last look: a checkpoint may have replaced it, and the manifest.
pub(crate) fn covered(
    vfs: &dyn Vfs,
    dir: &Path,
    body: &Body,
    segments: &[Arc<Segment>],
    last_look: bool,
) -> Result<Option<Vec<Option<Arc<Dead>>>>> {
    let listed = known_to_bitmaps(body);
    // If another file stands in for a listed one, the bitmaps say nothing about it.
    let chosen = segments.get(..listed.len()).unwrap_or_default();
    if !chosen.iter().map(|segment| SegmentRecord::of(segment)).eq(listed.iter().copied()) {
        return Ok(Some(Vec::new()));
    }
    let replay = Arc::new(Replay(segments.to_vec()));
    let opened: Result<Vec<_>> = chosen
        .iter()
        .map(|segment| {
            let Some(bitmap) = record_of(body, segment.name(), LIVE) else { return Ok(None) };
            let file = open_live(vfs, dir, body, bitmap, segment)?;
            Ok(Some(Arc::new(Dead::mapped(file, Arc::clone(segment), Arc::clone(&replay)))))
        })
        .collect();
    match opened {
        Ok(dead) => Ok(Some(dead)),
        Err(error) if !last_look && is_absent(&error) => Err(error),
        Err(error) => {
            log::warn!(
                "{error}; what is superseded is read from all segments instead, and the next checkpoint \
                 writes new bitmaps"
            );
            Ok(None)
        }
    }
}

/// The superseded entries of one segment from its bitmap alone, for repairs: other segments may be lost.
pub(crate) fn known(vfs: &dyn Vfs, dir: &Path, body: &Body, segment: &Arc<Segment>) -> Option<Result<Dead>> {
    let record = record_of(body, segment.name(), LIVE)?;
    let whole = |file: DerivedFile| {
        let damaged = || Error::damaged(file.path(), "body", "a block does not have its checksum");
        file.whole().ok_or_else(damaged)?;
        Ok(Dead::mapped(file, Arc::clone(segment), Arc::default()))
    };
    Some(open_live(vfs, dir, body, record, segment).and_then(whole))
}

pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Io { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound)
}

/// The letters of a kind as text.
pub(super) fn kind_name(kind: Kind) -> String {
    String::from_utf8_lossy(&kind).into_owned()
}
