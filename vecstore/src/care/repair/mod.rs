//! Makes a damaged store whole, and loses nothing that is intact.
//!
//! * `survey`: reads every byte of every segment, to find which are sound and which belong to the store.
//! * `chain`: chooses the files that make up commits 1 to N with the least loss.
//! * `remains`, `rescue`: the intact parts of a damaged segment, and the segment that replaces it.
//! * `kills`: files whose kills contradict the entries that they name. `items`: the entries of a new file.
//! * `fit`: sound files that have no place in the chain.
//! * `mend`: makes the files that the chain lacks. `rebuild`: a manifest from footers.
//! * `beside`: derived files and versions. `tell`: the report.
//! * `carry_out`: quarantine, names, manifest, in an order in which a crash does no harm.

mod beside;
mod carry_out;
mod chain;
mod fit;
mod footer;
mod items;
mod kills;
mod mend;
mod rebuild;
mod remains;
mod report;
mod rescue;
mod rows;
mod survey;
mod tell;

use crate::lock::{LOCK_BACKUP, Lock};
use crate::state::{Move, QUARANTINE, if_there, make_folder};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Error, IoContext, Progress, Result};
use crate::care::exclusive::exclusively;
use crate::format::check_may_write;
use crate::read::Snapshot;
use crate::segment::{Segment, SegmentName};
use crate::state::{
    Body, LiveSegment, MANIFEST, Manifest, SEGMENTS, SegmentRecord, Totals, View, derived, versions,
};
use crate::vfs::{Careful, FileKind, RealFs, Vfs};

use beside::lists_any;
use carry_out::{Plan, carry_out};
use chain::{Chain, Piece, cheapest};
use fit::{is_as_listed, refuse_overlapping, refuse_useless};
use mend::{Mender, Shares};
pub use report::{Finding, Loss, RepairReport};
use survey::Found;
pub(super) use survey::refuses_version;

/// How long a repair waits for writers and mergers.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a damaged store whole. Reads every byte. Each file that is damaged, missing or not the store's is
/// replaced by one with everything that is intact. The old file moves to `quarantine/`, and is never deleted:
///
/// * A missing or damaged manifest is rebuilt from the segments. Settings recorded after the last commit are
///   lost with it.
/// * If the output of a merge is damaged and its inputs still exist, the inputs are used again. If an input
///   is damaged, the output is used.
/// * Any other damaged segment is rewritten, with every intact entry at its old address. Unreadable bytes
///   count as damaged. A missing segment is replaced by an empty one. Lost keys are in the report, and in
///   lists in `quarantine/`, one per line.
/// * An intact segment whose kills contradict the keys (another program wrote it) is rewritten with correct
///   kills: of each key, the newest entry is live.
/// * Files and versions of other stores or histories go to quarantine, and so do damaged versions. Swapped
///   files get their names back.
///
/// If segments had to be replaced or the manifest rebuilt, a new epoch begins, so that older files cannot be
/// mixed up with later ones. The store must not be written to meanwhile. A crash leaves a store that can be
/// repaired again.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// # use vecstore::{OnDuplicate, Store, StoreConfig};
/// # let store = Store::create(&path, StoreConfig::new(1))?;
/// # let mut batch = store.batch();
/// # batch.push("a", &[1.0f32])?;
/// # store.append(&mut batch, OnDuplicate::Skip)?;
/// # drop(store);
/// std::fs::remove_file(path.join("MANIFEST")).unwrap();
/// assert!(Store::open(&path).is_err());
/// let report = vecstore::repair(&path)?;
/// assert!(report.rebuilt && report.lost_keys().next().is_none());
/// assert!(Store::open(&path)?.snapshot().contains("a")?);
/// # Ok::<(), vecstore::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotAStore`] if there is nothing to rebuild from;
/// [`Error::UnsupportedVersion`] for a store of a later version; [`Error::Busy`], [`Error::Io`],
/// [`Error::NoSpace`].
pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
    repair_with(path, RepairOptions::new())
}

/// [`repair`] with options: a dry run, or a [`Progress`] to watch and stop it.
///
/// # Errors
/// As [`repair`]; [`Error::Interrupted`] if it was stopped, in which case nothing is changed.
pub fn repair_with(path: impl AsRef<Path>, options: RepairOptions<'_>) -> Result<RepairReport> {
    repair_on(&RealFs, path.as_ref(), options)
}

/// Options of a repair.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// # vecstore::Store::create(&path, vecstore::StoreConfig::new(2))?;
/// use vecstore::{RepairOptions, repair_with};
/// let report = repair_with(&path, RepairOptions::new().dry_run(true))?;
/// assert!(report.was_whole() && report.dry_run);
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RepairOptions<'a> {
    dry_run: bool,
    progress: Option<&'a Progress>,
}

