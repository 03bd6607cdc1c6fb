//! Reading bitmaps: what a manifest's record says is superseded.

use std::path::Path;
use std::sync::Arc;

use super::dead::{Bits, Dead};
use super::{BitmapRecord, LIVE, LiveRecord};
use crate::base::{Error, IoContext, Result};
use crate::format::bitmap::Header;
use crate::segment::Segment;
use crate::state::{Body, MANIFEST, SegmentRecord};
use crate::vfs::Vfs;

/// Maps a bitmap and checks every byte of it, and that it is this segment's.
pub(super) fn open(vfs: &dyn Vfs, dir: &Path, record: &BitmapRecord, segment: &Segment) -> Result<Dead> {
    let path = dir.join(LIVE).join(record.name().to_string());
    let file = vfs.map(&path).at(&path, "map the liveness bitmap")?;
    let damaged = |detail: String| Error::damaged(&path, "bitmap", detail);
    let header = Header::parse(&file).map_err(damaged)?;
    let footer = segment.footer();
    let of_segment = (
        (header.store_id, header.first, header.last, header.generation, header.footer_crc),
        (header.entries, header.rows),
    ) == (
        (footer.store_id, footer.first, footer.last, footer.generation, footer.crc),
        (footer.entries, footer.rows),
    );
    let dead = header.dead.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
    let possible = header.dead.iter().zip(&footer.kinds).all(|(dead, count)| dead <= count)
        && header.dead_rows <= footer.rows;
    if !of_segment || (header.version, header.crc, dead) != (record.version, record.crc, Some(record.dead)) {
        return Err(damaged(format!("it is not the bitmap of {} that the manifest lists", segment.name())));
    }
    let (Some(entries), Some(rows), true) = (header.entry_bits(), header.row_bits(), possible) else {
        return Err(damaged(format!("it has more superseded entries than {}", segment.name())));
    };
    let file = Arc::new(file);
    Ok(Dead {
        entries: Bits::mapped(&file, entries),
        rows: Bits::mapped(&file, rows),
        kinds: header.dead,
        row_count: header.dead_rows,
    })
}

/// What the bitmaps of a manifest say.
#[derive(Debug)]
pub(crate) enum Covered {
    /// What is superseded in each of the first segments, as many as there are here.
    Known(Vec<Option<Arc<Dead>>>),
    /// Nothing: every kill is to be replayed.
    Nothing,
    /// Nothing, because one of them is missing or damaged.
    Distrusted,
}

/// Maps the bitmaps that a manifest lists. `segments` are those that were opened for it, from the first on.
///
/// # Errors
/// When one is missing and this is not the last look: a checkpoint may have replaced it, and the manifest.
pub(crate) fn covered(
    vfs: &dyn Vfs,
    dir: &Path,
    body: &Body,
    segments: &[Arc<Segment>],
    last_look: bool,
) -> Result<Covered> {
    let Some(record) = LiveRecord::of(body) else { return Ok(Covered::Nothing) };
    let listed = record.segments(body).unwrap_or_default();
    // Where another file stands in for a listed one, nothing is known of it.
    let chosen = segments.get(..listed.len()).unwrap_or_default();
    if !chosen.iter().map(|segment| segment.name()).eq(listed.iter().map(SegmentRecord::name)) {
        return Ok(Covered::Nothing);
    }
    let mut dead: Vec<Option<Arc<Dead>>> = vec![None; listed.len()];
    for bitmap in &record.bitmaps {
        let at = listed.binary_search_by_key(&bitmap.first, |segment| segment.first).ok();
        let place = at.and_then(|at| segments.get(at).zip(dead.get_mut(at)));
        let opened = match place.filter(|(segment, _)| segment.name() == bitmap.segment()) {
            Some((segment, place)) => {
                open(vfs, dir, bitmap, segment).map(|found| *place = Some(Arc::new(found)))
            }
            None => Err(Error::damaged(
                &dir.join(MANIFEST),
                "manifest",
                "it lists a bitmap of a segment it does not list",
            )),
        };
        match opened {
            Ok(()) => {}
            Err(error @ Error::Io { .. }) if !last_look && is_absent(&error) => return Err(error),
            Err(error) => {
                log::warn!(
                    "{error}; what is superseded is read from all segments instead, and the next checkpoint writes \
                     new bitmaps"
                );
                return Ok(Covered::Distrusted);
            }
        }
    }
    Ok(Covered::Known(dead))
}

/// What the bitmaps of a manifest say of one segment, whatever has become of the others; for repairs.
pub(crate) fn known(vfs: &dyn Vfs, dir: &Path, body: &Body, segment: &Segment) -> Option<Result<Dead>> {
    Some(open(vfs, dir, LiveRecord::of(body)?.bitmap_of(segment.name())?, segment))
}

pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}
