//! Writing derived files, which are durable before a manifest lists them, and removing unlisted ones.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::dead::Dead;
use super::filters::filter_of;
use super::{DERIVED, DerivedName, DerivedRecord, list_in, named, record_of};
use crate::base::{IoContext, Result};
use crate::format::derived::{Header, KEYF, Kind, LIVE};
use crate::format::random_id;
use crate::segment::{KeyFilter, Segment};
use crate::state::temporaries::{TMP_PREFIX, make_folder, remove_own, write_new};
use crate::state::{Body, Manifest, View, versions};
use crate::vfs::Vfs;

/// A derived file that is written and flushed, but has no final name yet.
#[derive(Debug)]
pub(crate) struct Pending {
    tmp: PathBuf,
    record: DerivedRecord,
}

/// Kind and content of a derived file.
pub(super) struct Content {
    pub kind: Kind,
    pub facts: [u64; 8],
    /// The number that the manifest notes for the file.
    pub note: u64,
    pub body: Vec<u64>,
}

impl Pending {
    /// Writes and flushes a file about a segment, under a temporary name that begins with `prefix`.
    pub(super) fn write(
        vfs: &dyn Vfs,
        dir: &Path,
        prefix: &str,
        segment: &Segment,
        content: &Content,
    ) -> Result<Self> {
        let Content { kind, facts, note, body } = content;
        let body: &[u8] = bytemuck::cast_slice(body);
        let version = u64::from_le_bytes(random_id()?.first_chunk().copied().unwrap_or_default());
        let footer = segment.footer();
        let mut header = Header::of(footer, *kind, version, *facts);
        let crcs = header.seal(body);
        let folder = dir.join(DERIVED);
        let (tmp, ()) = write_new(vfs, (&folder, prefix), header.file_len, "write a derived file", |file| {
            file.write_all(bytemuck::bytes_of(&header))?;
            file.write_all(body)?;
            file.write_all(bytemuck::cast_slice(&crcs))?;
            file.flush()
        })?;
        let record = DerivedRecord {
            segment: segment.name(),
            kind: *kind,
            footer_crc: footer.crc,
            crc: header.crc,
            version,
            file_len: header.file_len,
            note: *note,
        };
        Ok(Pending { tmp, record })
    }

    /// Gives the file its final name, which is durable once the directory has been flushed. Called under the
    /// manifest lock, whose holders remove files that have a name and are not listed.
    pub fn name(self, vfs: &dyn Vfs, dir: &Path) -> Result<DerivedRecord> {
        let path = dir.join(DERIVED).join(self.record.name().to_string());
        let named = vfs.rename_noreplace(&self.tmp, &path);
        named.inspect_err(|_| remove_own(vfs, &self.tmp)).at(&path, "name a derived file")?;
        Ok(self.record)
    }

    /// Gives the file its final name and makes the name durable. Called under the manifest lock.
    pub fn publish(self, vfs: &dyn Vfs, dir: &Path) -> Result<DerivedRecord> {
        let record = self.name(vfs, dir)?;
        let folder = dir.join(DERIVED);
        // The file is not listed, so it is removed: a later attempt chooses another name.
        let flushed = vfs.flush_dir(&folder).inspect_err(|_| discard(vfs, dir, &[record.name()]));
        flushed.at(&folder, "flush the directory")?;
        Ok(record)
    }
}

/// Makes durable the derived files that a view lacks: filters and, if `bitmaps` is set, a complete set of
/// bitmaps, for which the view must know every kill. `body` lists the view's segments and, as on disk,
/// derived files: files that are still right are kept, the others are written and listed. Returns the names
/// of the written files.
///
/// Called under the manifest lock.
pub(crate) fn publish(
    vfs: &dyn Vfs,
    dir: &Path,
    body: &mut Body,
    view: &View,
    bitmaps: bool,
) -> Result<Vec<DerivedName>> {
    let mut written = Vec::new();
    let mut listed = body.clone();
    bring(vfs, dir, &mut listed, view, bitmaps, &mut written).inspect_err(|_| discard(vfs, dir, &written))?;
    *body = listed;
    Ok(written)
}

