//! Reads every byte of a store and reports every fault, with file, section, block and keys.

mod chain;
mod keys;
mod named;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Error, Part, Progress, Result, escaped};
use crate::format::random_id;
use crate::lock::LOCK;
use crate::segment::{Segment, SegmentName, check_file};
use crate::state::{
    Checked, DERIVED, MANIFEST, Manifest, SEGMENTS, SegmentRecord, Totals, derived, load, tiling,
};
use crate::vfs::{Careful, FileKind, RealFs, Vfs};

use chain::{check_chain, check_kills, check_ranges};
use keys::tags;
use named::check_named;

/// One fault of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// Section of the file, or "footer", "padding", "manifest", "file", "chain".
    pub section: String,
    /// Number of the block of checksums within the section, from 0, where the fault can be placed.
    pub block: Option<u64>,
    /// What was expected and found.
    pub detail: String,
    /// Keys of the entries that are hit, as far as they can be read.
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
    /// Files that are no part of the store and do no harm (left by a killed writer, say), and files with
    /// content that only a later version of the program reads.
    pub notes: Vec<String>,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Last commit of the chain, as far as the chain holds.
    pub last_commit: u64,
    /// Entries in segments without a fault, replaced and deleted ones included: what is there to be read,
    /// also where the chain does not hold.
    pub intact_entries: u64,
    /// Rows of these entries.
    pub intact_rows: u64,
    /// Counts over the live entries up to `last_commit`.
    pub totals: Totals,
}

