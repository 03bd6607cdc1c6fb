//! What `verify` does with bitmaps: reads every byte, and holds them against the kills.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::read::{is_absent, open};
use super::{BitmapName, Dead, LIVE, LiveRecord, RECORD, named};
use crate::base::{Error, IoContext, Result};
use crate::format::records::count;
use crate::segment::{Segment, SegmentName};
use crate::state::{LiveSegment, MANIFEST, Manifest, View, if_there, named};
use crate::vfs::Vfs;

/// What is wrong with the bitmaps of a store.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// File, section and what is wrong.
    pub faults: Vec<(PathBuf, &'static str, Error)>,
    /// Files that nothing needs.
    pub notes: Vec<String>,
    /// A bitmap that MANIFEST lists is not there: a checkpoint may have replaced both.
    pub missing: bool,
    /// Bitmaps that were read.
    pub read: HashSet<BitmapName>,
}

/// Checks the bitmaps of MANIFEST and of the versions. `opened` are the segments that could be
/// opened.
pub(crate) fn check(
    vfs: &dyn Vfs,
    dir: &Path,
    manifest: &Manifest,
    opened: &HashMap<SegmentName, Arc<Segment>>,
) -> Checked {
    let mut check = Check { vfs, dir, opened, checked: Checked::default() };
    let mut needed: HashSet<BitmapName> = named(&manifest.body).into_iter().collect();
    check.manifest(&dir.join(MANIFEST), manifest, None);
    let names = versions::names(vfs, dir).unwrap_or_else(|error| {
        check.checked.faults.push((dir.join(named::VERSIONS), "file", error));
        Vec::new()
    });
    for name in names {
        let path = dir.join(named::VERSIONS).join(&name);
        match versions::read(vfs, dir, &name) {
            Ok(version) => {
                needed.extend(named(&version.body));
                check.manifest(&path, &version, Some(&name));
            }
            // Dropped meanwhile.
            Err(Error::BadInput { .. }) => {}
            Err(error) => check.checked.faults.push((path, "manifest", error)),
        }
    }
    let mut checked = check.checked;
    let live = dir.join(LIVE);
    let names = if_there(vfs.list(&live)).at(&live, "list the bitmaps").unwrap_or_else(|error| {
        checked.faults.push((live.clone(), "file", error));
        None
    });
    for name in names.into_iter().flatten() {
        let what = match BitmapName::parse(&name) {
            Some(name) if needed.contains(&name) => continue,
            Some(_) => "a bitmap that nothing needs any more",
            None => "not a bitmap, ignored",
        };
        checked.notes.push(format!("{}: {what}", live.join(&name).display()));
    }
    checked
}

struct Check<'a> {
    vfs: &'a dyn Vfs,
    dir: &'a Path,
    opened: &'a HashMap<SegmentName, Arc<Segment>>,
    checked: Checked,
}

