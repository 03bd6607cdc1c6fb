//! Reads everything and reports every fault, with file, section, block and keys.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Error, Result, escaped};
use crate::care::attributes::Types;
use crate::lock::LOCK;
use crate::segment::{Segment, SegmentName, check_file};
use crate::state::{
    Checked, DERIVED, MANIFEST, Manifest, SEGMENTS, SegmentRecord, Totals, View, derived, load, tiling,
    versions,
};
use crate::vfs::{Copying, FileKind, RealFs, Vfs};

/// One fault of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// Section of the file, or "footer", "padding", "file", "chain".
    pub section: String,
    /// Block of 64 KiB within the section, from 0, where the fault can be placed.
    pub block: Option<u64>,
    /// What was expected and found.
    pub detail: String,
    /// Keys of the entries it hits, as far as they can be told.
    pub keys: Vec<Vec<u8>>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: section {}", self.path.display(), self.section)?;
        if let Some(block) = self.block {
            write!(f, ", block {block}")?;
        }
        write!(f, ": {}", self.detail)?;
        if let Some(first) = self.keys.first() {
            write!(f, " ({} key(s) hit, the first is \"{}\")", self.keys.len(), escaped(first))?;
        }
        Ok(())
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Everything that is wrong; empty when the store is whole.
    pub faults: Vec<Fault>,
    /// Files that are no part of the store and do no harm (left by a writer that was killed, say).
    pub notes: Vec<String>,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Last commit of the chain, as far as it holds.
    pub last_commit: u64,
    /// Counts over the live entries, as far as the chain holds.
    pub totals: Totals,
}

impl VerifyReport {
    /// True when nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }
}

/// How far a verification is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// Files read so far.
    pub files: u64,
    /// Files there are.
    pub total_files: u64,
    /// Bytes read so far.
    pub bytes: u64,
}

/// Reads every byte of a store and checks it: checksums of all blocks, padding, tables, the chain of
/// segments, the manifest, versions and whether what they list is there, liveness bitmaps. Takes no
/// lock and changes nothing. Files are read, not mapped, a block at a time: what the disk cannot read is a
/// fault that names the bytes and the reason. Takes as much memory as the keys of the largest segment and
/// their index, and about nine bytes for each entry of the store.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// # vecstore::Store::create(&path, vecstore::StoreConfig::new(2))?;
/// let report = vecstore::verify(&path, |_| {})?;
/// assert!(report.is_whole());
/// # Ok::<(), vecstore::Error>(())
/// ```
///
/// # Errors
/// Only when there is nothing to verify: [`Error::NotFound`], [`Error::NotAStore`]. Damage is in the report.
pub fn verify(path: impl AsRef<Path>, progress: impl FnMut(VerifyProgress)) -> Result<VerifyReport> {
    verify_with(&RealFs, path.as_ref(), progress)
}

