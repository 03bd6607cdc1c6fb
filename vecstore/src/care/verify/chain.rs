//! Whether the files of a store follow each other, and what they supersede.

use std::path::Path;
use std::sync::Arc;

use super::keys::OnDisk;
use super::{Fault, Seen, VerifyReport};
use crate::base::Result;
use crate::care::attributes::Types;
use crate::care::liveness::wrong_kills;
use crate::segment::SegmentName;
use crate::state::{Manifest, SEGMENTS, View, tiling};
use crate::vfs::Vfs;

/// Published ranges are nested or disjoint.
pub(super) fn check_ranges(dir: &Path, names: &[SegmentName], report: &mut VerifyReport) {
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

/// Checks that the files the store consists of follow each other, in the order a reader would choose them. The view of
/// all of them, where they can be followed to the last one.
pub(super) fn check_chain(
    dir: &Path,
    manifest: &Manifest,
    names: &[SegmentName],
    seen: &Seen,
    report: &mut VerifyReport,
) -> Option<View> {
    let lists: Vec<SegmentName> = manifest.body.names().collect();
    let chosen = match tiling::choose(&dir.join(SEGMENTS), &lists, names) {
        Ok(chosen) => chosen,
        Err(error) => {
            report.fault(&dir.join(SEGMENTS), "chain", error);
            return None;
        }
    };
    let (mut view, mut types) = (View::empty(manifest), Types::default());
    for name in chosen {
        // A file that cannot be opened is reported already, and the chain cannot be followed across it.
        let segment = seen.opened.get(&name)?;
        if let Err(error) = view.add(Arc::clone(segment), manifest.body.record_of(name)) {
            if !seen.faulty.contains(&name) {
                report.fault(segment.path(), "chain", error);
            }
            return None;
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
    Some(view)
}

/// Checks that of each key the newest entry counts, and no other. The view's files are whole, and are read again.
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