impl<'a> RepairOptions<'a> {
    /// The defaults: a repair that changes the store, without a progress.
    pub fn new() -> Self {
        Self::default()
    }

    /// If `dry_run` is true, only reports what a repair would do: changes nothing and takes no lock. New
    /// files are built in memory.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Counts the bytes of segments that were read in `progress`. A repair that is stopped there changes
    /// nothing.
    pub fn progress(mut self, progress: &'a Progress) -> Self {
        self.progress = Some(progress);
        self
    }
}

/// [`repair_with`] through another file system; for tests.
#[doc(hidden)]
pub fn repair_on(vfs: &dyn Vfs, dir: &Path, options: RepairOptions<'_>) -> Result<RepairReport> {
    // An unreadable sector would end a process that has mapped it.
    let vfs: &dyn Vfs = &Careful::copying(vfs);
    let whole = Progress::new();
    let (dry_run, progress) = (options.dry_run, options.progress.unwrap_or(&whole));
    if dry_run {
        return Repair { vfs, dir, dry_run, in_doubt: false, progress }.run().map(|repaired| repaired.report);
    }
    // A directory that is no store is refused before a lock file is created in it.
    if let Err(error @ (Error::NotFound { .. } | Error::NotAStore { .. })) = Manifest::read(vfs, dir) {
        return Err(error);
    }
    Lock::open(vfs, &dir.join(LOCK_BACKUP), "backup")?.hold(TIMEOUT, |_| {
        let run = |in_doubt| Repair { vfs, dir, dry_run, in_doubt, progress }.run();
        exclusively(vfs, dir, &TIMEOUT.into(), |_, in_doubt| run(in_doubt)).map(|repaired| repaired.report)
    })
}

/// Opens the intact entries of a damaged store for reading, and changes nothing. Returns the store as a
/// [`repair`] would leave it, and the report of that repair.
///
/// Every byte is read first. Intact entries of damaged segments are copied into memory; sound segments are
/// mapped, and checked as they are read. The store must not be written to meanwhile.
///
/// Paths of damaged segments in the snapshot ([`Entry::location`](crate::Entry::location),
/// [`SegmentInfo::path`](crate::SegmentInfo::path)) are those that a repair would write.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// # use vecstore::{OnDuplicate, Reader, Store, StoreConfig};
/// # let store = Store::create(&path, StoreConfig::new(1))?;
/// # for key in ["a", "b"] {
/// #     let mut batch = store.batch();
/// #     batch.push(key, &[1.0f32])?;
/// #     store.append(&mut batch, OnDuplicate::Skip)?;
/// # }
/// # let file = store.snapshot().segments().next().unwrap().info().path;
/// # store.close()?;
/// std::fs::remove_file(file).unwrap();
/// assert!(Reader::open(&path).is_err());
/// let (snapshot, report) = vecstore::salvage(&path)?;
/// assert_eq!(snapshot.len(), 1);
/// assert_eq!(report.loss().unknown_files, 1);
/// # Ok::<(), vecstore::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotAStore`] if there is nothing to read; [`Error::UnsupportedVersion`] for a
/// store of a later version; [`Error::Io`].
pub fn salvage(path: impl AsRef<Path>) -> Result<(Snapshot, RepairReport)> {
    let (dir, progress) = (path.as_ref(), &Progress::new());
    let repair = Repair { vfs: &Careful::copying(&RealFs), dir, dry_run: true, in_doubt: false, progress };
    let Repaired { report, view: repaired, made } = repair.run()?;
    let mut view = View { segments: Vec::new(), totals: Totals::default(), ..repaired };
    for LiveSegment { segment, .. } in repaired.segments {
        // The survey read sound segments without rows and payloads. Segments that a repair would write are
        // complete.
        let segment = match made.contains(&segment.name()) {
            true => segment,
            false => Arc::new(Segment::open(&RealFs, segment.path(), segment.name())?.checked()),
        };
        let record = SegmentRecord::of(&segment);
        view.add(segment, Some(&record))?;
    }
    Ok((Snapshot::new(Arc::new(view)), report))
}

/// The result of a repair or a dry run.
struct Repaired {
    report: RepairReport,
    view: View,
    /// Segments that were written anew.
    made: HashSet<SegmentName>,
}

/// The operation that the error of a stopped repair names.
const REPAIRING: &str = "the repair";

struct Repair<'a> {
    vfs: &'a dyn Vfs,
    dir: &'a Path,
    dry_run: bool,
    /// True if names above the last checkpoint are in doubt: a flush failed, or a writer died.
    in_doubt: bool,
    progress: &'a Progress,
}

