//! `quarantine/`: damaged files, and files that may hold entries missing elsewhere. Nothing in it is ever
//! deleted.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::temporaries::{if_there, make_folder};
use crate::base::{Error, IoContext, Result};
use crate::format::blocks::{BLOCK_LEN_LOG2, blocks_of};
use crate::format::{hex, random_id};
use crate::segment::{Pieces, Segment, SegmentName};
use crate::state::{SEGMENTS, SegmentRecord};
use crate::vfs::Vfs;

/// Directory of the quarantine within a store.
pub(crate) const QUARANTINE: &str = "quarantine";

/// The move of a file to quarantine.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub from: PathBuf,
    pub to: PathBuf,
}

impl Move {
    /// Chooses a name in quarantine: the file's own, unless another file has it. The very file may be there
    /// already, if an interrupted repair has moved it.
    pub fn choose(vfs: &dyn Vfs, dir: &Path, from: &Path, wanted: &str) -> Result<Self> {
        let mut to = dir.join(QUARANTINE).join(wanted);
        let is_taken = if_there(vfs.metadata(&to)).at(&to, "look at the file")?.is_some();
        if is_taken && !same_bytes(vfs, from, &to) {
            to.set_file_name(format!("{wanted}.{}", hex(&random_id()?)));
        }
        Ok(Move { from: from.to_owned(), to })
    }
}

/// True if two files have the same bytes, as far as these can be read. The same ranges must be unreadable in
/// both, as in one file with two names.
pub(crate) fn same_bytes(vfs: &dyn Vfs, a: &Path, b: &Path) -> bool {
    let (Ok(mut a), Ok(mut b)) = (Pieces::open(vfs, a), Pieces::open(vfs, b)) else { return false };
    let len = a.len();
    len == b.len()
        && blocks_of(0..len, BLOCK_LEN_LOG2).all(|block| match (a.read(block.clone()), b.read(block)) {
            (Ok(a), Ok(b)) => a == b,
            (Err(a), Err(b)) => a.to_string() == b.to_string(),
            _ => false,
        })
}

/// The files among `names` that may hold entries missing elsewhere, and must not be removed: for some of
/// their commits the store lists a file that lacks entries or is damaged.
pub(crate) fn with_what_is_missing(
    vfs: &dyn Vfs,
    dir: &Path,
    listed: &[SegmentRecord],
    names: &[SegmentName],
) -> Result<Vec<SegmentName>> {
    let meets = |a: &SegmentName, b: &SegmentName| a.first <= b.last && b.first <= a.last;
    let mut lossy: Vec<SegmentName> = listed.iter().map(SegmentRecord::name).collect();
    lossy.retain(|listed| names.iter().any(|name| meets(listed, name)));
    let mut kept = Vec::new();
    for name in lossy {
        match Segment::open(vfs, &dir.join(SEGMENTS).join(name.to_string()), name) {
            Ok(segment) if !segment.is_lossy() => {}
            Ok(_) | Err(Error::Damaged { .. }) => kept.push(name),
            // Whether this file lacks entries is not known now.
            Err(error) => return Err(error),
        }
    }
    Ok(names.iter().copied().filter(|name| kept.iter().any(|kept| meets(kept, name))).collect())
}

/// Moves segments to `quarantine/`, durably.
pub(crate) fn set_aside(vfs: &dyn Vfs, dir: &Path, names: &[SegmentName]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    move_aside(vfs, dir, names)?;
    let segments = dir.join(SEGMENTS);
    vfs.flush_dir(&segments).at(&segments, "flush the directory")
}

/// As [`set_aside`], for a caller that flushes the directory of segments itself.
pub(crate) fn move_aside(vfs: &dyn Vfs, dir: &Path, names: &[SegmentName]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let (segments, folder) = (dir.join(SEGMENTS), quarantine_folder(vfs, dir)?);
    let mut there_already = Vec::new();
    for name in names {
        let moved = Move::choose(vfs, dir, &segments.join(name.to_string()), &name.to_string())?;
        let is_same = || same_bytes(vfs, &moved.from, &moved.to);
        match vfs.rename_noreplace(&moved.from, &moved.to) {
            // A power cut left both names, or the file was copied back.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && is_same() => {
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

/// The store's `quarantine/` with a durable name, made if it is missing.
pub(crate) fn quarantine_folder(vfs: &dyn Vfs, dir: &Path) -> Result<PathBuf> {
    make_folder(vfs, dir, QUARANTINE, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::RealFs;

    /// A listed segment that cannot be opened may lack entries that leftovers have: nothing is removed for
    /// now.
    #[test]
    fn a_segment_that_cannot_be_opened_is_not_taken_for_whole() {
        let dir = tempfile::tempdir().unwrap();
        let listed = SegmentRecord {
            first: 1,
            last: 2,
            generation: 0,
            footer_crc: 7,
            file_len: 1,
            ..SegmentRecord::default()
        };
        let leftover = SegmentName { first: 1, last: 1, generation: 0 };
        // A directory cannot be mapped, and does not count as a damaged file.
        std::fs::create_dir_all(dir.path().join(SEGMENTS).join(listed.name().to_string())).unwrap();
        let missing = with_what_is_missing(&RealFs, dir.path(), &[listed], &[leftover]);
        assert!(matches!(missing, Err(Error::Io { .. })), "{missing:?}");
    }
}
