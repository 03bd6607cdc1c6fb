//! Which neighbouring segments to merge: size-tiered, wide fan-in for small files.
//!
//! A segment's tier follows from its bytes. Once merging has caught up, tiers never increase from older to
//! newer segments, so the number of files is bounded by fan-in times tiers, plus the barriers: segments that
//! are full or damaged, which merges leave alone. Segments before a barrier get no new neighbours, and are
//! merged as far as they fit.

use std::ops::Range;

/// Bytes up to which a segment counts as fresh, written by a commit or by a merge.
pub(super) const FRESH: u64 = 1 << 20;
/// How many fresh segments are merged at once.
const FRESH_FAN_IN: usize = 64;
/// How many segments of a higher tier are merged at once. Each tier's limit is this many times the limit of
/// the tier below.
const FAN_IN: u64 = 16;
/// The highest tier of small files.
const SMALL_TIER: u32 = 1;
/// Most entries of a segment: entry numbers have 32 bits.
pub(super) const MAX_ENTRIES: u64 = u32::MAX as u64 - 1;

/// A lane. One merge of small files, which takes a fraction of a second, and one merge of large files may be
/// under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Small,
    Large,
}

/// A segment, as a plan sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Piece {
    pub bytes: u64,
    pub entries: u64,
    /// True if merges leave the segment alone: it is damaged, or in part not understood.
    pub is_left_alone: bool,
    /// True if the segment is worth rewriting without a neighbour.
    pub is_worth_rewriting: bool,
}

/// True for a segment that background merges leave alone. A segment that is damaged, or in part not
/// understood, is never copied; joining one that is more than half full would rewrite much to gain little.
pub(crate) fn is_barrier(piece: &Piece, max_bytes: u64) -> bool {
    piece.is_left_alone || piece.bytes > max_bytes / 2
}

/// How many of neighbouring segments merges could reduce: those that are no barriers, and not alone between
/// two barriers.
pub(super) fn mergeable(barriers: impl Iterator<Item = bool>) -> usize {
    let (mut all, mut run) = (0, 0);
    for is_barrier in barriers.chain([true]) {
        run += 1;
        if is_barrier {
            all += if run > 2 { run - 1 } else { 0 };
            run = 0;
        }
    }
    all
}

fn tier(bytes: u64) -> u32 {
    let mut tier = 0;
    let mut limit = FRESH;
    while bytes > limit {
        tier += 1;
        limit = limit.saturating_mul(FAN_IN);
    }
    tier
}

/// The next background merge of a lane; `None` if there is nothing to do.
///
/// For each tier, the plan looks at the newest segments of which none is of a higher tier. Once enough of
/// them are of the tier itself, they (and the smaller ones between them) become one segment of the tier
/// above. So a byte is rewritten once per tier.
///
/// The highest tier of the lane goes first: with a steady writer there is always something to merge at the
/// lowest.
pub(crate) fn background(pieces: &[Piece], lane: Lane, max_bytes: u64) -> Option<Range<usize>> {
    let is_barrier = |piece: &Piece| is_barrier(piece, max_bytes);
    let open = pieces.iter().rposition(is_barrier).map_or(0, |barrier| barrier + 1);
    let is_of_lane = |tier: u32| (tier <= SMALL_TIER) == (lane == Lane::Small);
    closed_runs(pieces, open, is_barrier)
        .filter(|run| is_of_lane(highest(pieces, run.clone()).unwrap_or(0)))
        .find_map(|run| within(pieces, run, max_bytes))
        .or_else(|| {
            let top = highest(pieces, open..pieces.len())?;
            let levels = (0..=top).rev().filter(|level| is_of_lane(*level));
            levels.into_iter().find_map(|level| tail(pieces, open, level, max_bytes))
        })
        .or_else(|| if lane == Lane::Large { worth_rewriting(pieces) } else { None })
}

/// The first segment that is to be rewritten alone.
fn worth_rewriting(pieces: &[Piece]) -> Option<Range<usize>> {
    let at = pieces.iter().position(|piece| piece.is_worth_rewriting && !piece.is_left_alone)?;
    Some(at..at + 1)
}

/// Ranges of neighbours between two barriers, or before the first barrier.
fn closed_runs<'a>(
    pieces: &'a [Piece],
    open: usize,
    is_barrier: impl Fn(&Piece) -> bool + 'a,
) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut at = 0;
    pieces.get(..open).unwrap_or_default().split(is_barrier).map(move |run| {
        let start = at;
        at += run.len() + 1;
        start..start + run.len()
    })
}

