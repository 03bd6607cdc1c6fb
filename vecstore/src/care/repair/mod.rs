//! Makes a damaged store whole, and loses nothing that is intact.
//!
//! * `survey`: reads every byte of every segment: which are sound, and which belong here.
//! * `chain`: which files make up commits 1 to N with the least loss.
//! * `remains`, `rescue`: what is intact of a damaged segment, and the file that takes its place.
//! * `kills`: which files contradict what they supersede. `items`: what stands in a new file.
//! * `fit`: which sound files the chain leaves no place for.
//! * `mend`: makes the files that the chain lacks. `rebuild`: a manifest from footers.
//! * `beside`: derived files and versions. `tell`: the report.
//! * `carry_out`: quarantine, names, manifest, in the order in which a crash does no harm.

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
use std::time::Duration;

use crate::base::{Error, IoContext, Result};
use crate::care::exclusive::exclusively;
use crate::format::check_may_write;
use crate::segment::SegmentName;
use crate::state::{Body, MANIFEST, Manifest, SEGMENTS, SegmentRecord, derived, versions};
use crate::vfs::{Copying, FileKind, RealFs, Vfs};

use beside::lists_any;
use carry_out::{Plan, carry_out};
use chain::{Chain, Piece, cheapest};
use fit::{is_as_listed, refuse_overlapping, refuse_useless};
use mend::{Mender, Shares};
pub use report::{Finding, RepairReport};
use survey::Found;
pub(super) use survey::refuses_version;

/// How long to wait for writers and mergers.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a damaged store whole. Every byte is read; what is damaged, missing or not the store's is replaced
/// by what is intact of it, and moved to `quarantine/`, never deleted:
///
/// * A missing or damaged manifest is rebuilt from the segments. Settings recorded after the last commit are
///   lost with it.
/// * Where the inputs of a damaged merge are still there, they serve again; so does a merge whose input is
///   damaged.
/// * Any other damaged segment is written anew, with every entry that is intact, at its old address. What the
///   disk cannot read of it counts as damaged. A missing one is replaced by an empty one. Keys that are lost
///   are in the report, and listed in `quarantine/`, one per line.
/// * A segment that is intact, and whose kills contradict the keys (another program wrote it), is written anew with
///   right ones: of each key the newest entry counts.
/// * Files of other stores or histories, their versions too, and damaged versions go to
///   quarantine. Files that were swapped get their names back.
///
/// When segments had to be replaced, or the manifest rebuilt, a new epoch begins: files from before can no
/// longer be mixed up with what comes after. The store must not be written to meanwhile; a crash leaves a
/// store that can be repaired again.
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
/// [`Error::NotFound`], [`Error::NotAStore`] when there is nothing to rebuild from;
/// [`Error::UnsupportedVersion`] for a store of a later version; [`Error::Busy`], [`Error::Io`],
/// [`Error::NoSpace`].
pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
    repair_with(&RealFs, path.as_ref())
}

/// What [`repair`] would do; changes nothing and takes no lock. What would be written is held in memory.
///
/// # Errors
/// As [`repair`].
pub fn repair_dry_run(path: impl AsRef<Path>) -> Result<RepairReport> {
    repair_dry_run_with(&RealFs, path.as_ref())
}

/// [`repair_dry_run`] through another file system; for tests.
#[doc(hidden)]
pub fn repair_dry_run_with(vfs: &dyn Vfs, dir: &Path) -> Result<RepairReport> {
    Repair { vfs: &Copying(vfs), dir, dry_run: true, in_doubt: false }.run()
}

/// [`repair`] through another file system; for tests.
#[doc(hidden)]
pub fn repair_with(vfs: &dyn Vfs, dir: &Path) -> Result<RepairReport> {
    // A sector that cannot be read would end a process that has mapped it.
    let vfs: &dyn Vfs = &Copying(vfs);
    // What is no store at all is refused before a lock file is created in it.
    if let Err(error @ (Error::NotFound { .. } | Error::NotAStore { .. })) = Manifest::read(vfs, dir) {
        return Err(error);
    }
    Lock::open(vfs, &dir.join(LOCK_BACKUP), "backup")?.hold(TIMEOUT, |_| {
        let run = |in_doubt| Repair { vfs, dir, dry_run: false, in_doubt }.run();
        exclusively(vfs, dir, &TIMEOUT.into(), |_, in_doubt| run(in_doubt))
    })
}

