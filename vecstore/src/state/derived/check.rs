//! The part of `verify` for derived files: reads every byte, and checks them against the segments.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::filters::open_filter;
use super::read::{is_absent, kind_name, open, open_live};
use super::{DERIVED, Dead, DerivedName, DerivedRecord, named, record_of};
use crate::base::{Error, IoContext, Result};
use crate::format::derived::{KEYF, LIVE};
use crate::format::records::{Kill, count};
use crate::format::section::{HASH, RUNS, SETT};
use crate::segment::{DerivedFile, Segment, SegmentName, open_unmapped};
use crate::state::{Body, MANIFEST, Manifest, VERSIONS, if_there, versions};
use crate::vfs::Vfs;

/// Result of checking the derived files of a store.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Faults: file, section and error.
    pub faults: Vec<(PathBuf, &'static str, Error)>,
    /// Notes: files that nothing needs, and files of unknown kinds.
    pub notes: Vec<String>,
    /// True if a file that MANIFEST lists is missing: a checkpoint may have replaced both meanwhile.
    pub missing: bool,
    /// Files that were read.
    pub read: HashSet<DerivedName>,
    /// Files that have content that this version ignores.
    pub later: BTreeSet<PathBuf>,
}

/// Checks the derived files of MANIFEST and of the versions. `opened` has the segments that could be opened.
pub(crate) fn check(
    vfs: &dyn Vfs,
    dir: &Path,
    manifest: &Manifest,
    opened: &HashMap<SegmentName, Arc<Segment>>,
) -> Checked {
    let mut check = Check { vfs, dir, opened, checked: Checked::default() };
    let mut needed: HashSet<DerivedName> = named(&manifest.body).into_iter().collect();
    check.manifest(&dir.join(MANIFEST), manifest, None);
    let names = versions::names(vfs, dir).unwrap_or_else(|error| {
        check.checked.faults.push((dir.join(VERSIONS), "file", error));
        Vec::new()
    });
    for name in names {
        let path = dir.join(VERSIONS).join(&name);
        match versions::read(vfs, dir, &name) {
            Ok(version) => {
                needed.extend(named(&version.body));
                check.checked.later.extend(Manifest::says_more(vfs, &path).then(|| path.clone()));
                check.manifest(&path, &version, Some(&name));
            }
            // The version was removed meanwhile.
            Err(Error::NoSuchVersion { .. }) => {}
            Err(error) => check.checked.faults.push((path, "manifest", error)),
        }
    }
    let mut checked = check.checked;
    let folder = dir.join(DERIVED);
    let names = if_there(vfs.list(&folder)).at(&folder, "list the derived files").unwrap_or_else(|error| {
        checked.faults.push((folder.clone(), "file", error));
        None
    });
    for name in names.into_iter().flatten() {
        let what = match DerivedName::parse(&name) {
            Some(name) if needed.contains(&name) => continue,
            Some(_) => "a derived file that nothing needs any more",
            None => "not a derived file, ignored",
        };
        checked.notes.push(format!("{}: {what}", folder.join(&name).display()));
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
    /// Checks the files that a manifest lists. `name` is the name of its version, `None` for MANIFEST.
    fn manifest(&mut self, path: &Path, manifest: &Manifest, name: Option<&str>) {
        let body = &manifest.body;
        let kills = self.kills(body);
        for record in &body.derived {
            // A listed segment that cannot be opened is reported elsewhere; its derived files are of no use.
            let Some(segment) = self.opened.get(&record.segment) else { continue };
            let file = self.dir.join(DERIVED).join(record.name().to_string());
            self.checked.read.insert(record.name());
            let opened = open(self.vfs, self.dir, record, segment);
            if opened.as_ref().is_ok_and(|opened| opened.header().says_more()) {
                self.checked.later.insert(file.clone());
            }
            let found = match record.kind {
                LIVE => self.bitmap(body, record, segment, kills.as_ref()),
                KEYF => self.filter(record, segment),
                kind => opened.and_then(whole).map(|file| {
                    let what = format!("of kind {}, which this version does not know", kind_name(kind));
                    self.checked
                        .notes
                        .push(format!("{}: {what}: only its checksums were compared", file.path().display()));
                }),
            };
            let absent = found.as_ref().is_err_and(is_absent);
            let read_again = |name| versions::read(self.vfs, self.dir, name);
            if absent && matches!(name.map(read_again), Some(Err(Error::NoSuchVersion { .. }))) {
                return;
            }
            self.checked.missing |= absent && name.is_none();
            if let Err(error) = found {
                let section = if absent { "file" } else { "derived" };
                self.fault(&file, section, error);
            }
        }
        for (name, of_segment) in kills.into_iter().flatten() {
            let is_known = |kill: &Kill| kill.killer.max(name.last) <= body.live_last;
            if record_of(body, name, LIVE).is_none() && of_segment.iter().any(is_known) {
                let detail = format!("it lists no bitmap for {name}, which has superseded entries");
                self.fault(path, "manifest", Error::damaged(path, "manifest", detail));
            }
        }
    }

    /// Reports a fault, but only one per file: a file of MANIFEST may be a version's too.
    fn fault(&mut self, path: &Path, section: &'static str, error: Error) {
        if !self.checked.faults.iter().any(|(told, ..)| told == path) {
            self.checked.faults.push((path.to_owned(), section, error));
        }
    }

    /// Checks a bitmap against the kills.
    fn bitmap(
        &self,
        body: &Body,
        record: &DerivedRecord,
        segment: &Arc<Segment>,
        kills: Option<&Kills>,
    ) -> Result<()> {
        let file = whole(open_live(self.vfs, self.dir, body, record, segment)?)?;
        let path = file.path().to_owned();
        let found = Dead::mapped(file, Arc::clone(segment), Arc::default());
        let of_segment = |kills: &Kills| kills.get(&segment.name()).cloned().unwrap_or_default();
        kills.map(of_segment).map_or(Ok(()), |kills| compare(&path, segment, &found, &kills, body.live_last))
    }

    /// Checks a filter against the keys.
    fn filter(&self, record: &DerivedRecord, segment: &Segment) -> Result<()> {
        let filter = open_filter(self.vfs, self.dir, record, segment)?;
        let Some(file) = filter.file() else { return Ok(()) };
        check_blocks(file)?;
        // The opened segments do not keep their hashes, so the segment is read again.
        let segment = open_unmapped(self.vfs, segment.path(), segment.name(), &[HASH, RUNS, SETT])?;
        match segment.hashes().iter().all(|hash| filter.may_have(*hash)) {
            true => Ok(()),
            false => Err(Error::damaged(file.path(), "body", "a key of the segment is not in it")),
        }
    }

    /// The kills of entries that still exist; `None` if segments are missing or wrong.
    fn kills(&self, body: &Body) -> Option<Kills> {
        let mut kills = Kills::new();
        for record in &body.segments {
            for kill in self.opened.get(&record.name())?.checked_kills().ok()? {
                let at = body.segments.partition_point(|segment| segment.last < kill.commit);
                let name = body.segments.get(at)?.name();
                if self.opened.get(&name)?.locate_entry(kill.commit, kill.entry).is_some() {
                    kills.entry(name).or_default().push(*kill);
                }
            }
        }
        Some(kills)
    }
}

/// Kills, by the segment of the entries that they name.
type Kills = HashMap<SegmentName, Vec<Kill>>;

fn whole(file: DerivedFile) -> Result<DerivedFile> {
    check_blocks(&file).map(|()| file)
}

fn check_blocks(file: &DerivedFile) -> Result<()> {
    let damaged = || Error::damaged(file.path(), "body", "a block does not have its checksum");
    file.whole().map(drop).ok_or_else(damaged)
}

/// Checks a bitmap against the kills of its segment's entries: it contains exactly the kills of the commits
/// that it claims to know, and no kill is missing that an opener does not replay.
fn compare(path: &Path, segment: &Segment, found: &Dead, kills: &[Kill], unread: u64) -> Result<()> {
    let wrong = |detail: &str| Err(Error::damaged(path, "bitmap", detail));
    let (mut right, mut least) = (Dead::none(segment), Dead::none(segment));
    for kill in kills {
        if kill.killer <= found.through() {
            right.apply(segment, kill)?;
        }
        if kill.killer <= found.through().max(unread) {
            least.apply(segment, kill)?;
        }
    }
    let (bits, right, least) = (found.sets()?, right.sets()?, least.sets()?);
    if !least.is_subset(&bits) {
        return wrong("a superseded entry is not in it");
    }
    if !bits.is_subset(&right) {
        return wrong("an entry is in it that nothing supersedes");
    }
    let mut kinds = [0u64; 4];
    for index in bits.entries.positions() {
        count(&mut kinds, segment.kind(index)?.code());
    }
    if (kinds, bits.rows.positions().count() as u64) != (found.kinds, found.row_count) {
        return wrong("its counts are not those of its bits");
    }
    Ok(())
}
