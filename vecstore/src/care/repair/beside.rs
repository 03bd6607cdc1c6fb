//! Repairs derived files and versions.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::carry_out::Plan;
use super::chain::{Chain, cheapest};
use super::fit::is_as_listed;
use super::mend::{Mender, Shares};
use super::survey::{Found, OF_OTHER_MODEL, is_foreign_to, refuses_version, store_of_most, survey};
use super::{Before, Finding, Repair};
use crate::base::{Error, Result};
use crate::care::liveness::{InMemory, wrong_kills};
use crate::segment::{Segment, SegmentName};
use crate::state::{Body, DERIVED, MANIFEST, Manifest, SegmentRecord, VERSIONS, View, derived};
use crate::vfs::FileKind;

const LOST: &str = "the version is lost; the store itself is not affected";

/// True if a manifest or version lists one of these wrong derived files, or is itself among the wrong ones
/// under the name `called`, because its list of derived files is wrong.
pub(super) fn lists_any(called: &str, body: &Body, derived: &HashSet<String>) -> bool {
    derived.contains(called) || derived::named(body).iter().any(|name| derived.contains(&name.to_string()))
}

impl Before {
    pub(super) fn listed(&self) -> Vec<SegmentRecord> {
        self.manifest.iter().flat_map(|manifest| &manifest.body.segments).copied().collect()
    }

    /// The files that the manifest lists, then those that versions list.
    pub(super) fn records(&self) -> Vec<SegmentRecord> {
        let versions = self.versions.iter().flat_map(|(_, version)| &version.body.segments);
        self.listed().into_iter().chain(versions.copied()).collect()
    }

    /// The store that files must belong to. Without a manifest only the segments tell it.
    pub(super) fn store(&self, found: &[Found]) -> Option<Body> {
        let manifest = self.manifest.as_ref().map(|manifest| manifest.body.clone());
        manifest.or_else(|| store_of_most(found))
    }

    /// Moves versions that are not the store's to the bad ones. True if there were any.
    fn refuse_versions(&mut self, store: &Body) -> bool {
        let manifest = self.manifest.as_ref().map(|manifest| &manifest.body);
        let bad = self.bad_versions.len();
        self.versions.retain(|(name, version)| {
            let why = refuses_version(store, &version.body, manifest);
            self.bad_versions.extend(why.map(|why| (name.clone(), why.to_owned())));
            why.is_none()
        });
        self.bad_versions.len() > bad
    }
}