/// Writes the missing files, and adds their names to `written`.
fn bring(
    vfs: &dyn Vfs,
    dir: &Path,
    body: &mut Body,
    view: &View,
    bitmaps: bool,
    written: &mut Vec<DerivedName>,
) -> Result<()> {
    let is_relied_on = !body.derived.is_empty();
    let mut records = Vec::new();
    let mut write = |segment: &Segment, content: &Content| {
        if written.is_empty() {
            make_folder(vfs, dir, DERIVED, is_relied_on)?;
        }
        let record = Pending::write(vfs, dir, TMP_PREFIX, segment, content)?.name(vfs, dir)?;
        written.push(record.name());
        records.push(record);
        Ok(())
    };
    for live in view.segments.iter().filter(|live| live.segment.lacks_filter()) {
        write(&live.segment, &filter_of(&live.segment))?;
    }
    let mut stale = Vec::new();
    if bitmaps {
        // Only files that the manifest on disk lists are known to exist: any other may be removed at any
        // time.
        let kept_for = |segment: &Segment, dead: &Dead| {
            let kept = record_of(body, segment.name(), LIVE).filter(|_| !view.distrusts_bitmaps);
            kept.is_some_and(|kept| kept.note == dead.entry_count()) && !dead.is_damaged()
        };
        for live in &view.segments {
            match &live.dead {
                Some(dead) if kept_for(&live.segment, dead) => {}
                Some(dead) => {
                    write(&live.segment, &bitmap_of(&live.segment, dead, view.last_commit())?)?;
                }
                None => stale.push(live.segment.name()),
            }
        }
        body.derived.retain(|record| record.kind != LIVE || !stale.contains(&record.segment));
        body.live_last = view.last_commit();
    }
    list_in(body, records);
    if !written.is_empty() {
        // A manifest lists only durable names. If this flush fails, the files are never listed, and the next
        // attempt chooses other names.
        let folder = dir.join(DERIVED);
        vfs.flush_dir(&folder).at(&folder, "flush the directory")?;
    }
    Ok(())
}

/// The bitmap of a segment that contains every kill up to commit `through`.
fn bitmap_of(segment: &Segment, dead: &Dead, through: u64) -> Result<Content> {
    let footer = segment.footer();
    let [a, b, c, d] = dead.kinds;
    let facts = [footer.entries, footer.rows, a, b, c, d, dead.row_count, through];
    Ok(Content { kind: LIVE, facts, note: dead.entry_count(), body: dead.sets()?.words() })
}

/// Records that a manifest lists the `written` files: damaged files of the view that they replace are not
/// written again.
pub(crate) fn note_written(view: &View, written: &[DerivedName]) {
    let has = |segment: &Segment, kind| {
        written.iter().any(|name| (name.segment, name.kind) == (segment.name(), kind))
    };
    for live in &view.segments {
        let filter = live.segment.filter().and_then(KeyFilter::file);
        if let Some(file) = filter.filter(|file| file.is_damaged() && has(&live.segment, KEYF)) {
            file.note_replaced();
        }
        if let Some(dead) = live.dead.as_ref().filter(|dead| dead.is_damaged() && has(&live.segment, LIVE)) {
            dead.note_replaced();
        }
    }
}

/// Removes files that were written for a manifest that could not be. They stay if that manifest is on disk: a
/// rename may report failure and have happened.
pub(crate) fn discard_unlisted(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest, names: &[DerivedName]) {
    if Manifest::read(vfs, dir).is_ok_and(|there| there.generation != manifest.generation) {
        discard(vfs, dir, names);
    }
}

fn discard(vfs: &dyn Vfs, dir: &Path, names: &[DerivedName]) {
    let folder = dir.join(DERIVED);
    names.iter().for_each(|name| remove_own(vfs, &folder.join(name.to_string())));
}

/// Removes the files among `names` that neither this manifest nor a version lists; returns how many. An
/// unreadable version is an error, for it may need any of them.
///
/// Called under the manifest lock, with the manifest that is on disk, its name durable.
pub(crate) fn remove_unlisted(
    vfs: &dyn Vfs,
    dir: &Path,
    manifest: &Manifest,
    mut names: Vec<DerivedName>,
) -> Result<usize> {
    let listed: HashSet<DerivedName> = named(&manifest.body).into_iter().collect();
    names.retain(|name| !listed.contains(name));
    if names.is_empty() {
        return Ok(0);
    }
    for version in versions::read_all(vfs, dir)? {
        let pinned: HashSet<DerivedName> = named(&version.manifest.body).into_iter().collect();
        names.retain(|name| !pinned.contains(name));
    }
    discard(vfs, dir, &names);
    Ok(names.len())
}
