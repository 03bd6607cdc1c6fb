//! Which sound files the chain leaves no place for.

use std::collections::HashSet;

use super::chain::Piece;
use super::survey::{Found, State};
use crate::segment::SegmentName;
use crate::state::{Manifest, SegmentRecord};

/// True when a chain begins with the listed files, and goes on with files as they are.
pub(super) fn is_as_listed(found: &[Found], pieces: &[Piece], listed: &[SegmentRecord]) -> bool {
    let records: Option<Vec<SegmentRecord>> = pieces
        .iter()
        .map(|piece| match piece {
            Piece::File(number) => match found.get(*number) {
                Some(Found { state: State::Sound(segment), problem, .. }) if problem.is_empty() => {
                    Some(SegmentRecord::of(segment))
                }
                _ => None,
            },
            Piece::Hole { .. } => None,
        })
        .collect();
    records.is_some_and(|records| records.starts_with(listed))
}

/// A sound file that does not fit into the chain, although commits of it are lost or had to be rescued, may be all that is
/// left of something: it must not stay where the next merge removes what is superseded. Nor may one that would follow it.
pub(super) fn refuse_useless(
    found: &mut [Found],
    pieces: &[Piece],
    versions: &[(String, Manifest)],
    is_backup: bool,
) {
    let records = versions.iter().flat_map(|(_, version)| &version.body.segments);
    let pinned: HashSet<SegmentName> = records.map(SegmentRecord::name).collect();
    let mended = |piece: &Piece| match piece {
        Piece::Hole { first, last } => Some((*first, *last)),
        Piece::File(number) => {
            let file = found.get(*number)?;
            let stays = file.is_whole() && matches!(file.state, State::Sound(_));
            (!stays).then_some((file.name.first, file.name.last))
        }
    };
    let ranges: Vec<(u64, u64)> = pieces.iter().filter_map(mended).collect();
    let end = pieces.last().map_or(0, |piece| match piece {
        Piece::Hole { last, .. } => *last,
        Piece::File(number) => found.get(*number).map_or(0, |file| file.name.last),
    });
    for (number, file) in found.iter_mut().enumerate().filter(|(_, file)| file.is_whole()) {
        let (first, last) = (file.name.first, file.name.last);
        // Readers would take what comes after the chain for its continuation.
        let follows = last > end && !is_backup;
        let meets = follows || ranges.iter().any(|(from, to)| first <= *to && *from <= last);
        if meets && !pieces.contains(&Piece::File(number)) && !pinned.contains(&file.name) {
            file.problem = "it does not fit into the chain of commits".to_owned();
        }
    }
}

/// Ranges are nested or disjoint: what overlaps the chain cannot stay, nor what an interrupted backup brought.
pub(super) fn refuse_overlapping(found: &mut [Found], pieces: &[Piece], backup_ends: Option<u64>) {
    let ranges: Vec<(u64, u64)> = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::File(number) => found.get(*number).map(|file| (file.name.first, file.name.last)),
            Piece::Hole { first, last } => Some((*first, *last)),
        })
        .collect();
    for file in found.iter_mut().filter(|file| file.is_whole()) {
        let (first, last) = (file.name.first, file.name.last);
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