struct Repair<'a> {
    vfs: &'a dyn Vfs,
    dir: &'a Path,
    dry_run: bool,
    /// Names above the last checkpoint are in doubt: a flush failed, or a writer died.
    in_doubt: bool,
}

/// What is read before anything is decided.
#[derive(Default)]
struct Before {
    /// `None` when it is missing or damaged.
    manifest: Option<Manifest>,
    /// The damaged manifest is there, and why it counts as damaged.
    bad_manifest: Option<String>,
    /// The directory of segments is missing.
    lacks_segments: bool,
    versions: Vec<(String, Manifest)>,
    bad_versions: Vec<(String, String)>,
}

impl Repair<'_> {
    fn run(&self) -> Result<RepairReport> {
        let mut before = self.read()?;
        let segments = self.dir.join(SEGMENTS);
        if !self.dry_run {
            if before.lacks_segments {
                make_folder(self.vfs, self.dir, SEGMENTS, false)?;
            }
            // Nothing is built on a name that is merely visible.
            self.vfs.flush_dir(&segments).at(&segments, "flush the directory")?;
        }
        let mut found = self.survey(&mut before)?;
        let (listed, all) = (before.listed(), before.records());
        if let Some(store) = before.store(&found) {
            survey::refuse_foreign(&mut found, &store, &all);
        }
        let is_backup = before.manifest.as_ref().is_some_and(|manifest| manifest.body.is_backup);
        let listed_last = listed.last().map_or(0, |record| record.last);
        // What a version lists was committed, whatever became of it. Its numbers are not given
        // again, and the file that takes the place of what is missing does not lie beyond the chain, where
        // readers would take it for a commit.
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
        // A file beyond the chain that cannot be told may have held a commit: its number must not be taken
        // for another's.
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

    /// What is wrong with a file that is damaged, missing or no file. That it cannot be read now is an error:
    /// what it holds is not known.
    fn damage(&self, error: Error) -> Result<String> {
        match error {
            Error::Damaged { detail, .. } => Ok(detail),
            Error::Io { path, op, source } => match self.vfs.metadata(&path) {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    Ok("it is missing".to_owned())
                }
                Ok(found) if found.kind != FileKind::File => {
                    Ok("expected a regular file, found something else".to_owned())
                }
                _ => Err(Error::Io { path, op, source }),
            },
            other => Err(other),
        }
    }

    /// Every name that a file of these commits has had.
    fn known_names(&self, found: &[Found], records: &[SegmentRecord]) -> Result<Vec<SegmentName>> {
        let folder = self.dir.join(QUARANTINE);
        let quarantined = if_there(self.vfs.list(&folder)).at(&folder, "list the quarantined files")?;
        let mut names: Vec<SegmentName> = records.iter().map(SegmentRecord::name).collect();
        names.extend(quarantined.iter().flatten().filter_map(|name| SegmentName::parse(name)));
        names.extend(found.iter().flat_map(|file| [file.called, file.name]));
        Ok(names)
    }

    /// What is told of a file that goes to quarantine under this name, or one like it.
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

    /// What the bitmaps of a manifest or version say is superseded, in files that are whole.
    fn superseded(&self, found: &[Found], body: &Body, chain_is_whole: bool) -> Result<HashSet<(u64, u64)>> {
        let mut superseded = HashSet::new();
        for segment in found.iter().filter_map(Found::whole) {
            match derived::known(self.vfs, self.dir, body, segment) {
                Some(Ok(dead)) => {
                    let entries = dead.sets()?.entries;
                    superseded.extend(entries.positions().filter_map(|index| segment.origin(index)));
                }
                // Where nothing is lost, what a bitmap holds follows from the segments.
                Some(Err(_)) if chain_is_whole => {}
                // One that only a later version reads.
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
    ) -> Result<RepairReport> {
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
        // What a merge took for damaged is sound, or replaced.
        if is_new || forgets || !manifest.body.damaged.is_empty() {
            manifest.body.damaged.clear();
            derived::forget(&mut manifest.body);
            manifest.generation += 1;
            plan.manifest = Some(manifest.clone());
        }
        let changes = plan.manifest.is_some() || !plan.report.was_whole();
        if !self.dry_run && changes {
            carry_out(self.vfs, self.dir, &plan, &mut mender.made)?;
        }
        Ok(plan.report)
    }
}
