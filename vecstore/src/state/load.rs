//! Builds a view from a store's directory: the manifest, then the segments after it.

use std::path::Path;
use std::sync::Arc;

use crate::base::{Bug, Error, IoContext, Result};
use crate::format::section::{self, Tag};
use crate::segment::{Segment, SegmentName, open_unmapped};
use crate::state::{Manifest, QUARANTINE, View, derived, if_there, tiling};
use crate::vfs::{Careful, Vfs};

/// Directory of the segments within a store.
pub(crate) const SEGMENTS: &str = "segments";

/// Most listings of a directory that changes meanwhile, before the last error counts.
const ATTEMPTS: usize = 10;

/// Names of all segment files of a store, ascending.
pub(crate) fn list_segments(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<SegmentName>> {
    let path = dir.join(SEGMENTS);
    let names = vfs.list(&path).at(&path, "list the segments")?;
    let mut names: Vec<SegmentName> = names.iter().filter_map(|name| SegmentName::parse(name)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Every segment name that a file is known to have had: in `segments/` and `quarantine/`, listed by the
/// manifest or by one of these versions.
pub(crate) fn known_names(
    vfs: &dyn Vfs,
    dir: &Path,
    versions: impl Iterator<Item = Manifest>,
) -> Result<Vec<SegmentName>> {
    let mut names = list_segments(vfs, dir)?;
    let folder = dir.join(QUARANTINE);
    let quarantined = if_there(vfs.list(&folder)).at(&folder, "list the quarantined files")?;
    names.extend(quarantined.iter().flatten().filter_map(|name| SegmentName::parse(name)));
    for manifest in versions.chain([Manifest::read(vfs, dir)?]) {
        names.extend(manifest.body.names());
    }
    Ok(names)
}

/// The name of a new file for these commits, with a higher generation than any of the `known` names for them.
pub(crate) fn next_generation(known: &[SegmentName], first: u64, last: u64) -> SegmentName {
    let of_range = known.iter().filter(|name| (name.first, name.last) == (first, last));
    let generation = of_range.map(|name| name.generation.saturating_add(1)).max().unwrap_or(0);
    SegmentName { first, last, generation }
}

/// Reads the store's state. Segments that `known` has are reused, not mapped again.
///
/// Takes no lock: a listing is not atomic, and a merge may replace files meanwhile. After a gap, or when a
/// file went away between listing and mapping, the directory is therefore listed again: only if manifest and
/// listing stay the same is it an error.
pub(crate) fn load(vfs: &dyn Vfs, dir: &Path, known: Option<&View>) -> Result<View> {
    load_until(vfs, dir, known, u64::MAX)
}

/// As [`load`], without mapping files, for copying the segments. Reads only the tables that say how segments
/// follow each other and which entries are superseded. An unreadable sector is an error.
pub(crate) fn load_unmapped(vfs: &dyn Vfs, dir: &Path) -> Result<View> {
    const TABLES: [Tag; 5] = [section::KIND, section::REND, section::KILL, section::RUNS, section::SETT];
    let open = |path: &Path, name| open_unmapped(vfs, path, name, &TABLES);
    Source { vfs: &Careful::copying(vfs), dir, known: None, open: &open }.load_until(u64::MAX)
}

/// As [`load`], without the commits after `until` that the manifest does not list.
pub(crate) fn load_until(vfs: &dyn Vfs, dir: &Path, known: Option<&View>, until: u64) -> Result<View> {
    Source { vfs, dir, known, open: &|path, name| Segment::open(vfs, path, name) }.load_until(until)
}

/// The state that a manifest lists, and nothing after it. Segments that `known` has are reused.
pub(crate) fn listed(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest, known: Option<&View>) -> Result<View> {
    let source = Source { vfs, dir, known, open: &|path, name| Segment::open(vfs, path, name) };
    let mut view = View::empty(manifest);
    source.fill(manifest, &mut view, manifest.body.names(), true)?;
    Ok(view)
}

/// Leaves out files beyond the manifest of a backup: a backup that is under way, or was interrupted, brought
/// them.
pub(crate) fn count_for(manifest: &Manifest, names: &mut Vec<SegmentName>) {
    if manifest.body.is_backup && !Bug::ReadBeyondBackup.is_on() {
        names.retain(|name| name.last <= manifest.body.last_commit());
    }
}

/// True for errors that a writer or merger at work can cause in a reader that looks at the wrong moment. A
/// merge that replaces files between the reading of the manifest and the listing makes a file look foreign.
pub(crate) fn is_motion(error: &Error) -> bool {
    match error {
        Error::MissingSegment { .. } | Error::ForeignSegment { .. } => true,
        Error::Io { cause, .. } => cause.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Source of a view.
struct Source<'a> {
    vfs: &'a dyn Vfs,
    dir: &'a Path,
    /// An earlier view, whose segments are reused.
    known: Option<&'a View>,
    open: &'a dyn Fn(&Path, SegmentName) -> Result<Segment>,
}

impl Source<'_> {
    fn load_until(&self, until: u64) -> Result<View> {
        let mut before: Option<(u64, Vec<SegmentName>)> = None;
        let mut horizon: Option<u64> = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let manifest = Manifest::read(self.vfs, self.dir)?;
            let mut names = list_segments(self.vfs, self.dir)?;
            count_for(&manifest, &mut names);
            names.retain(|name| name.last <= until.max(manifest.body.last_commit()));
            // A listing may miss a file and show newer ones. All files of the first listing were there before
            // the second began, so up to the newest of them the second has only real gaps; later files are
            // left out.
            let newest = names.iter().map(|name| name.last).max().unwrap_or(0);
            let horizon = (*horizon.get_or_insert(newest)).max(manifest.body.last_commit());
            names.retain(|name| name.last <= horizon);
            let seen = (manifest.generation, names);
            let again = before.as_ref() == Some(&seen) || attempt >= ATTEMPTS;
            match self.try_load(&manifest, &seen.1, again) {
                Ok(view) => return Ok(view),
                Err(error) if again || !is_motion(&error) => return Err(error),
                Err(_) => before = Some(seen),
            }
        }
    }

    fn try_load(&self, manifest: &Manifest, names: &[SegmentName], last_look: bool) -> Result<View> {
        let (known, dir, segments) = (self.known, self.dir, self.dir.join(SEGMENTS));
        if known.is_some_and(|known| known.meta.store_id != manifest.body.store_id) {
            return Err(Error::Moved { path: dir.to_owned(), found: "another store was put in its place" });
        }
        let lists: Vec<SegmentName> = manifest.body.names().collect();
        let chosen = tiling::choose(&segments, &lists, names)?;
        // Usually only commits were added since `known` was loaded: then its segments and superseded entries
        // are kept.
        let mut view = View::empty(manifest);
        if let Some(known) = known.filter(|known| continues(known, &view, &chosen)) {
            view.take_over(known);
        }
        self.fill(manifest, &mut view, chosen.into_iter(), last_look)?;
        // Commits never go away: if `known` has more of them, a file is missing, even if no later file shows
        // the gap.
        if let Some(known) = known.filter(|known| known.last_commit() > view.last_commit()) {
            log::debug!("{}: commit {} was there and is not any more", dir.display(), known.last_commit());
            return Err(Error::MissingSegment { path: segments, commit: view.last_commit() + 1 });
        }
        Ok(view)
    }

    /// Adds the `chosen` segments that a view lacks, with their superseded entries: from the manifest's
    /// bitmaps as far as they go, from kills after that. If the view has segments, their superseded entries
    /// are known, and only the kills of new segments are replayed.
    fn fill(
        &self,
        manifest: &Manifest,
        view: &mut View,
        chosen: impl Iterator<Item = SegmentName>,
        last_look: bool,
    ) -> Result<()> {
        let mut segments = Vec::new();
        for name in chosen.skip(view.segments.len()) {
            let path = self.dir.join(SEGMENTS).join(name.to_string());
            let same = self.known.and_then(|known| known.open_segment(name, &path));
            segments.push(same.map_or_else(|| (self.open)(&path, name).map(Arc::new), Ok)?);
        }
        // Known segments are included: the checkpoint that wrote their filters may be newer than they are.
        let known = view.segments.iter().map(|live| &live.segment);
        derived::attach(self.vfs, self.dir, &manifest.body, known.chain(&segments));
        let mut dead = Vec::new();
        if view.segments.is_empty() {
            match derived::covered(self.vfs, self.dir, &manifest.body, &segments, last_look)? {
                Some(known) => dead = known,
                None => view.distrusts_bitmaps = true,
            }
        }
        let mut dead = dead.into_iter();
        for segment in segments {
            let listed = manifest.body.record_of(segment.name());
            match dead.next() {
                Some(dead) => view.add_covered(segment, listed, dead)?,
                None => view.add(segment, listed)?,
            }
        }
        Ok(())
    }
}

/// True if the chosen files begin with those of the known view, if there are any, and store and epochs are
/// the same.
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

    /// Known superseded entries are kept only while the known segments are the first ones of the very same
    /// store and history.
    #[test]
    fn a_known_view_is_kept_while_commits_are_added() {
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
