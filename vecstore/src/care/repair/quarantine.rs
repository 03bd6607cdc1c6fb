//! quarantine/: where files are moved that are damaged, or that may hold what is missing elsewhere. Nothing in it is ever
//! deleted.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::QUARANTINE;
use super::carry_out::{Move, same_bytes};
use super::chain::is_lossy;
use crate::base::error::IoContext;
use crate::base::{Error, Result};
use crate::segment::{Segment, SegmentName};
use crate::state::load::SEGMENTS;
use crate::state::manifest::SegmentRecord;
use crate::vfs::Vfs;

/// The files among `names` for whose commits the store lists a file that lacks entries: they may hold what is missing,
/// and are not to be removed.
pub(crate) fn with_what_is_missing(
    vfs: &dyn Vfs,
    dir: &Path,
    listed: &[SegmentRecord],
    names: &[SegmentName],
) -> Vec<SegmentName> {
    if names.is_empty() {
        return Vec::new();
    }
    let segments = dir.join(SEGMENTS);
    let meets = |a: &SegmentName, b: &SegmentName| a.first <= b.last && b.first <= a.last;
    let lossy: Vec<SegmentName> = listed
        .iter()
        .map(SegmentRecord::name)
        .filter(|listed| names.iter().any(|name| meets(listed, name)))
        .filter(|name| {
            Segment::open(vfs, &segments.join(name.to_string()), *name).is_ok_and(|s| is_lossy(&s))
        })
        .collect();
    names.iter().copied().filter(|name| lossy.iter().any(|lossy| meets(lossy, name))).collect()
}

/// Moves segments to quarantine/, durably.
pub(crate) fn set_aside(vfs: &dyn Vfs, dir: &Path, names: &[SegmentName]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    move_aside(vfs, dir, names)?;
    let segments = dir.join(SEGMENTS);
    vfs.flush_dir(&segments).at(&segments, "flush the directory")
}

/// The same for those who flush the directory of segments themselves.
pub(crate) fn move_aside(vfs: &dyn Vfs, dir: &Path, names: &[SegmentName]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let (segments, folder) = (dir.join(SEGMENTS), quarantine_folder(vfs, dir)?);
    let mut there_already = Vec::new();
    for name in names {
        let moved = Move::choose(vfs, dir, &segments.join(name.to_string()), &name.to_string())?;
        match vfs.rename_noreplace(&moved.from, &moved.to) {
            // A power cut has left both names, or somebody has copied it back.
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists && same_bytes(vfs, &moved.from, &moved.to) =>
            {
                there_already.push(moved.from);
            }
            renamed => renamed.at(&moved.from, "move the segment to quarantine")?,
        }
    }
    vfs.flush_dir(&folder).at(&folder, "flush the directory")?;
    for path in there_already {
        vfs.remove_file(&path).at(&path, "remove the name of a file that is in quarantine")?;
    }
    Ok(())
}

/// The store's quarantine/, made if it is missing, its name durable.
pub(super) fn quarantine_folder(vfs: &dyn Vfs, dir: &Path) -> Result<PathBuf> {
    let folder = dir.join(QUARANTINE);
    match vfs.create_dir(&folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Error::io(&folder, "create the directory", error))
        }
        _ => {
            let flush = || vfs.flush_dir(dir).at(dir, "flush the directory");
            let flushed = flush();
            if flushed.is_err() {
                // Its name may never become durable, whatever a later flush says: unless something is in it, the next
                // attempt makes another one.
                let _ = vfs.remove_dir(&folder);
            }
            flushed.map(|()| folder)
        }
    }
}
