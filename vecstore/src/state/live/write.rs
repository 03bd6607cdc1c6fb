//! Writing bitmaps: under the manifest lock, durable before a manifest lists them; and removing those that none does.

use crate::state::{remove_own, write_temporary};
use std::path::Path;

use super::dead::Dead;
use super::{BitmapName, BitmapRecord, LIVE, LiveRecord, named};
use crate::base::{Error, IoContext, Result};
use crate::format::bitmap::Header;
use crate::segment::Segment;
use crate::state::{Body, LiveSegment, Manifest, named};
use crate::vfs::Vfs;

/// A record that may be listed, and the files that were written for it.
#[derive(Debug)]
pub(crate) struct Published {
    pub record: LiveRecord,
    pub written: Vec<BitmapName>,
}

/// Makes a complete set of durable bitmaps for `segments`, which know every kill of the listed segments up to commit
/// `last`, and are all that `body` lists up to there but for those with nothing superseded. `body` still has the record
/// that is on disk: bitmaps that it lists and that are still right are kept, the others are written.
///
/// Called under the manifest lock.
pub(crate) fn publish<'a>(
    vfs: &dyn Vfs,
    dir: &Path,
    body: &Body,
    segments: impl Iterator<Item = &'a LiveSegment>,
    last: u64,
    trust: bool,
) -> Result<Published> {
    // Only what the manifest on disk lists is known to be there: everything else may be removed at any time.
    let listed = LiveRecord::of(body).filter(|_| trust);
    let mut files = Files { vfs, dir, body, written: Vec::new() };
    match files.bring(segments, listed.as_ref()).and_then(|bitmaps| LiveRecord::new(body, last, bitmaps)) {
        Ok(record) => Ok(Published { record, written: files.written }),
        Err(error) => {
            discard(vfs, dir, &files.written);
            Err(error)
        }
    }
}

/// Files on their way.
struct Files<'a> {
    vfs: &'a dyn Vfs,
    dir: &'a Path,
    body: &'a Body,
    written: Vec<BitmapName>,
}

impl Files<'_> {
    fn bring<'a>(
        &mut self,
        segments: impl Iterator<Item = &'a LiveSegment>,
        listed: Option<&LiveRecord>,
    ) -> Result<Vec<BitmapRecord>> {
        let mut bitmaps = Vec::new();
        for live in segments {
            let Some(dead) = live.dead.as_deref() else { continue };
            let kept = listed.and_then(|record| record.bitmap_of(live.segment.name()));
            bitmaps.push(match kept.filter(|kept| kept.dead == dead.entry_count()) {
                Some(kept) => *kept,
                None => self.write(&live.segment, dead)?,
            });
        }
        if !self.written.is_empty() {
            // A manifest only lists names that are durable. If this fails they are never listed: the next attempt
            // gives other names.
            let live = self.dir.join(LIVE);
            self.vfs.flush_dir(&live).at(&live, "flush the directory")?;
        }
        Ok(bitmaps)
    }

    fn write(&mut self, segment: &Segment, dead: &Dead) -> Result<BitmapRecord> {
        let live = self.dir.join(LIVE);
        if self.written.is_empty() {
            self.prepare(&live)?;
        }
        let footer = segment.footer();
        let id = crate::format::random_id()?;
        let mut header = Header::empty();
        header.store_id = footer.store_id;
        header.first = footer.first;
        header.last = footer.last;
        header.generation = footer.generation;
        header.footer_crc = footer.crc;
        header.version = u64::from_le_bytes(id.first_chunk().copied().unwrap_or_default());
        header.entries = footer.entries;
        header.rows = footer.rows;
        header.dead = dead.kinds;
        header.dead_rows = dead.row_count;
        let bytes = header.encode(dead.entries.bytes(), dead.rows.bytes());
        let record = BitmapRecord {
            first: footer.first,
            last: footer.last,
            generation: footer.generation,
            crc: header.crc,
            version: header.version,
            dead: dead.entry_count(),
        };
        let path = live.join(record.name().to_string());
        let tmp = write_temporary(self.vfs, &live, &bytes, "write a liveness bitmap")?;
        if let Err(source) = self.vfs.rename_noreplace(&tmp, &path) {
            remove_own(self.vfs, &tmp);
            return Err(Error::io(&path, "name the liveness bitmap", source));
        }
        self.written.push(record.name());
        Ok(record)
    }

    /// Makes the directory if there is none, and its name durable if no manifest relies on it yet.
    fn prepare(&self, live: &Path) -> Result<()> {
        let is_relied_on = !named(self.body).is_empty();
        if !is_relied_on {
            // One that is there may have been made by somebody who died or failed before its name was durable, and then
            // no flush of that name can be believed.
            let _ = self.vfs.remove_dir(live);
        }
        match self.vfs.create_dir(live) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                if is_relied_on {
                    return Ok(());
                }
            }
            Err(error) => return Err(Error::io(live, "create the directory", error)),
        }
        let flush = || self.vfs.flush_dir(self.dir).at(self.dir, "flush the directory");
        let flushed = flush();
        if flushed.is_err() {
            // Its name may never become durable, whatever a later flush says: the next attempt makes another one.
            let _ = self.vfs.remove_dir(live);
        }
        flushed
    }
}

/// Removes bitmaps that were written for a manifest that could not be. (A rename may report failure and have happened.)
pub(crate) fn discard_unlisted(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest, names: &[BitmapName]) {
    if Manifest::read(vfs, dir).is_ok_and(|there| there.generation != manifest.generation) {
        discard(vfs, dir, names);
    }
}

fn discard(vfs: &dyn Vfs, dir: &Path, names: &[BitmapName]) {
    let live = dir.join(LIVE);
    names.iter().for_each(|name| remove_own(vfs, &live.join(name.to_string())));
}

/// Removes those of `names` that neither this manifest nor a named checkpoint lists; says how many went. An unreadable
/// checkpoint is an error, for nobody knows what it needs.
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
    for version in named::read_all(vfs, dir)? {
        let pinned = named(&version.manifest.body);
        names.retain(|name| !pinned.contains(name));
    }
    discard(vfs, dir, &names);
    Ok(names.len())
}