/// [`verify`] through another file system; for tests.
#[doc(hidden)]
pub fn verify_with(
    vfs: &dyn Vfs,
    dir: &Path,
    mut progress: impl FnMut(VerifyProgress),
) -> Result<VerifyReport> {
    // A sector that cannot be read would end a process that has mapped it.
    let vfs: &dyn Vfs = &Copying(vfs);
    let mut report = VerifyReport::default();
    let mut seen = Seen::default();
    let lock = dir.join(LOCK);
    if vfs.metadata(&lock).is_ok_and(|found| found.kind != FileKind::File) {
        report.fault(&lock, "file", Error::bad_input("expected a regular file"));
    }
    // The last commit that any look has shown; and what the look before found gone.
    let (mut end, mut gone_before) = (0, Vec::new());
    // Writers and mergers may be at work: files that went away while we looked are looked at again, as what
    // took their place.
    let mut rounds = 0..ROUNDS;
    loop {
        if rounds.next().is_none() {
            let detail = format!(
                "files were merged away {ROUNDS} times while they were being read, so the chain of segments was not checked; \
                 verify again while less is written"
            );
            report.told(dir, "chain", detail);
            break;
        }
        let manifest = match Manifest::read(vfs, dir) {
            Ok(manifest) => Some(manifest),
            Err(error @ (Error::NotFound { .. } | Error::NotAStore { .. })) => return Err(error),
            Err(error) => {
                report.fault(&dir.join(MANIFEST), "manifest", error);
                None
            }
        };
        let listed = load::list_segments(vfs, dir);
        report.notes.clear();
        let mut names = segment_names(vfs, dir, &mut report);
        // What the first listing showed was there before the second began: below its newest file there is no
        // gap but a real one.
        match listed {
            Ok(listed) => {
                let newest = listed.iter().map(|name| name.last).max();
                names.retain(|name| Some(name.last) <= newest);
            }
            Err(error) if report.is_whole() => report.fault(&dir.join(SEGMENTS), "file", error),
            Err(_) => {}
        }
        if let Some(manifest) = &manifest {
            load::count_for(manifest, &mut names);
        }
        end = names.iter().map(|name| name.last).fold(end, u64::max);
        let vanished = read_segments(vfs, dir, &names, &mut seen, &mut report, &mut progress);
        let Some(manifest) = manifest else {
            break;
        };
        let moved = || Manifest::read(vfs, dir).is_ok_and(|now| now.generation != manifest.generation);
        let unlisted = |record: &&SegmentRecord| names.binary_search(&record.name()).is_err();
        let missing: Vec<&SegmentRecord> = manifest.body.segments.iter().filter(unlisted).collect();
        // What only a version needed, or a merge had left, goes without a new manifest.
        if !vanished.is_empty() && vanished != gone_before || !missing.is_empty() && moved() {
            gone_before = vanished;
            continue;
        }
        let bitmaps = derived::check(vfs, dir, &manifest, &seen.opened);
        if bitmaps.missing && moved() {
            continue;
        }
        for path in vanished {
            let gone = std::io::ErrorKind::NotFound.into();
            report.fault(&path, "file", Error::io(&path, "read the segment", gone));
        }
        check_ranges(dir, &names, &mut report);
        // Others may stand in for it, so that all can be read; but nothing is merged any more.
        for record in missing {
            let path = dir.join(SEGMENTS).join(record.name().to_string());
            report.told(&path, "file", "the manifest lists it, and it is missing");
        }
        check_chain(dir, &manifest, &names, &seen, &mut report);
        if report.is_whole() && report.last_commit < end {
            let detail = format!("commit {end} was there when this began, and is not any more");
            report.told(dir, "chain", detail);
        }
        check_named(vfs, dir, &seen, &mut report);
        report.add(vfs, dir, bitmaps, &mut seen);
        break;
    }
    let manifest_len = vfs.metadata(&dir.join(MANIFEST)).map_or(0, |found| found.len);
    report.files = seen.read + 1;
    report.bytes = seen.bytes + manifest_len;
    Ok(report)
}

/// How often a moving directory is looked at.
const ROUNDS: usize = 10;

/// Segments read so far.
#[derive(Debug, Default)]
struct Seen {
    opened: HashMap<SegmentName, Arc<Segment>>,
    faulty: HashSet<SegmentName>,
    read: u64,
    bytes: u64,
}

/// Reads the segments that were not read yet; returns those that went away.
fn read_segments(
    vfs: &dyn Vfs,
    dir: &Path,
    names: &[SegmentName],
    seen: &mut Seen,
    report: &mut VerifyReport,
    progress: &mut impl FnMut(VerifyProgress),
) -> Vec<PathBuf> {
    let mut vanished = Vec::new();
    for name in names {
        if seen.opened.contains_key(name) || seen.faulty.contains(name) {
            continue;
        }
        let path = dir.join(SEGMENTS).join(name.to_string());
        let gone = || vfs.metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let (segment, faults) = check_file(vfs, &path, *name);
        if segment.is_none() && gone() {
            vanished.push(path);
            continue;
        }
        seen.read += 1;
        seen.bytes += vfs.metadata(&path).map_or(0, |found| found.len);
        if !faults.is_empty() {
            seen.faulty.insert(*name);
        }
        report.faults.extend(faults.into_iter().map(|fault| Fault {
            path: path.clone(),
            section: fault.section,
            block: fault.block,
            detail: fault.detail,
            keys: fault.keys,
        }));
        if let Some(segment) = segment.map(Segment::without_keys) {
            seen.opened.insert(*name, Arc::new(segment));
        }
        let total_files = seen.read.max(names.len() as u64) + 1;
        progress(VerifyProgress { files: seen.read, total_files, bytes: seen.bytes });
    }
    vanished
}