fn highest(pieces: &[Piece], run: Range<usize>) -> Option<u32> {
    pieces.get(run)?.iter().map(|piece| tier(piece.bytes)).max()
}

/// The newest segments from `open` on, up to tier `level`, if enough of them are of that tier.
fn tail(pieces: &[Piece], open: usize, level: u32, max_bytes: u64) -> Option<Range<usize>> {
    let above = |piece: &Piece| tier(piece.bytes) > level;
    let run = pieces.get(open..)?;
    let start = open + run.iter().rposition(above).map_or(0, |position| position + 1);
    let same = |piece: &&Piece| tier(piece.bytes) == level;
    let tail = pieces.get(start..)?;
    let wanted = if level == 0 { FRESH_FAN_IN } else { FAN_IN as usize };
    if tail.iter().filter(same).count() < wanted {
        return None;
    }
    let end = start + tail.iter().rposition(|piece| same(&piece))? + 1;
    within(pieces, start..end, max_bytes)
}

/// The first neighbours in a range, at least two, that together stay within the limits; as many as fit.
fn within(pieces: &[Piece], range: Range<usize>, max_bytes: u64) -> Option<Range<usize>> {
    let mut start = range.start;
    while start < range.end {
        let (mut bytes, mut entries) = (0u64, 0u64);
        let fits = |piece: &&Piece| {
            bytes = bytes.saturating_add(piece.bytes);
            entries = entries.saturating_add(piece.entries);
            bytes <= max_bytes && entries <= MAX_ENTRIES
        };
        let fitting = pieces.get(start..range.end).unwrap_or_default().iter().take_while(fits).count();
        if fitting >= 2 {
            return Some(start..start + fitting);
        }
        start += fitting.max(1);
    }
    None
}

/// The first merge of a compaction: the fresh segments at the end become one.
pub(crate) fn fresh(pieces: &[Piece], max_bytes: u64) -> Option<Range<usize>> {
    let is_old = |piece: &Piece| is_barrier(piece, max_bytes) || piece.bytes > FRESH;
    let start = pieces.iter().rposition(is_old).map_or(0, |old| old + 1);
    within(pieces, start..pieces.len(), max_bytes)
}

