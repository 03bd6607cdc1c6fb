//! Sound files that have no place in the chain.

use std::collections::HashSet;

use super::chain::Piece;
use super::survey::Found;
use crate::segment::SegmentName;
use crate::state::{Manifest, SegmentRecord};

/// True if a chain begins with the listed files, and consists of files that stay as they are.
pub(super) fn is_as_listed(found: &[Found], pieces: &[Piece], listed: &[SegmentRecord]) -> bool {
    let record = |piece: &Piece| Some(SegmentRecord::of(piece.file(found)?.whole()?));
    let records: Option<Vec<SegmentRecord>> = pieces.iter().map(record).collect();
    records.is_some_and(|records| records.starts_with(listed))
}

/// Refuses sound files that have no place in the chain although some of their commits are lost or had to be
/// rescued: such a file may be all that is left of some entries, and the next merge would remove it. Files
/// that would follow the chain are refused, too.
pub(super) fn refuse_useless(
    found: &mut [Found],
    pieces: &[Piece],
    versions: &[(String, Manifest)],
    is_backup: bool,
) {
    let records = versions.iter().flat_map(|(_, version)| &version.body.segments);
    let pinned: HashSet<SegmentName> = records.map(SegmentRecord::name).collect();
    let mended = pieces.iter().filter(|piece| piece.file(found).and_then(Found::whole).is_none());
    let ranges: Vec<(u64, u64)> = mended.map(|piece| piece.range(found)).collect();
    let end = pieces.last().map_or(0, |piece| piece.range(found).1);
    for (number, file) in found.iter_mut().enumerate().filter(|(_, file)| file.is_whole()) {
        let (first, last) = file.range();
        // Readers would take a file after the chain for its continuation.
        let follows = last > end && !is_backup;
        let meets = follows || ranges.iter().any(|(from, to)| first <= *to && *from <= last);
        if meets && !pieces.contains(&Piece::File(number)) && !pinned.contains(&file.name) {
            file.problem = "it does not fit into the chain of commits".to_owned();
        }
    }
}

/// Refuses files whose ranges overlap the chain, because ranges are nested or disjoint. Files that an
/// interrupted backup brought are refused, too.
pub(super) fn refuse_overlapping(found: &mut [Found], pieces: &[Piece], backup_ends: Option<u64>) {
    let ranges: Vec<(u64, u64)> = pieces.iter().map(|piece| piece.range(found)).collect();
    for file in found.iter_mut().filter(|file| file.is_whole()) {
        let (first, last) = file.range();
        let crosses = |(from, to): &(u64, u64)| {
            first <= *to
                && *from <= last
                && !(first <= *from && *to <= last)
                && !(*from <= first && last <= *to)
        };
        if ranges.iter().any(crosses) {
            file.problem = "its range overlaps that of others; ranges are nested or disjoint".to_owned();
        } else if backup_ends.is_some_and(|end| first > end) {
            file.problem = "a backup that was interrupted brought it; the store does not list it".to_owned();
        }
    }
}