/// Published ranges are nested or disjoint.
fn check_ranges(dir: &Path, names: &[SegmentName], report: &mut VerifyReport) {
    // Sorted by first commit, the larger first: what is open when a range begins must contain all of it.
    let mut open: Vec<SegmentName> = Vec::new();
    let mut sorted = names.to_vec();
    sorted.sort_unstable_by_key(|name| (name.first, std::cmp::Reverse(name.last)));
    for name in sorted {
        open.retain(|outer| outer.last >= name.first);
        if let Some(outer) = open.iter().find(|outer| outer.last < name.last) {
            let path = dir.join(SEGMENTS).join(name.to_string());
            let detail = format!("its range overlaps that of {outer}; ranges are nested or disjoint");
            report.told(&path, "chain", detail);
        }
        open.push(name);
    }
}

/// Names of the segment files; what else lies there is a note, or a fault where it takes a segment's name.
fn segment_names(vfs: &dyn Vfs, dir: &Path, report: &mut VerifyReport) -> Vec<SegmentName> {
    let segments = dir.join(SEGMENTS);
    let mut names = Vec::new();
    let listed = vfs.list(&segments).unwrap_or_else(|source| {
        report.fault(&segments, "file", Error::io(&segments, "list the segments", source));
        Vec::new()
    });
    for entry in listed {
        match SegmentName::parse(&entry) {
            Some(name) => names.push(name),
            None => report.notes.push(format!("{}: not a segment, ignored", segments.join(&entry).display())),
        }
    }
    names.sort_unstable();
    names
}

/// Files that one version lists and that are not there, of which each is told; of the others how
/// many they are. A damaged one may list any number.
const MOST_OF_ONE: usize = 1000;

/// Checks that what versions list is there. Others may make, and drop, versions meanwhile; what
/// is wrong with one itself is told with its bitmaps.
fn check_named(vfs: &dyn Vfs, dir: &Path, seen: &Seen, report: &mut VerifyReport) {
    // What the manifest says of the same file is enough, and so is what is wrong with its bytes.
    let mut told: HashSet<PathBuf> = report.faults.iter().map(|fault| fault.path.clone()).collect();
    let path_of = |record: &SegmentRecord| dir.join(SEGMENTS).join(record.name().to_string());
    let names = versions::names(vfs, dir).unwrap_or_else(|error| {
        report.fault(&dir.join(versions::VERSIONS), "file", error);
        Vec::new()
    });
    for name in names {
        let Ok(version) = versions::read(vfs, dir, &name) else { continue };
        let mut wrong = version.body.segments;
        wrong.retain(|record| match seen.opened.get(&record.name()) {
            _ if told.contains(&path_of(record)) => false,
            Some(segment) => SegmentRecord::of(segment) != *record,
            // One that is there came after the first look.
            None => vfs.metadata(&path_of(record)).is_err(),
        });
        if wrong.is_empty() {
            continue;
        }
        // It may have been dropped, and its files with it, since it was read.
        let Ok(now) = versions::read(vfs, dir, &name) else { continue };
        let listed: HashMap<SegmentName, &SegmentRecord> =
            now.body.segments.iter().map(|record| (record.name(), record)).collect();
        wrong.retain(|record| listed.get(&record.name()).is_some_and(|now| *now == record));
        let untold = wrong.split_off(wrong.len().min(MOST_OF_ONE));
        for record in wrong {
            let path = path_of(&record);
            let detail = match seen.opened.contains_key(&record.name()) {
                true => format!("the version \"{name}\" lists another file of this name"),
                false => format!("the version \"{name}\" lists it, and it is missing"),
            };
            report.told(&path, "file", detail);
            told.insert(path);
        }
        if !untold.is_empty() {
            let path = dir.join(versions::VERSIONS).join(&name);
            let detail =
                format!("of the files it lists, {} more are missing, or others of their names", untold.len());
            report.told(&path, "manifest", detail);
        }
    }
}