impl VerifyReport {
    /// True when nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Reads every byte of a store and checks it: checksums of all blocks, padding, tables, the chain of
/// segments, that of each key only the newest entry is live, the manifest, derived files, versions and the
/// files that they list. Takes no lock and changes nothing.
///
/// Files are read a block at a time, not mapped: bytes that the disk cannot read are a fault that names them
/// and the reason. Takes as much memory as the keys of the largest segment and their index, about 13 bytes
/// for each entry of the store, and at most 100 KiB for each segment.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// # vecstore::Store::create(&path, vecstore::StoreConfig::new(2))?;
/// let report = vecstore::verify(&path)?;
/// assert!(report.is_whole());
/// # Ok::<(), vecstore::Error>(())
/// ```
///
/// # Errors
/// Only if there is nothing to verify: [`Error::NotFound`], [`Error::NotAStore`]. Damage is in the report.
pub fn verify(path: impl AsRef<Path>) -> Result<VerifyReport> {
    verify_with(path, &Progress::new())
}

/// [`verify`] that can be watched and stopped: see [`Progress`].
///
/// # Errors
/// As [`verify`]; [`Error::Interrupted`] if it was stopped.
pub fn verify_with(path: impl AsRef<Path>, progress: &Progress) -> Result<VerifyReport> {
    verify_on(&RealFs, path.as_ref(), progress)
}

/// [`verify_with`] through another file system; for tests.
#[doc(hidden)]
pub fn verify_on(vfs: &dyn Vfs, dir: &Path, progress: &Progress) -> Result<VerifyReport> {
    // An unreadable sector would end a process that has mapped it.
    let vfs: &dyn Vfs = &Careful::copying(vfs);
    let mut report = VerifyReport::default();
    let seed = u64::from_le_bytes(random_id()?.first_chunk().copied().unwrap_or_default());
    let mut seen = Seen { seed, ..Seen::default() };
    let lock = dir.join(LOCK);
    if vfs.metadata(&lock).is_ok_and(|found| found.kind != FileKind::File) {
        report.told(&lock, "file", "expected a regular file");
    }
    // The last commit that any round has shown, and the files that the round before found gone.
    let (mut end, mut gone_before) = (0, Vec::new());
    // Writers and mergers may be at work: if files went away during a round, another round reads the files
    // that took their place.
    let mut rounds = 0..ROUNDS;
    loop {
        if rounds.next().is_none() {
            let detail = format!(
                "files were merged away {ROUNDS} times while they were being read, so the chain of segments \
                 was not checked; verify again while less is written"
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
        // Files of the first listing existed before the second listing began: up to the newest of them, a gap
        // is a real gap.
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
        let vanished = read_segments(vfs, dir, &names, &mut seen, &mut report, progress)?;
        let Some(manifest) = manifest else {
            // The files alone say which commits are missing in between.
            match tiling::choose(&dir.join(SEGMENTS), &[], &names) {
                Ok(chosen) => report.last_commit = chosen.last().map_or(0, |name| name.last),
                Err(error) => report.fault(&dir.join(SEGMENTS), "chain", error),
            }
            break;
        };
        let moved = || Manifest::read(vfs, dir).is_ok_and(|now| now.generation != manifest.generation);
        let unlisted = |record: &&SegmentRecord| names.binary_search(&record.name()).is_err();
        let missing: Vec<&SegmentRecord> = manifest.body.segments.iter().filter(unlisted).collect();
        // Files that only a version needed, or that a merge had left, go without a new manifest.
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
        // Other files may hold its commits, so that all can be read; but nothing is merged any more.
        for record in missing {
            let path = dir.join(SEGMENTS).join(record.name().to_string());
            report.told(&path, "file", "the manifest lists it, and it is missing");
        }
        if let Some(view) = check_chain(dir, &manifest, &names, &seen, &mut report)
            && report.is_whole()
        {
            match check_kills(vfs, &view, &seen, &mut report) {
                // Nothing else is wrong, so that another round reports nothing twice.
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
    let sound = seen.opened.iter().filter(|(name, _)| !seen.faulty.contains(name));
    for footer in sound.map(|(_, segment)| segment.footer()) {
        report.intact_entries = report.intact_entries.saturating_add(footer.entries);
        report.intact_rows = report.intact_rows.saturating_add(footer.rows);
    }
    let manifest_len = vfs.metadata(&dir.join(MANIFEST)).map_or(0, |found| found.len);
    report.files = seen.read + 1;
    report.bytes = seen.bytes + manifest_len;
    Ok(report)
}

/// The operation that the error of a stopped verification names.
const VERIFYING: &str = "the verification";
/// Most rounds over a directory that keeps changing.
const ROUNDS: usize = 10;

/// Segments read so far.
#[derive(Debug, Default)]
struct Seen {
    /// Seed of the second hashes of keys.
    seed: u64,
    /// The second hash of each entry's key, by file.
    tags: HashMap<SegmentName, Vec<u32>>,
    opened: HashMap<SegmentName, Arc<Segment>>,
    faulty: HashSet<SegmentName>,
    read: u64,
    bytes: u64,
}

/// Reads the segments that were not read yet. Returns the paths of those that went away.
fn read_segments(
    vfs: &dyn Vfs,
    dir: &Path,
    names: &[SegmentName],
    seen: &mut Seen,
    report: &mut VerifyReport,
    progress: &Progress,
) -> Result<Vec<PathBuf>> {
    let len = |name: &SegmentName| {
        let path = dir.join(SEGMENTS).join(name.to_string());
        vfs.metadata(&path).map_or(0, |found| found.len)
    };
    let unread = names.iter().filter(|name| !seen.opened.contains_key(name) && !seen.faulty.contains(name));
    progress.expect(unread.map(len).sum());
    progress.worked(0, VERIFYING)?;
    let mut vanished = Vec::new();
    for name in names {
        if seen.opened.contains_key(name) || seen.faulty.contains(name) {
            continue;
        }
        let path = dir.join(SEGMENTS).join(name.to_string());
        let gone = || vfs.metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let part = Part::new(progress, VERIFYING, len(name));
        let (segment, faults) = check_file(vfs, &path, *name, &|bytes| part.worked(bytes))?;
        part.done()?;
        if segment.is_none() && gone() {
            vanished.push(path);
            continue;
        }
        seen.read += 1;
        seen.bytes += len(name);
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
    }
    Ok(vanished)
}

/// Names of the segment files. Any other file in the directory becomes a note; anything but a regular file
/// under a segment's name is a fault when it is read.
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

/// Note about a file with content that only a later version reads.
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

    /// Notes files with content that only a later version reads.
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
            Error::ManifestMissing { segments, .. } => {
                format!("it is missing, and segments/ holds {segments} segment file(s)")
            }
            Error::MissingSegment { commit, .. } => {
                format!("the segment that holds commit {commit} is missing")
            }
            Error::Io { op, cause, .. } => format!("cannot {op}: {cause}"),
            other => other.to_string(),
        };
        self.told(path, section, detail);
    }

    fn told(&mut self, path: &Path, section: &str, detail: impl Into<String>) {
        let (path, section, detail) = (path.to_owned(), section.to_owned(), detail.into());
        self.faults.push(Fault { path, section, block: None, detail, keys: Vec::new() });
    }
}
