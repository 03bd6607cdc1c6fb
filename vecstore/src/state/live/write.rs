//! Writing bitmaps: under the manifest lock, durable before a manifest lists them; and removing those that
//! none does.

use std::path::Path;

use super::dead::Dead;
use super::{BitmapName, BitmapRecord, LIVE, LiveRecord, named};
use crate::base::{IoContext, Result};
use crate::format::bitmap::Header;
use crate::format::random_id;
use crate::segment::Segment;
use crate::state::temporaries::{make_folder, remove_own, write_named};
use crate::state::{Body, Manifest, View, named};
use crate::vfs::Vfs;

/// Makes a complete set of durable bitmaps for a view, which knows every kill of the segments that `body`
/// lists, and has the very same segments. Bitmaps that `body` lists, as is on disk, and that are still right
/// are kept, the others are written; then it lists those. Returns the names of the written ones.
///
/// Called under the manifest lock.
pub(crate) fn publish(vfs: &dyn Vfs, dir: &Path, body: &mut Body, view: &View) -> Result<Vec<BitmapName>> {
    let mut written = Vec::new();
    let brought = bring(vfs, dir, body, view, &mut written);
    brought
        .and_then(|bitmaps| LiveRecord::new(body, view.last_commit(), bitmaps)?.put(body))
        .inspect_err(|_| discard(vfs, dir, &written))?;
    Ok(written)
}

/// Writes the bitmaps that are missing, and adds their names to `written`.
fn bring(
    vfs: &dyn Vfs,
    dir: &Path,
    body: &Body,
    view: &View,
    written: &mut Vec<BitmapName>,
) -> Result<Vec<BitmapRecord>> {
    let live = dir.join(LIVE);
    // Only what the manifest on disk lists is known to be there: everything else may be removed at any time.
    let listed = LiveRecord::of(body).filter(|_| !view.distrusts_bitmaps);
    let mut bitmaps = Vec::new();
    for (segment, dead) in view.segments.iter().filter_map(|live| Some((&live.segment, live.dead.as_ref()?)))
    {
        let kept = listed.as_ref().and_then(|record| record.bitmap_of(segment.name()));
        if let Some(kept) = kept.filter(|kept| kept.dead == dead.entry_count()) {
            bitmaps.push(*kept);
            continue;
        }
        if written.is_empty() {
            make_folder(vfs, dir, LIVE, !named(body).is_empty())?;
        }
        let (record, bytes) = encode(segment, dead)?;
        write_named(vfs, &live.join(record.name().to_string()), &bytes, "write a liveness bitmap", false)?;
        written.push(record.name());
        bitmaps.push(record);
    }
    if !written.is_empty() {
        // A manifest only lists names that are durable. If this fails they are never listed: the next attempt
        // gives other names.
        vfs.flush_dir(&live).at(&live, "flush the directory")?;
    }
    Ok(bitmaps)
}

fn encode(segment: &Segment, dead: &Dead) -> Result<(BitmapRecord, Vec<u8>)> {
    let version = u64::from_le_bytes(random_id()?.first_chunk().copied().unwrap_or_default());
    let mut header = Header::of(segment.footer(), version);
    (header.dead, header.dead_rows) = (dead.kinds, dead.row_count);
    let bytes = header.encode(dead.entries.bytes(), dead.rows.bytes());
    let (segment, dead) = (segment.name(), dead.entry_count());
    Ok((BitmapRecord { segment, crc: header.crc, version, dead }, bytes))
}

/// Removes bitmaps that were written for a manifest that could not be. (A rename may report failure and have
/// happened.)
pub(crate) fn discard_unlisted(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest, names: &[BitmapName]) {
    if Manifest::read(vfs, dir).is_ok_and(|there| there.generation != manifest.generation) {
        discard(vfs, dir, names);
    }
}

fn discard(vfs: &dyn Vfs, dir: &Path, names: &[BitmapName]) {
    let live = dir.join(LIVE);
    names.iter().for_each(|name| remove_own(vfs, &live.join(name.to_string())));
}

/// Removes those of `names` that neither this manifest nor a version lists; says how many went. An
/// unreadable version is an error, for it may need any of them.
///
/// Called under the manifest lock, with the manifest that is on disk, its name durable.
pub(crate) fn remove_unlisted(
    vfs: &dyn Vfs,
    dir: &Path,
    manifest: &Manifest,
    mut names: Vec<BitmapName>,
) -> Result<usize> {
    let listed = named(&manifest.body);
    names.retain(|name| !listed.contains(name));
    if names.is_empty() {
        return Ok(0);
    }
    for version in versions::read_all(vfs, dir)? {
        let pinned = named(&version.manifest.body);
        names.retain(|name| !pinned.contains(name));
    }
    discard(vfs, dir, &names);
    Ok(names.len())
}
