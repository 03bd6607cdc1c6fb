//! Builds a view from what is on disk: the manifest, then the segments after it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::base::{Bug, Error, IoContext, Result};
use crate::format::section::{self, Tag};
use crate::segment::{Segment, SegmentName, open_unmapped};
use crate::state::{Covered, Manifest, SegmentRecord, Tiling, View, live, tiling};
use crate::vfs::{Copying, Vfs};

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
    load_until(vfs, dir, known, u64::MAX)
}

/// The same without mapping a file, for whoever only copies the segments: of these no more is read than what says how they
/// follow each other and what is superseded. A sector that cannot be read is an error.
pub(crate) fn load_unmapped(vfs: &dyn Vfs, dir: &Path) -> Result<View> {
    const TABLES: [Tag; 5] = [section::KIND, section::REND, section::KILL, section::RUNS, section::SETT];
    load_by(&Copying(vfs), dir, None, u64::MAX, &|path, name| open_unmapped(vfs, path, name, &TABLES))
}

/// How a segment is opened.
type Open<'a> = &'a dyn Fn(&Path, SegmentName) -> Result<Segment>;

/// The same without the commits after `until`, unless the manifest lists them.
pub(crate) fn load_until(vfs: &dyn Vfs, dir: &Path, known: Option<&View>, until: u64) -> Result<View> {
    load_by(vfs, dir, known, until, &|path, name| Segment::open(vfs, path, name))
}

fn load_by(vfs: &dyn Vfs, dir: &Path, known: Option<&View>, until: u64, open: Open<'_>) -> Result<View> {
    let mut before: Option<(u64, Vec<SegmentName>)> = None;
    let mut horizon: Option<u64> = None;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let manifest = Manifest::read(vfs, dir)?;
        let mut names = list_segments(vfs, dir)?;
        // What a listing shows beyond a gap may be newer than the listing itself. Whatever the first one showed was
        // there before the second began, so up to that point the second has no gaps but real ones.
        count_for(&manifest, &mut names);
        names.retain(|name| name.last <= until.max(manifest.body.last_commit()));
        let newest = names.iter().map(|name| name.last).max().unwrap_or(0);
        let horizon = (*horizon.get_or_insert(newest)).max(manifest.body.last_commit());
        names.retain(|name| name.last <= horizon);
        let seen = (manifest.generation, names);
        let again = before.as_ref() == Some(&seen) || attempt >= ATTEMPTS;
        match try_load(vfs, dir, &manifest, &seen.1, known, open, again) {
            Ok(view) => return Ok(view),
            Err(error) if again || !is_motion(&error) => return Err(error),
            Err(_) => before = Some(seen),
        }
    }
}

/// A backup ends with its manifest: files beyond it were brought by a backup that is under way, or was interrupted.
pub(crate) fn count_for(manifest: &Manifest, names: &mut Vec<SegmentName>) {
    if manifest.body.is_backup() && !Bug::ReadBeyondBackup.is_on() {
        names.retain(|name| name.last <= manifest.body.last_commit());
    }
}

/// Errors that a writer or merger at work can cause in a reader that looks at the wrong moment.
pub(crate) fn is_motion(error: &Error) -> bool {
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
    open: Open<'_>,
    last_look: bool,
) -> Result<View> {
    let records = &manifest.body.segments;
    let lists: Vec<SegmentName> = records.iter().map(SegmentRecord::name).collect();
    if known.is_some_and(|known| known.meta.store_id != manifest.body.store_id) {
        return Err(Error::Moved { path: dir.to_owned(), found: "another store was put in its place" });
    }
    let chosen = choose(dir, &lists, names)?;
    let listed: HashMap<SegmentName, &SegmentRecord> =
        records.iter().map(|record| (record.name(), record)).collect();

    // Usually nothing but commits has been added since: then all that is known stays.
    let mut view = View::empty(manifest);
    if let Some(known) = known.filter(|known| continues(known, &view, &chosen)) {
        view.segments = known.segments.clone();
        view.totals = known.totals;
        view.distrusts_bitmaps = known.distrusts_bitmaps;
    }
    let mut segments = Vec::new();
    for name in chosen.into_iter().skip(view.segments.len()) {
        segments.push((known_or(open, dir, name, known)?, listed.get(&name).copied()));
    }
    fill(vfs, dir, manifest, &mut view, segments, last_look)?;
    // Commits never go away; a file that did is missing even if nothing was named after it.
    if let Some(known) = known.filter(|known| known.last_commit() > view.last_commit()) {
        log::debug!("{}: commit {} was there and is not any more", dir.display(), known.last_commit());
        return Err(Error::MissingSegment { path: dir.join(SEGMENTS), commit: view.last_commit() + 1 });
    }
    Ok(view)
}

