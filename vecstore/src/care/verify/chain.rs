//! Checks that the segments of a store follow each other, and that their kills are right.

use std::path::Path;
use std::sync::Arc;

use super::keys::OnDisk;
use super::{Fault, Seen, VerifyReport};
use crate::base::{Error, Result};
use crate::care::attributes::Types;
use crate::care::liveness::wrong_kills;
use crate::segment::SegmentName;
use crate::state::{Manifest, SEGMENTS, View, tiling};
use crate::vfs::Vfs;

/// Checks that the ranges of all segment files are nested or disjoint.
pub(super) fn check_ranges(dir: &Path, names: &[SegmentName], report: &mut VerifyReport) {
    // Sorted by first commit, larger ranges first: a range that is open when another begins must contain it.
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

/// Checks that the segments which a reader would choose follow each other. Returns their view if the chain
/// can be followed to its end.
pub(super) fn check_chain(
    dir: &Path,
    manifest: &Manifest,
    names: &[SegmentName],
    seen: &Seen,
    report: &mut VerifyReport,
) -> Option<View> {
    let lists: Vec<SegmentName> = manifest.body.names().collect();
    let segments = dir.join(SEGMENTS);
    let (chosen, is_complete) = match tiling::choose(&segments, &lists, names) {
        Ok(chosen) => (chosen, true),
        Err(error) => {
            // Up to the gap the chain is followed all the same.
            let gap = if let Error::MissingSegment { commit, .. } = &error { *commit } else { 0 };
            report.fault(&segments, "chain", error);
            let before = |names: &[SegmentName]| -> Vec<SegmentName> {
                names.iter().copied().filter(|name| name.last < gap).collect()
            };
            (tiling::choose(&segments, &before(&lists), &before(names)).unwrap_or_default(), false)
        }
    };
    let (mut view, mut types) = (View::empty(manifest), Types::default());
    for name in chosen {
        // A file that cannot be opened is reported already, and the chain cannot be followed across it.
        let Some(segment) = seen.opened.get(&name) else {
            report.totals = view.totals();
            return None;
        };
        if let Err(error) = view.add(Arc::clone(segment), manifest.body.record_of(name)) {
            if !seen.faulty.contains(&name) {
                report.fault(segment.path(), "chain", error);
            }
            report.totals = view.totals();
            return None;
        }
        // A damaged list of attributes is reported already.
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
    }
    report.totals = view.totals();
    is_complete.then_some(view)
}

/// Checks that of each key the newest entry is live, and no other. The view's segments are sound, and their
/// keys are read again.
pub(super) fn check_kills(vfs: &dyn Vfs, view: &View, seen: &Seen, report: &mut VerifyReport) -> Result<()> {
    for (number, wrong) in wrong_kills(view, &mut OnDisk::new(vfs, view, seen))? {
        let path = view.segments.get(number).map(|live| live.segment.path());
        report.faults.extend(wrong.told().map(|(detail, keys)| Fault {
            path: path.unwrap_or(Path::new("")).to_owned(),
            section: "KILL".to_owned(),
            block: None,
            detail,
            keys,
        }));
    }
    Ok(())
}
