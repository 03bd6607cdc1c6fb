//! Writing derived files: durable before a manifest lists them; and removing those that none does.

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

/// A derived file that is written and flushed, and has no name yet.
#[derive(Debug)]
pub(crate) struct Pending {
    tmp: PathBuf,
    record: DerivedRecord,
}

/// What a derived file is and holds.
pub(super) struct Content {
    pub kind: Kind,
    pub facts: [u64; 8],
    /// What the manifest notes of it.
    pub note: u64,
    pub body: Vec<u64>,
}

impl Pending {
    /// Writes a file about a segment under a temporary name that begins with `prefix`, and flushes it.
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

    /// Gives it its name, which is durable once the directory has been flushed. Under the manifest lock: what has a name and
    /// is not listed is removed.
    pub fn name(self, vfs: &dyn Vfs, dir: &Path) -> Result<DerivedRecord> {
        let path = dir.join(DERIVED).join(self.record.name().to_string());
        let named = vfs.rename_noreplace(&self.tmp, &path);
        named.inspect_err(|_| remove_own(vfs, &self.tmp)).at(&path, "name a derived file")?;
        Ok(self.record)
    }

    /// The same, and makes the name durable.
    pub fn publish(self, vfs: &dyn Vfs, dir: &Path) -> Result<DerivedRecord> {
        let record = self.name(vfs, dir)?;
        let folder = dir.join(DERIVED);
        // It is not listed, and goes: a later name is another one.
        let flushed = vfs.flush_dir(&folder).inspect_err(|_| discard(vfs, dir, &[record.name()]));
        flushed.at(&folder, "flush the directory")?;
        Ok(record)
    }
}

/// Makes the derived files durable that a view lacks whose segments are those that `body` lists: filters, and if `bitmaps`
/// is set, a complete set of bitmaps for a view that knows every kill. Files that `body` lists, as is on disk, and that are
/// still right are kept, the others are written; then it lists those. Returns the names of the written ones.
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

/// Writes the files that are missing, and adds their names to `written`.
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
        // Only what the manifest on disk lists is known to be there: everything else may be removed at any time.
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
        // A manifest only lists names that are durable. If this fails they are never listed: the next attempt
        // gives other names.
        let folder = dir.join(DERIVED);
        vfs.flush_dir(&folder).at(&folder, "flush the directory")?;
    }
    Ok(())
}

/// The bitmap of a segment that knows every kill up to a commit.
fn bitmap_of(segment: &Segment, dead: &Dead, through: u64) -> Result<Content> {
    let footer = segment.footer();
    let [a, b, c, d] = dead.kinds;
    let facts = [footer.entries, footer.rows, a, b, c, d, dead.row_count, through];
    Ok(Content { kind: LIVE, facts, note: dead.entry_count(), body: dead.sets()?.words() })
}

/// Files were written, and a manifest lists them: those of the view that are damaged are not to be written again.
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

/// Removes files that were written for a manifest that could not be. (A rename may report failure and have
/// happened.)
pub(crate) fn discard_unlisted(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest, names: &[DerivedName]) {
    if Manifest::read(vfs, dir).is_ok_and(|there| there.generation != manifest.generation) {
        discard(vfs, dir, names);
    }
}

fn discard(vfs: &dyn Vfs, dir: &Path, names: &[DerivedName]) {
    let folder = dir.join(DERIVED);
    names.iter().for_each(|name| remove_own(vfs, &folder.join(name.to_string())));
}

/// Removes those of `names` that neither this manifest nor a version lists; says how many went. An unreadable version is an
/// error, for it may need any of them.
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