/// The files to read, in order, or the error that says which is missing or too many.
pub(crate) fn choose(dir: &Path, lists: &[SegmentName], names: &[SegmentName]) -> Result<Vec<SegmentName>> {
    let segments = dir.join(SEGMENTS);
    match tiling::choose(lists, names) {
        Tiling::Whole(chosen) => Ok(chosen),
        Tiling::Gap(commit) => Err(Error::MissingSegment { path: segments, commit }),
        Tiling::Overlap(name) => Err(Error::ForeignSegment {
            path: segments.join(name.to_string()),
            detail: "it overlaps other segments and is no merge of them".to_owned(),
        }),
    }
}

/// The state that a manifest lists, and nothing after it. Segments that `known` holds are used again.
pub(crate) fn listed(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest, known: Option<&View>) -> Result<View> {
    let mut segments = Vec::new();
    for record in &manifest.body.segments {
        let open = |path: &Path, name| Segment::open(vfs, path, name);
        segments.push((known_or(&open, dir, record.name(), known)?, Some(record)));
    }
    let mut view = View::empty(manifest);
    fill(vfs, dir, manifest, &mut view, segments, true)?;
    Ok(view)
}

/// The segment of this name: that of a known view, or opened now.
fn known_or(open: Open<'_>, dir: &Path, name: SegmentName, known: Option<&View>) -> Result<Arc<Segment>> {
    let path = dir.join(SEGMENTS).join(name.to_string());
    match known.and_then(|known| known.open_segment(name, &path)) {
        Some(segment) => Ok(segment),
        None => open(&path, name).map(Arc::new),
    }
}

/// Adds segments to a view, with what is superseded: from the manifest's bitmaps as far as they go, from kills after
/// that. A view that is not empty knows what is superseded in its segments, so new ones are only replayed.
fn fill(
    vfs: &dyn Vfs,
    dir: &Path,
    manifest: &Manifest,
    view: &mut View,
    segments: Vec<(Arc<Segment>, Option<&SegmentRecord>)>,
    last_look: bool,
) -> Result<()> {
    let covered = if view.segments.is_empty() {
        let opened: Vec<Arc<Segment>> = segments.iter().map(|(segment, _)| Arc::clone(segment)).collect();
        live::covered(vfs, dir, &manifest.body, &opened, last_look)?
    } else {
        Covered::Nothing
    };
    view.distrusts_bitmaps |= matches!(covered, Covered::Distrusted);
    let dead = if let Covered::Known(dead) = covered { dead } else { Vec::new() };
    let mut dead = dead.into_iter();
    for (segment, listed) in segments {
        match dead.next() {
            Some(dead) => view.add_covered(segment, listed, dead)?,
            None => view.add(segment, listed)?,
        }
    }
    Ok(())
}

/// True when the chosen files begin with those of the known view, of the same store, and there are any.
fn continues(known: &View, new: &View, chosen: &[SegmentName]) -> bool {
    !known.segments.is_empty()
        && known.meta.store_id == new.meta.store_id
        && known.meta.epochs == new.meta.epochs
        && known.segments.len() <= chosen.len()
        && known.segments.iter().zip(chosen).all(|(live, name)| live.segment.name() == *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Store;
    use crate::types::{OnDuplicate, StoreConfig};
    use crate::vfs::RealFs;

    /// What is known of the superseded entries of segments stays only while these are the first of the very same store.
    #[test]
    fn what_is_known_stays_while_commits_are_added() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = Store::create(&path, StoreConfig::new(1)).unwrap();
        for key in ["a", "b"] {
            let mut batch = store.batch();
            batch.push(key, &[1.0f32]).unwrap();
            store.append(&mut batch, OnDuplicate::Error).unwrap();
        }
        let known = load(&RealFs, &path, None).unwrap();
        let manifest = Manifest::read(&RealFs, &path).unwrap();
        let empty = View::empty(&manifest);
        let [one, two] = [1, 2].map(|commit| SegmentName { first: commit, last: commit, generation: 0 });
        let three = SegmentName { first: 3, last: 3, generation: 0 };
        assert!(continues(&known, &empty, &[one, two]));
        assert!(continues(&known, &empty, &[one, two, three]));
        assert!(!continues(&known, &empty, &[one]), "one is gone");
        assert!(
            !continues(&known, &empty, &[one, SegmentName { generation: 1, ..two }, three]),
            "one was rewritten"
        );
        assert!(!continues(&empty, &empty, &[one, two]), "nothing is known");
        let changed = |change: fn(&mut Manifest)| {
            let mut manifest = manifest.clone();
            change(&mut manifest);
            continues(&known, &View::empty(&manifest), &[one, two])
        };
        assert!(!changed(|manifest| manifest.body.store_id[0] ^= 1), "another store");
        assert!(!changed(|manifest| manifest.body.begin_epoch().unwrap()), "another history");
    }
}