/// The next merge of a compaction: neighbours that fit together, or a single segment worth rewriting because
/// entries in it are superseded.
pub(crate) fn compact(pieces: &[Piece], max_bytes: u64) -> Option<Range<usize>> {
    let is_left_alone = |piece: &Piece| piece.is_left_alone;
    let open = pieces.iter().rposition(is_left_alone).map_or(0, |barrier| barrier + 1);
    closed_runs(pieces, open, is_left_alone)
        .chain(std::iter::once(open..pieces.len()))
        .find_map(|run| within(pieces, run, max_bytes))
        .or_else(|| worth_rewriting(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BYTES: u64 = 4 << 30;

    fn pieces(sizes: &[u64]) -> Vec<Piece> {
        sizes.iter().map(|bytes| Piece { bytes: *bytes, entries: 1, ..Piece::default() }).collect()
    }

    /// The next merge of either lane, the small one first.
    fn next(pieces: &[Piece], max_bytes: u64) -> Option<Range<usize>> {
        [Lane::Small, Lane::Large].into_iter().find_map(|lane| background(pieces, lane, max_bytes))
    }

    /// Merges until there is nothing to do; returns the bytes written.
    fn settle(pieces: &mut Vec<Piece>, max_bytes: u64) -> u64 {
        let mut merged = 0;
        while let Some(range) = next(pieces, max_bytes) {
            let inputs = &pieces[range.clone()];
            let output: u64 = inputs.iter().map(|piece| piece.bytes).sum();
            assert!(range.len() >= 2 && output <= max_bytes);
            assert!(inputs.iter().all(|piece| !is_barrier(piece, max_bytes)));
            merged += output;
            pieces.splice(range, [Piece { bytes: output, entries: 1, ..Piece::default() }]);
        }
        merged
    }

    /// Adds commits one by one, merging whenever a plan says so. Returns the sizes, the bytes merged and the
    /// most files.
    fn simulate(commits: usize, bytes: u64, max_bytes: u64) -> (Vec<u64>, u64, usize) {
        let (mut all, mut merged, mut most) = (Vec::new(), 0, 0);
        for _ in 0..commits {
            all.extend(pieces(&[bytes]));
            most = most.max(all.len());
            merged += settle(&mut all, max_bytes);
        }
        (all.iter().map(|piece| piece.bytes).collect(), merged, most)
    }

    #[test]
    fn files_stay_few_and_rewriting_cheap() {
        let (sizes, merged, most) = simulate(31_250, 68 << 10, MAX_BYTES);
        let total: u64 = sizes.iter().sum();
        assert_eq!(total, 31_250 * (68 << 10));
        assert!(most <= 128, "{most} files");
        assert!(merged <= 3 * total, "{} x", merged as f64 / total as f64);
    }

    #[test]
    fn full_segments_are_left_alone() {
        let max_bytes = 1 << 20;
        let (sizes, merged, _) = simulate(2_000, 100 << 10, max_bytes);
        assert!(sizes.iter().all(|size| *size <= 1 << 20));
        assert!(merged <= 2 * 2_000 * (100 << 10));
        assert_eq!(next(&pieces(&[1 << 20; 50]), max_bytes), None);
    }

    #[test]
    fn damaged_segments_are_merged_around() {
        for (files, damaged) in [(3_000, 1), (3_000, 50), (3_000, 1_000)] {
            let mut all = pieces(&vec![64 << 10; files]);
            (0..damaged).for_each(|number| all[number * files / damaged].is_left_alone = true);
            settle(&mut all, MAX_BYTES);
            assert_eq!(all.iter().filter(|piece| piece.is_left_alone).count(), damaged);
            assert!(all.len() <= 200 + 2 * damaged, "{} files, {damaged} of them damaged", all.len());
        }
    }

    #[test]
    fn each_lane_has_its_files() {
        // Large segments come first, as they do once merging has caught up.
        let mut sizes = vec![256 << 20; 16];
        sizes.extend([1 << 10; 64]);
        assert_eq!(background(&pieces(&sizes), Lane::Small, MAX_BYTES), Some(16..80));
        assert_eq!(background(&pieces(&sizes), Lane::Large, MAX_BYTES), Some(0..16));
        sizes.truncate(79);
        assert_eq!(background(&pieces(&sizes), Lane::Small, MAX_BYTES), None);
        sizes.splice(16.., [16 << 20; 16]);
        assert_eq!(background(&pieces(&sizes), Lane::Small, MAX_BYTES), Some(16..32));
    }

    #[test]
    fn a_merge_has_at_most_max_entries() {
        let piece = Piece { bytes: 1 << 10, entries: 1 << 31, ..Piece::default() };
        assert_eq!(compact(&[piece; 3], MAX_BYTES), None);
        let smaller = Piece { entries: (1 << 31) - 1, ..piece };
        assert_eq!(compact(&[piece, smaller, piece], MAX_BYTES), None);
        assert_eq!(compact(&[smaller, smaller, piece], MAX_BYTES), Some(0..2));
    }

    #[test]
    fn compact_joins_neighbours_that_fit_and_rewrites_dead_segments() {
        let max_bytes = 10;
        // Sizes, the segment that is worth rewriting, and the segment that is damaged.
        let compacted = |sizes: &[u64], worth: Option<usize>, damaged: Option<usize>| {
            let mut all = pieces(sizes);
            worth.into_iter().for_each(|at| all[at].is_worth_rewriting = true);
            damaged.into_iter().for_each(|at| all[at].is_left_alone = true);
            compact(&all, max_bytes)
        };
        assert_eq!(compacted(&[9, 4, 4, 4], None, None), Some(1..3));
        assert_eq!(compacted(&[9, 9], Some(1), None), Some(1..2));
        assert_eq!(compacted(&[9, 9], None, None), None);
        assert_eq!(compacted(&[], None, None), None);
        assert_eq!(compacted(&[4, 4, 4, 4], Some(1), Some(1)), Some(2..4));
        assert_eq!(compacted(&[4, 4, 4], Some(1), Some(1)), None);
    }

    #[test]
    fn fresh_segments_at_the_end_are_merged_together() {
        let all = pieces(&[32 << 20, 1 << 10, 2 << 20, 1 << 20, 1 << 10]);
        assert_eq!(fresh(&all, MAX_BYTES), Some(3..5));
        assert_eq!(fresh(&all[..4], MAX_BYTES), None);
    }

    #[test]
    fn a_file_alone_between_two_barriers_does_not_count() {
        let count = |text: &str| mergeable(text.chars().map(|c| c == '|'));
        let all = ["", ".", "..", "|.|.|.|", "..|.|...", "|..|", "||"].map(count);
        assert_eq!(all, [0, 0, 2, 0, 5, 2, 0]);
    }
}
