//! Reads everything and reports every fault, with file, section, block and keys.

mod chain;
mod keys;
mod named;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Error, Result, escaped};
use crate::format::random_id;
use crate::lock::LOCK;
use crate::segment::{Segment, SegmentName, check_file};
use crate::state::{Checked, DERIVED, MANIFEST, Manifest, SEGMENTS, SegmentRecord, Totals, derived, load};
use crate::vfs::{Copying, FileKind, RealFs, Vfs};

use chain::{check_chain, check_kills, check_ranges};
use keys::tags;
use named::check_named;

/// One fault of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// Section of the file, or "footer", "padding", "file", "chain".
    pub section: String,
    /// Number of the block of checksums within the section, from 0, where the fault can be placed.
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
    /// Files that are no part of the store and do no harm (left by a writer that was killed, say), and those that say
    /// something which only a later version reads.
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
/// segments, that of each key the newest entry counts and no other, the manifest, versions and whether
/// what they list is there, derived files. Takes no lock and changes nothing. Files are read, not mapped, a
/// block at a time: what the disk cannot read is a fault that names the bytes and the reason. Takes as much
/// memory as the keys of the largest segment and their index, about 13 bytes for each entry of the store, and
/// at most 100 KiB for each segment.
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
    let seed = u64::from_le_bytes(random_id()?.first_chunk().copied().unwrap_or_default());
    let mut seen = Seen { seed, ..Seen::default() };
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
        if let Some(view) = check_chain(dir, &manifest, &names, &seen, &mut report)
            && report.is_whole()
        {
            match check_kills(vfs, &view, &seen, &mut report) {
                // Nothing else is wrong, so that the next look tells nothing twice.
                Err(error) if load::is_motion(&error) => continue,
                Err(error) => report.told(&dir.join(SEGMENTS), "KILL", error.to_string()),
                Ok(()) => {}
            }
        }
        if report.is_whole() && report.last_commit < end {
            let detail = format!("commit {end} was there when this began, and is not any more");
            report.told(dir, "chain", detail);
        }
        check_named(vfs, dir, &manifest.body, &seen, &mut report);
        report.mention_later(vfs, dir, &names, &seen);
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
    /// What other hashes of keys are made with, and these, for each entry of a file.
    seed: u64,
    tags: HashMap<SegmentName, Vec<u32>>,
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
        if let Some(segment) = segment {
            seen.tags.insert(*name, tags(&segment, seen.seed));
            let segment = segment.without_keys();
            seen.opened.insert(*name, Arc::new(segment));
        }
        let total_files = seen.read.max(names.len() as u64) + 1;
        progress(VerifyProgress { files: seen.read, total_files, bytes: seen.bytes });
    }
    vanished
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

/// What is noted of a file with more in it than this version reads.
const LATER: &str = "it says something that only a later version reads";

impl VerifyReport {
    fn add(&mut self, vfs: &dyn Vfs, dir: &Path, bitmaps: Checked, seen: &mut Seen) {
        for (path, section, error) in bitmaps.faults {
            self.fault(&path, section, error);
        }
        self.notes.extend(bitmaps.notes);
        self.notes.extend(bitmaps.later.iter().map(|path| format!("{}: {LATER}", path.display())));
        for name in bitmaps.read {
            seen.read += 1;
            seen.bytes +=
                vfs.metadata(&dir.join(DERIVED).join(name.to_string())).map_or(0, |found| found.len);
        }
    }

    /// Notes files that say something which only a later version reads.
    fn mention_later(&mut self, vfs: &dyn Vfs, dir: &Path, names: &[SegmentName], seen: &Seen) {
        if Manifest::says_more(vfs, &dir.join(MANIFEST)) {
            self.notes.push(format!("{}: {LATER}", dir.join(MANIFEST).display()));
        }
        for segment in
            names.iter().filter_map(|name| seen.opened.get(name)).filter(|segment| segment.says_more())
        {
            self.notes.push(format!("{}: {LATER}", segment.path().display()));
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