impl Check<'_> {
    /// Checks the bitmaps that a manifest lists; `name` is that of the checkpoint it belongs to.
    fn manifest(&mut self, path: &Path, manifest: &Manifest, name: Option<&str>) {
        let body = &manifest.body;
        let Some(record) = LiveRecord::of(body) else {
            if body.extra.contains_key(RECORD) {
                let what = "its record of liveness bitmaps is not about its segments (an older program changed them)";
                self.checked.notes.push(format!("{}: {what}; it is not used", path.display()));
            }
            return;
        };
        let replayed = self.replay(manifest, record.last);
        for bitmap in &record.bitmaps {
            let Some(segment) = self.opened.get(&bitmap.segment) else {
                // A listed segment that cannot be opened is reported; its bitmap is of no use.
                if body.record_of(bitmap.segment).is_none() {
                    let name = bitmap.name();
                    self.wrong(path, format!("it lists the bitmap {name} of a segment it does not list"));
                }
                continue;
            };
            let file = self.dir.join(LIVE).join(bitmap.name().to_string());
            self.checked.read.insert(bitmap.name());
            let found = open(self.vfs, self.dir, bitmap, segment);
            let absent = found.as_ref().is_err_and(is_absent);
            let read_again = |name| versions::read(self.vfs, self.dir, name);
            if absent && matches!(name.map(read_again), Some(Err(Error::BadInput { .. }))) {
                return;
            }
            self.checked.missing |= absent && name.is_none();
            let compare = |dead| replayed.as_ref().map_or(Ok(()), |all| compare(&file, segment, &dead, all));
            if let Err(error) = found.and_then(compare) {
                self.fault(&file, if absent { "file" } else { "bitmap" }, error);
            }
        }
        for live in replayed.iter().flat_map(|(least, _)| least) {
            let name = live.segment.name();
            if live.dead.is_some() && record.bitmap_of(name).is_none() {
                self.wrong(path, format!("it lists no bitmap for {name}, which has superseded entries"));
            }
        }
    }

    fn wrong(&mut self, path: &Path, detail: String) {
        self.fault(path, "manifest", Error::damaged(path, "manifest", detail));
    }

    /// A bitmap of MANIFEST may be a version's too: what is wrong with it is told once.
    fn fault(&mut self, path: &Path, section: &'static str, error: Error) {
        if !self.checked.faults.iter().any(|(told, ..)| told == path) {
            self.checked.faults.push((path.to_owned(), section, error));
        }
    }

    /// What the kills say; `None` where segments are missing or wrong.
    fn replay(&self, manifest: &Manifest, last: u64) -> Option<Replayed> {
        let mut view = View::empty(manifest);
        let mut least = Vec::new();
        for record in &manifest.body.segments {
            let segment = self.opened.get(&record.name())?;
            view.add(Arc::clone(segment), Some(record)).ok()?;
            if record.last == last {
                least = view.segments.clone();
            }
        }
        Some((least, view.segments))
    }
}

/// Superseded entries according to the kills: those of the segments that the record is about, which a bitmap
/// has at least; and those of all that are listed, which it has at most.
type Replayed = (Vec<LiveSegment>, Vec<LiveSegment>);

fn compare(path: &Path, segment: &Segment, found: &Dead, (least, most): &Replayed) -> Result<()> {
    let wrong = |detail: &str| Err(Error::damaged(path, "bitmap", detail));
    let of = |segments: &[LiveSegment]| {
        let live = segments.iter().find(|live| live.segment.name() == segment.name());
        live.and_then(|live| live.dead.clone()).unwrap_or_else(|| Arc::new(Dead::none(segment)))
    };
    let within = |a: &Dead, b: &Dead| a.entries.is_subset(&b.entries) && a.rows.is_subset(&b.rows);
    if !within(&of(least), found) {
        return wrong("a superseded entry is not in it");
    }
    if !within(found, &of(most)) {
        return wrong("an entry is in it that nothing supersedes");
    }
    let mut kinds = [0u64; 4];
    for index in found.entries.positions() {
        count(&mut kinds, segment.kind(index)?.code());
    }
    if (kinds, found.rows.positions().count() as u64) != (found.kinds, found.row_count) {
        return wrong("its counts are not those of its bits");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Store;
    use crate::types::{OnDuplicate, StoreConfig};
    use crate::vfs::RealFs;

    /// A record that is about the right segments, and yet names a bitmap of one that is not among them.
    #[test]
    fn a_bitmap_of_a_segment_that_is_not_listed_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = Store::create(&path, StoreConfig::new(1)).unwrap();
        for _ in 0..2 {
            let mut batch = store.batch();
            batch.push("a", &[1.0f32]).unwrap();
            store.append(&mut batch, OnDuplicate::Replace).unwrap();
        }
        store.close().unwrap();
        let mut manifest = Manifest::read(&RealFs, &path).unwrap();
        let mut record = LiveRecord::of(&manifest.body).unwrap();
        let segment = SegmentName { first: 9, last: 9, generation: 0 };
        record.bitmaps.push(super::super::BitmapRecord { segment, ..record.bitmaps[0] });
        record.put(&mut manifest.body).unwrap();
        manifest.write(&RealFs, &path).unwrap();
        let faults = crate::care::verify(&path, |_| {}).unwrap().faults;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].path, path.join(MANIFEST));
        assert!(faults[0].detail.contains("of a segment it does not list"), "{}", faults[0].detail);
    }
}
