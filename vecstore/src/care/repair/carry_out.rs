//! Carries a repair out, so that a crash at any point leaves the former state or the repaired one.
//!
//! 1. Damaged files get a second name in `quarantine/`, and lists of lost keys beside them; both durable.
//! 2. New files, flushed before, get their names; `segments/` is flushed. Readers go on using the files that
//!    the manifest lists.
//! 3. The manifest is replaced by one that lists the new files; then the versions.
//! 4. Damaged files lose their old names. Until here, the repair can be begun anew.

use crate::state::{Move, QUARANTINE, quarantine_folder, same_bytes, write_named};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::RepairReport;
use super::mend::Made;
use crate::base::{IoContext, Result};
use crate::state::{MANIFEST, Manifest, SEGMENTS, TMP_PREFIX, VERSIONS, remove_temporaries};
use crate::vfs::Vfs;

/// Everything that a repair changes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What the user is told about the repair.
    pub report: RepairReport,
    pub moves: Vec<Move>,
    /// Lists beside the files in quarantine: path and content.
    pub lists: Vec<(PathBuf, String)>,
    pub manifest: Option<Manifest>,
    /// Versions to replace, because their lists change.
    pub versions: Vec<(String, Manifest)>,
}

/// Carries out the plan. `made`: the new files; each is taken out once it is named.
pub(super) fn carry_out(vfs: &dyn Vfs, dir: &Path, plan: &Plan, made: &mut Vec<Made>) -> Result<()> {
    let segments = dir.join(SEGMENTS);
    let linked = set_aside(vfs, dir, plan)?;
    // One at a time: after a failure, only files that have no name yet are removed.
    while let Some(next) = made.last() {
        if let Some(tmp) = &next.tmp {
            let path = segments.join(next.segment.name().to_string());
            vfs.rename_noreplace(tmp, &path).at(&path, "name the segment")?;
        }
        made.pop();
    }
    vfs.flush_dir(&segments).at(&segments, "flush the directory")?;
    if let Some(manifest) = &plan.manifest {
        // An object that could not get a second name (a directory, say) must not be replaced: it is moved.
        let path = dir.join(MANIFEST);
        for (moved, linked) in plan.moves.iter().zip(&linked) {
            if moved.from == path && !linked {
                vfs.replace(&path, &moved.to).at(&path, "move it to quarantine")?;
            }
        }
        manifest.write(vfs, dir)?;
    }
    let folder = dir.join(VERSIONS);
    for (name, version) in &plan.versions {
        replace_file(vfs, &folder, &folder.join(name), &version.encode()?)?;
    }
    // The name of the damaged manifest belongs to the new one by now.
    let renamed = plan.moves.iter().zip(linked).filter(|(moved, _)| moved.from != dir.join(MANIFEST));
    for (moved, linked) in renamed {
        if linked {
            vfs.remove_file(&moved.from).at(&moved.from, "remove the damaged file's former name")?;
        } else {
            vfs.replace(&moved.from, &moved.to).at(&moved.from, "move it to quarantine")?;
        }
    }
    if plan.moves.is_empty() {
        return Ok(());
    }
    let quarantine = dir.join(QUARANTINE);
    let changed: BTreeSet<&Path> =
        plan.moves.iter().filter_map(|moved| moved.from.parent()).chain([quarantine.as_path()]).collect();
    changed.into_iter().try_for_each(|folder| vfs.flush_dir(folder).at(folder, "flush the directory"))
}

/// Gives damaged files a second name in quarantine, and writes the lists. Returns for each file whether it
/// has a second name: directories cannot, nor can any file on some file systems. Those are moved at the end.
fn set_aside(vfs: &dyn Vfs, dir: &Path, plan: &Plan) -> Result<Vec<bool>> {
    if plan.moves.is_empty() && plan.lists.is_empty() {
        return Ok(Vec::new());
    }
    let folder = quarantine_folder(vfs, dir)?;
    remove_temporaries(vfs, &folder, TMP_PREFIX);
    let linked = plan.moves.iter().map(|moved| match vfs.link(&moved.from, &moved.to) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => same_bytes(vfs, &moved.from, &moved.to),
        Err(_) => false,
    });
    let linked = linked.collect();
    for (path, text) in &plan.lists {
        replace_file(vfs, &folder, path, text.as_bytes())?;
    }
    vfs.flush_dir(&folder).at(&folder, "flush the directory")?;
    Ok(linked)
}

/// Writes a whole file, in place of an existing one; its name is durable afterwards.
fn replace_file(vfs: &dyn Vfs, folder: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    write_named(vfs, path, bytes, "write the file", true)?;
    vfs.flush_dir(folder).at(folder, "flush the directory")
}