impl Repair<'_> {
    /// Reads every segment. Versions of other stores are refused first: by their lists, segments with the
    /// same names would count as another store's.
    pub(super) fn survey(&self, before: &mut Before) -> Result<Vec<Found>> {
        if let Some(store) = before.store(&[]) {
            before.refuse_versions(&store);
        }
        if before.lacks_segments {
            return Ok(Vec::new());
        }
        let found = survey(self.vfs, self.dir, &before.records(), self.progress)?;
        match before.store(&found) {
            Some(store) if before.refuse_versions(&store) => {
                survey(self.vfs, self.dir, &before.records(), self.progress)
            }
            _ => Ok(found),
        }
    }

    /// Finds damaged and missing derived files; damaged ones go to quarantine. A rebuilt manifest lists none,
    /// but versions may.
    pub(super) fn check_bitmaps(
        &self,
        found: &[Found],
        manifest: &Manifest,
        plan: &mut Plan,
    ) -> Result<HashSet<String>> {
        let opened: HashMap<SegmentName, Arc<Segment>> =
            found.iter().filter_map(|file| Some((file.name, Arc::clone(file.whole()?)))).collect();
        let mut bad = HashSet::new();
        for (path, _, error) in derived::check(self.vfs, self.dir, manifest, &opened).faults {
            let problem = match self.damage(error) {
                // The content of a derived file is not needed, so an unreadable one counts as damaged, too.
                Err(Error::Io { cause, .. }) => format!("it cannot be read: {cause}"),
                Err(Error::UnsupportedVersion { expected, found, .. }) => {
                    format!("expected {expected}, found {found}")
                }
                problem => problem?,
            };
            let is_here = |folder: &Path| path.parent() == Some(folder);
            let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
                continue;
            };
            if is_here(&self.dir.join(VERSIONS)) {
                // A damaged version is known already. No derived file is used from a list that is wrong.
                bad.insert(format!("{VERSIONS}/{name}"));
                continue;
            }
            if path == self.dir.join(MANIFEST) {
                let replaced_by = Some(path.clone());
                bad.insert(name);
                plan.report.findings.push(Finding { path, problem, replaced_by, ..Finding::default() });
                continue;
            }
            let folder = self.dir.join(DERIVED);
            let is_no_folder =
                || path == folder && self.vfs.metadata(&path).is_ok_and(|found| found.kind != FileKind::Dir);
            if !is_here(&folder) && !is_no_folder() {
                continue;
            }
            let mut finding = match self.vfs.metadata(&path) {
                Ok(_) => self.set_aside(plan, &path, &name, &problem)?,
                Err(_) => Finding { path, problem, ..Finding::default() },
            };
            finding.notes.push("derived files only save time: the next checkpoint writes it anew".to_owned());
            bad.insert(name);
            plan.report.findings.push(finding);
        }
        Ok(bad)
    }

    /// Damaged versions go to quarantine. Versions that list damaged files list the replacements.
    pub(super) fn mend_versions(
        &self,
        before: &Before,
        mender: &mut Mender<'_>,
        bad_bitmaps: &HashSet<String>,
        plan: &mut Plan,
    ) -> Result<()> {
        let folder = self.dir.join(VERSIONS);
        for (name, problem) in &before.bad_versions {
            let wanted = format!("version-{name}");
            let mut finding = self.set_aside(plan, &folder.join(name), &wanted, problem)?;
            finding.notes.push(LOST.to_owned());
            plan.report.findings.push(finding);
        }
        let mut versions: Vec<&(String, Manifest)> = before.versions.iter().collect();
        versions.sort_by_key(|(_, version)| version.body.last_commit());
        for (name, version) in versions {
            let body = &version.body;
            let doubt = mender.doubt_after.take();
            let mended = self.mended_version(mender, version, before.manifest.as_ref());
            mender.doubt_after = doubt;
            let (whole, view) = match mended? {
                Ok(mended) => mended,
                Err(problem) => {
                    let wanted = format!("version-{name}");
                    let mut finding = self.set_aside(plan, &folder.join(name), &wanted, problem)?;
                    finding.notes.push(LOST.to_owned());
                    plan.report.findings.push(finding);
                    continue;
                }
            };
            if whole && !lists_any(&format!("{VERSIONS}/{name}"), body, bad_bitmaps) {
                continue;
            }
            let mut mended = version.clone();
            mended.generation += 1;
            derived::forget(&mut mended.body);
            if !whole {
                mended.body.list(view.records().collect());
            }
            let mut finding = Finding {
                path: folder.join(name),
                problem: match whole {
                    true => "what it lists of derived files is wrong".to_owned(),
                    false => "it needs files that are damaged or missing".to_owned(),
                },
                ..Finding::default()
            };
            finding.replaced_by = Some(finding.path.clone());
            plan.report.findings.push(finding);
            plan.versions.push((name.clone(), mended));
        }
        Ok(())
    }

    /// The view of a version, and whether its files are as it lists them; or why the version is lost.
    ///
    /// Files made for the store, and later merges, lack entries that were superseded after the version. If
    /// that hides an older entry for which there is no newer one, the version gets files of its own, which
    /// serve for later versions, too.
    fn mended_version(
        &self,
        mender: &mut Mender<'_>,
        version: &Manifest,
        manifest: Option<&Manifest>,
    ) -> Result<std::result::Result<(bool, View), &'static str>> {
        let body = &version.body;
        let start = body.epochs.first().map(|epoch| epoch.id);
        let made = mender.made.len();
        let shares = [Shares::All, Shares::Own, Shares::Nothing];
        let ways =
            [Chain::Named, Chain::NamedAlone].into_iter().flat_map(|of| shares.map(|shares| (shares, of)));
        for (shares, of) in ways {
            let pieces = cheapest(&mender.found, &body.segments, body.last_commit(), start, of);
            let mut footers = pieces.iter().filter_map(|piece| piece.file(&mender.found)?.footer());
            if footers.any(|footer| is_foreign_to(body, &footer.fingerprint)) {
                return Ok(Err(OF_OTHER_MODEL));
            }
            let is_whole = is_as_listed(&mender.found, &pieces, &body.segments);
            // The store's bitmaps know of later commits: only the version's own may be used.
            let superseded = match is_whole {
                true => HashSet::new(),
                false => self.superseded(&mender.found, body, true)?,
            };
            let of_store = std::mem::replace(&mut mender.superseded, superseded);
            mender.shares = shares;
            let view = mender.mend(version, &pieces);
            (mender.shares, mender.superseded) = (Shares::All, of_store);
            let view = view?;
            // If the store begins with the version's files, they are checked with the store.
            let is_known = is_whole && manifest.is_some_and(|manifest| body.begins(&manifest.body));
            if is_known || wrong_kills(&view, &mut InMemory(&view))?.is_empty() {
                return Ok(Ok((is_whole, view)));
            }
            mender.undo(made);
            if is_whole {
                break;
            }
        }
        Ok(Err("in what is there of its files, what is superseded does not agree with the keys"))
    }
}
