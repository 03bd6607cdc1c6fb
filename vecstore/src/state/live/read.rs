//! Reading bitmaps: the superseded entries that a manifest's record knows of.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::dead::{Bits, Dead};
use super::{BitmapRecord, LIVE, LiveRecord};
use crate::base::{Error, IoContext, Result};
use crate::format::bitmap::Header;
use crate::segment::{Segment, SegmentName};
use crate::state::{Body, MANIFEST, SegmentRecord};
use crate::vfs::Vfs;

/// Maps a bitmap and checks every byte of it, and that it is this segment's.
pub(super) fn open(vfs: &dyn Vfs, dir: &Path, record: &BitmapRecord, segment: &Segment) -> Result<Dead> {
    let path = dir.join(LIVE).join(record.name().to_string());
    let file = vfs.map(&path).at(&path, "map the liveness bitmap")?;
    let damaged = |detail: String| Error::damaged(&path, "bitmap", detail);
    let header = Header::parse(&path, &file)?;
    let footer = segment.footer();
    let of_segment = (header.store_id, header.first, header.last, header.generation, header.footer_crc)
        == (footer.store_id, footer.first, footer.last, footer.generation, footer.crc)
        && (header.entries, header.rows) == (footer.entries, footer.rows);
    let dead = header.dead.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
    if !of_segment || (header.version, header.crc, dead) != (record.version, record.crc, Some(record.dead)) {
        return Err(damaged(format!("it is not the bitmap of {} that the manifest lists", segment.name())));
    }
    let possible = header.dead.iter().zip(&footer.kinds).all(|(dead, count)| dead <= count)
        && header.dead_rows <= footer.rows;
    let (Some(entries), Some(rows), true) = (header.entry_bits(), header.row_bits(), possible) else {
        return Err(damaged(format!("it has more superseded entries than {}", segment.name())));
    };
    let file = Arc::new(file);
    Ok(Dead {
        entries: Bits::Mapped(Arc::clone(&file), entries),
        rows: Bits::Mapped(file, rows),
        kinds: header.dead,
        row_count: header.dead_rows,
    })
}

/// Maps the bitmaps that a manifest lists, and returns what is superseded in each of the first segments, as
/// many as it knows of; `None` when a bitmap is missing or damaged. `segments` are those that were opened for
/// the manifest, from the first on.
///
/// # Errors
/// When one is missing and this is not the last look: a checkpoint may have replaced it, and the manifest.
pub(crate) fn covered(
    vfs: &dyn Vfs,
    dir: &Path,
    body: &Body,
    segments: &[Arc<Segment>],
    last_look: bool,
) -> Result<Option<Vec<Option<Arc<Dead>>>>> {
    let Some(record) = LiveRecord::of(body) else { return Ok(Some(Vec::new())) };
    let listed = record.segments(body).unwrap_or_default();
    // Where another file stands in for a listed one, nothing is known of it.
    let chosen = segments.get(..listed.len()).unwrap_or_default();
    if !chosen.iter().map(|segment| segment.name()).eq(listed.iter().map(SegmentRecord::name)) {
        return Ok(Some(Vec::new()));
    }
    let mut bitmaps: HashMap<SegmentName, &BitmapRecord> =
        record.bitmaps.iter().map(|bitmap| (bitmap.segment, bitmap)).collect();
    let opened: Result<Vec<_>> = chosen
        .iter()
        .map(|segment| {
            let bitmap = bitmaps.remove(&segment.name());
            bitmap.map(|bitmap| open(vfs, dir, bitmap, segment).map(Arc::new)).transpose()
        })
        .collect();
    let foreign = || {
        let detail = "it lists a bitmap of a segment it does not list";
        Error::damaged(&dir.join(MANIFEST), "manifest", detail)
    };
    match opened.and_then(|dead| bitmaps.is_empty().then_some(dead).ok_or_else(foreign)) {
        Ok(dead) => Ok(Some(dead)),
        Err(error) if !last_look && is_absent(&error) => Err(error),
        Err(error) => {
            log::warn!(
                "{error}; what is superseded is read from all segments instead, and the next checkpoint writes new \
                 bitmaps"
            );
            Ok(None)
        }
    }
}

/// What the bitmaps of a manifest say of one segment, where the others may be lost; for repairs.
pub(crate) fn known(vfs: &dyn Vfs, dir: &Path, body: &Body, segment: &Segment) -> Option<Result<Dead>> {
    Some(open(vfs, dir, LiveRecord::of(body)?.bitmap_of(segment.name())?, segment))
}

pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}