/// Checks that the files the store consists of follow each other, in the order a reader would choose them.
fn check_chain(
    dir: &Path,
    manifest: &Manifest,
    names: &[SegmentName],
    seen: &Seen,
    report: &mut VerifyReport,
) {
    let lists: Vec<SegmentName> = manifest.body.names().collect();
    let chosen = match tiling::choose(&dir.join(SEGMENTS), &lists, names) {
        Ok(chosen) => chosen,
        Err(error) => {
            report.fault(&dir.join(SEGMENTS), "chain", error);
            return;
        }
    };
    let (mut view, mut types) = (View::empty(manifest), Types::default());
    for name in chosen {
        // A file that cannot be opened is reported already, and the chain cannot be followed across it.
        let Some(segment) = seen.opened.get(&name) else { return };
        if let Err(error) = view.add(Arc::clone(segment), manifest.body.record_of(name)) {
            if !seen.faulty.contains(&name) {
                report.fault(segment.path(), "chain", error);
            }
            return;
        }
        // Of a damaged one it is reported already.
        if let Some(wrong) = segment.directory().ok().and_then(|of| types.add(of.columns())) {
            report.told(segment.path(), "ATTR", wrong);
        }
        for kill in segment.kills() {
            if !seen.faulty.contains(&name) && !view.kill_agrees(kill).unwrap_or(true) {
                let detail =
                    format!("a kill does not agree with entry {} of commit {}", kill.entry, kill.commit);
                report.told(segment.path(), "KILL", detail);
            }
        }
        report.last_commit = view.last_commit();
        report.totals = view.totals;
    }
}

impl VerifyReport {
    fn add(&mut self, vfs: &dyn Vfs, dir: &Path, bitmaps: Checked, seen: &mut Seen) {
        for (path, section, error) in bitmaps.faults {
            self.fault(&path, section, error);
        }
        self.notes.extend(bitmaps.notes);
        for name in bitmaps.read {
            seen.read += 1;
            seen.bytes +=
                vfs.metadata(&dir.join(DERIVED).join(name.to_string())).map_or(0, |found| found.len);
        }
    }

    fn fault(&mut self, path: &Path, section: &str, error: Error) {
        let detail = match error {
            Error::Damaged { detail, .. } | Error::ForeignSegment { detail, .. } => detail,
            Error::UnsupportedVersion { expected, found, .. } => {
                format!("it has {found}, and this program knows {expected}")
            }
            other => other.to_string(),
        };
        self.told(path, section, detail);
    }

    fn told(&mut self, path: &Path, section: &str, detail: impl Into<String>) {
        let (path, section, detail) = (path.to_owned(), section.to_owned(), detail.into());
        self.faults.push(Fault { path, section, block: None, detail, keys: Vec::new() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Store;
    use crate::types::StoreConfig;

    #[test]
    fn of_what_a_version_lacks_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("photos.vecs");
        Store::create(&path, StoreConfig::new(2)).unwrap().close().unwrap();
        let faults_of = |missing: u64| {
            let name = format!("all-{missing}");
            let mut manifest = Manifest::read(&RealFs, &path).unwrap();
            manifest.body.segments = (1..=missing)
                .map(|at| SegmentRecord {
                    first: at,
                    last: at,
                    generation: 0,
                    footer_crc: 7,
                    file_len: 8192,
                    link_out: manifest.body.epochs[0].id,
                    ..SegmentRecord::default()
                })
                .collect();
            versions::write(&RealFs, &path, &name, &manifest).unwrap();
            let report = verify(&path, |_| {}).unwrap();
            std::fs::remove_file(path.join(versions::VERSIONS).join(name)).unwrap();
            report.faults
        };
        let few = faults_of(MOST_OF_ONE as u64);
        assert_eq!(few.len(), MOST_OF_ONE);
        assert!(few.iter().all(|fault| fault.detail.ends_with("lists it, and it is missing")), "{few:?}");
        let many = faults_of(MOST_OF_ONE as u64 + 234);
        assert_eq!(many.len(), MOST_OF_ONE + 1);
        let last = many.last().unwrap();
        assert!(last.path.ends_with("versions/all-1234"), "{last}");
        assert_eq!(last.detail, "of the files it lists, 234 more are missing, or others of their names");
    }
}
