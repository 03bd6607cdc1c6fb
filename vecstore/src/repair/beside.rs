//! What lies beside the segments: liveness bitmaps and named checkpoints.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::carry_out::{Move, Plan};
use super::chain::{Chain, cheapest};
use super::mend::Mender;
use super::survey::{Found, State};
use super::{Before, Finding, Repair, RepairReport, is_as_listed};
use crate::Result;
use crate::live::{self, LIVE};
use crate::manifest::{MANIFEST, Manifest, SegmentRecord};
use crate::segment::{Segment, SegmentName};
use crate::versions::CHECKPOINTS;

impl Repair<'_> {
    /// Liveness bitmaps that are damaged or missing; the damaged ones go to quarantine.
    pub(super) fn check_bitmaps(
        &self,
        before: &Before,
        found: &[Found],
        manifest: &Manifest,
        plan: &mut Plan,
        report: &mut RepairReport,
    ) -> Result<HashSet<String>> {
        if before.manifest.is_none() {
            return Ok(HashSet::new());
        }
        let opened: HashMap<SegmentName, Arc<Segment>> = found
            .iter()
            .filter_map(|file| match &file.state {
                State::Sound(segment) if file.is_whole() => Some((file.name, Arc::clone(segment))),
                _ => None,
            })
            .collect();
        let mut bad = HashSet::new();
        for (path, _, error) in live::check(self.vfs, self.dir, manifest, &opened).faults {
            let problem = self.bitmap_damage(error)?;
            let folder = path.parent().and_then(Path::file_name);
            let Some(name) = path.file_name().filter(|_| folder == Some(LIVE.as_ref())) else {
                // A damaged checkpoint is known already. Of a record that is wrong no bitmap is used.
                let versions = before.versions.iter().map(|(name, version)| (name.as_str(), version));
                let owner = versions.chain([(MANIFEST, manifest)]).find(|(name, _)| path.ends_with(name));
                bad.extend(
                    owner.iter().flat_map(|(_, owner)| live::named(&owner.body)).map(|name| name.to_string()),
                );
                continue;
            };
            let name = name.to_string_lossy().into_owned();
            let mut finding = Finding { path: path.clone(), problem, ..Finding::default() };
            finding.notes.push("bitmaps only save time: the next checkpoint writes it anew".to_owned());
            if self.vfs.metadata(&path).is_ok() {
                let moved = Move::choose(self.vfs, self.dir, &path, &name)?;
                finding.moved_to = Some(moved.to.clone());
                plan.moves.push(moved);
            }
            bad.insert(name);
            report.findings.push(finding);
        }
        Ok(bad)
    }

    /// Named checkpoints: damaged ones go to quarantine, those that list damaged files list what takes their place.
    pub(super) fn mend_versions(
        &self,
        before: &Before,
        mender: &mut Mender<'_>,
        bad_bitmaps: &HashSet<String>,
        plan: &mut Plan,
        report: &mut RepairReport,
    ) -> Result<()> {
        let folder = self.dir.join(CHECKPOINTS);
        for (name, problem) in &before.bad_versions {
            let path = folder.join(name);
            let moved = Move::choose(self.vfs, self.dir, &path, &format!("checkpoint-{name}"))?;
            report.findings.push(Finding {
                path,
                problem: problem.clone(),
                moved_to: Some(moved.to.clone()),
                notes: vec!["the named checkpoint is lost; the store itself is not affected".to_owned()],
                ..Finding::default()
            });
            plan.moves.push(moved);
        }
        for (name, version) in &before.versions {
            let body = &version.body;
            let start = body.epochs.first().map(|epoch| epoch.id);
            let pieces = cheapest(mender.found, &body.segments, body.last_commit(), start, Chain::Named);
            let whole = is_as_listed(mender.found, &pieces, &body.segments);
            let forgets = live::named(body).iter().any(|name| bad_bitmaps.contains(&name.to_string()));
            if whole && !forgets {
                continue;
            }
            let mut mended = version.clone();
            mended.generation += 1;
            live::forget(&mut mended.body);
            if !whole {
                let doubt = mender.doubt_after.take();
                let view = mender.mend(version, &pieces)?;
                mender.doubt_after = doubt;
                mended.body.segments =
                    view.segments.iter().map(|live| SegmentRecord::of(&live.segment)).collect();
            }
            let mut finding = Finding {
                path: folder.join(name),
                problem: "it needs files that are damaged or missing".to_owned(),
                ..Finding::default()
            };
            finding.replaced_by = Some(finding.path.clone());
            report.findings.push(finding);
            plan.versions.push((name.clone(), mended));
        }
        Ok(())
    }
}