/// Manifest and versions as they were read before the repair.
#[derive(Default)]
struct Before {
    /// `None` if the manifest is missing or damaged.
    manifest: Option<Manifest>,
    /// Why the manifest counts as damaged, if it exists and is damaged.
    bad_manifest: Option<String>,
    /// True if the directory of segments is missing.
    lacks_segments: bool,
    versions: Vec<(String, Manifest)>,
    bad_versions: Vec<(String, String)>,
}

impl Repair<'_> {
    /// Runs the repair. Returns its report, and the view of the repaired store.
    fn run(&self) -> Result<Repaired> {
        let mut before = self.read()?;
        let segments = self.dir.join(SEGMENTS);
        if !self.dry_run {
            if before.lacks_segments {
                make_folder(self.vfs, self.dir, SEGMENTS, false)?;
            }
            // Names are made durable before anything is built on them.
            self.vfs.flush_dir(&segments).at(&segments, "flush the directory")?;
        }
        let mut found = self.survey(&mut before)?;
        let (listed, all) = (before.listed(), before.records());
        if let Some(store) = before.store(&found) {
            survey::refuse_foreign(&mut found, &store, &all);
        }
        let is_backup = before.manifest.as_ref().is_some_and(|manifest| manifest.body.is_backup);
        let listed_last = listed.last().map_or(0, |record| record.last);
        // A version lists only commits, even if their files are gone. Their numbers must not be given again,
        // and a replacement for missing files must not lie beyond the chain, where readers would take it for
        // a commit.
        let known = all.iter().map(|record| record.last).fold(listed_last, u64::max);
        let len = |file: &Found| self.vfs.metadata(&file.path).map_or(0, |found| found.len);
        let last = match is_backup {
            true => listed_last,
            false => chain::last_commit(known, &found, len),
        };
        let start = before.manifest.as_ref().and_then(|manifest| manifest.body.epochs.first()).map(|e| e.id);
        let pieces = loop {
            let mut pieces = cheapest(&found, &listed, last, start, Chain::Store);
            chain::drop_hole_after(known, &mut pieces);
            if !kills::distrust(self.vfs, &mut found, &pieces, &all)? {
                break pieces;
            }
        };
        // An unreadable file beyond the chain may have held a commit, whose number will be given again: a new
        // epoch tells the two apart.
        let beyond = !is_backup && found.iter().any(|file| file.damaged && file.called.last > last);
        let chain_is_whole = is_as_listed(&found, &pieces, &listed) && !beyond;
        refuse_useless(&mut found, &pieces, &before.versions, is_backup);
        refuse_overlapping(&mut found, &pieces, is_backup.then_some(listed_last).filter(|_| !chain_is_whole));

        let mut manifest = match &before.manifest {
            Some(manifest) => manifest.clone(),
            None => rebuild::rebuilt(self.vfs, self.dir, &found, &pieces, last)?,
        };
        let mut mender = Mender {
            vfs: self.vfs,
            dir: self.dir,
            known: self.known_names(&found, &all)?,
            superseded: self.superseded(&found, &manifest.body, chain_is_whole)?,
            found,
            doubt_after: Some(listed_last).filter(|_| self.in_doubt && !chain_is_whole && !is_backup),
            dry_run: self.dry_run,
            made: Vec::new(),
            shares: Shares::All,
        };
        let result = self.mend(&before, &mut mender, &mut manifest, &pieces, chain_is_whole);
        if result.is_err() {
            mender.discard();
        }
        result
    }

    fn read(&self) -> Result<Before> {
        let mut before = Before::default();
        match Manifest::read(self.vfs, self.dir) {
            Ok(manifest) => {
                check_may_write(&self.dir.join(MANIFEST), manifest.ro_compat)?;
                before.manifest = Some(manifest);
            }
            Err(Error::ManifestMissing { .. }) => {}
            Err(error) => before.bad_manifest = Some(self.damage(error)?),
        }
        let segments = self.dir.join(SEGMENTS);
        before.lacks_segments =
            if_there(self.vfs.metadata(&segments)).at(&segments, "look at the directory")?.is_none();
        for name in versions::names(self.vfs, self.dir)? {
            match versions::read(self.vfs, self.dir, &name) {
                Ok(version) => before.versions.push((name, version)),
                Err(error) => {
                    let why = self.damage(error)?;
                    before.bad_versions.push((name, why));
                }
            }
        }
        Ok(before)
    }

    /// Describes the damage of a file that is damaged, missing or no regular file. A file that cannot be read
    /// now is an error: its content is unknown.
    fn damage(&self, error: Error) -> Result<String> {
        match error {
            Error::Damaged { detail, .. } => Ok(detail),
            Error::Io { path, op, cause } => match self.vfs.metadata(&path) {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    Ok("it is missing".to_owned())
                }
                Ok(found) if found.kind != FileKind::File => {
                    Ok("expected a regular file, found something else".to_owned())
                }
                _ => Err(Error::Io { path, op, cause }),
            },
            other => Err(other),
        }
    }

    /// Every name that a file of these commits has had: found, listed, or in quarantine.
    fn known_names(&self, found: &[Found], records: &[SegmentRecord]) -> Result<Vec<SegmentName>> {
        let folder = self.dir.join(QUARANTINE);
        let quarantined = if_there(self.vfs.list(&folder)).at(&folder, "list the quarantined files")?;
        let mut names: Vec<SegmentName> = records.iter().map(SegmentRecord::name).collect();
        names.extend(quarantined.iter().flatten().filter_map(|name| SegmentName::parse(name)));
        names.extend(found.iter().flat_map(|file| [file.called, file.name]));
        Ok(names)
    }

    /// Plans to move a file to quarantine, under this name or one like it. Returns the finding for the
    /// report.
    fn set_aside(&self, plan: &mut Plan, path: &Path, wanted: &str, problem: &str) -> Result<Finding> {
        let moved = Move::choose(self.vfs, self.dir, path, wanted)?;
        let finding = Finding {
            path: path.to_owned(),
            problem: problem.to_owned(),
            moved_to: Some(moved.to.clone()),
            ..Finding::default()
        };
        plan.moves.push(moved);
        Ok(finding)
    }

    /// Entries of whole files that the bitmaps of a manifest or version list as superseded.
    fn superseded(&self, found: &[Found], body: &Body, chain_is_whole: bool) -> Result<HashSet<(u64, u64)>> {
        let mut superseded = HashSet::new();
        for segment in found.iter().filter_map(Found::whole) {
            match derived::known(self.vfs, self.dir, body, segment) {
                Some(Ok(dead)) => {
                    let entries = dead.sets()?.entries;
                    superseded.extend(entries.positions().filter_map(|index| segment.origin(index)));
                }
                // If nothing is lost, the content of a bitmap follows from the segments.
                Some(Err(_)) if chain_is_whole => {}
                // Only a later version of the program can read this bitmap.
                Some(Err(Error::UnsupportedVersion { .. })) => {}
                Some(Err(error)) => drop(self.damage(error)?),
                None => {}
            }
        }
        Ok(superseded)
    }

    fn mend(
        &self,
        before: &Before,
        mender: &mut Mender<'_>,
        manifest: &mut Manifest,
        pieces: &[Piece],
        chain_is_whole: bool,
    ) -> Result<Repaired> {
        let view = mender.mend(manifest, pieces)?;
        let view = mender.put_kills_right(manifest, pieces, view)?;
        let chain_is_whole = chain_is_whole && mender.made.is_empty();
        let rebuilt = before.manifest.is_none();
        let report = RepairReport {
            rebuilt,
            segments: view.segments.len(),
            last_commit: view.last_commit(),
            dry_run: self.dry_run,
            ..RepairReport::default()
        };
        let mut plan = Plan { report, ..Plan::default() };
        if rebuilt {
            let path = self.dir.join(MANIFEST);
            let mut finding = match &before.bad_manifest {
                Some(problem) => {
                    let wanted = format!("{MANIFEST}.{:016x}", manifest.generation);
                    self.set_aside(&mut plan, &path, &wanted, problem)?
                }
                None => Finding::missing(path.clone()),
            };
            plan.report.quarantined = finding.moved_to.clone();
            finding.replaced_by = Some(path);
            finding
                .notes
                .push("settings that were recorded after the last commit are lost with it".to_owned());
            plan.report.findings.push(finding);
        }
        if before.lacks_segments {
            plan.report.findings.push(Finding::missing(self.dir.join(SEGMENTS)));
        }
        let bad_bitmaps = self.check_bitmaps(&mender.found, manifest, &mut plan)?;
        self.mend_versions(before, mender, &bad_bitmaps, &mut plan)?;
        self.tell(mender, manifest, pieces, &view, &mut plan)?;

        let is_new = rebuilt || !chain_is_whole;
        let forgets = lists_any(MANIFEST, &manifest.body, &bad_bitmaps);
        if is_new {
            manifest.body.list(view.records().collect());
            manifest.body.begin_epoch()?;
        }
        // Segments that a merge noted as damaged are sound or replaced now.
        if is_new || forgets || !manifest.body.damaged.is_empty() {
            manifest.body.damaged.clear();
            derived::forget(&mut manifest.body);
            manifest.generation += 1;
            plan.manifest = Some(manifest.clone());
        }
        let made = mender.made.iter().map(|made| made.segment.name()).collect();
        let changes = plan.manifest.is_some() || !plan.report.was_whole();
        if !self.dry_run && changes {
            carry_out(self.vfs, self.dir, &plan, &mut mender.made)?;
        }
        Ok(Repaired { report: plan.report, view, made })
    }
}
