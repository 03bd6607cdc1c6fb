//! Which neighbouring segments to merge: size-tiered, wide fan-in for small files.
//!
//! A segment's tier follows from its bytes. Tiers never increase from left to right once merging has caught up, so
//! the file count is bounded by fan-in times tiers, plus the segments at the size limit.

use std::ops::Range;

/// Bytes up to which a segment counts as fresh, whatever wrote it.
pub(super) const FRESH: u64 = 1 << 20;
/// How many fresh segments are merged at once.
const FRESH_FAN_IN: usize = 64;
/// How many segments of a higher tier are merged at once; each tier is this much larger than the one below.
const FAN_IN: u64 = 16;

/// What a merge may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Larger outputs are not planned.
    pub max_bytes: u64,
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

/// The next merge that keeps the number of files bounded; `None` when there is nothing to do.
///
/// Looks at the newest segments, where no segment is of a higher tier than `level`: once enough of them are of that very tier, they
/// (and smaller ones between them) become one of the tier above. So a byte is rewritten once per tier.
///
/// The highest tier goes first: with a steady writer there is always something to merge at the lowest, and a long merge
/// lets shorter ones of newer files go in between.
pub(crate) fn background(sizes: &[u64], limits: Limits) -> Option<Range<usize>> {
    tail(sizes, FRESH_FAN_IN, limits)
}

/// The same with another number of fresh segments that are worth a merge: fewer, while a long merge keeps its inputs.
pub(crate) fn tail(sizes: &[u64], fresh: usize, limits: Limits) -> Option<Range<usize>> {
    // More than half full: joining such a segment would rewrite much to gain little.
    let full = |bytes: u64| bytes > limits.max_bytes / 2;
    let tiers: Vec<Option<u32>> = sizes.iter().map(|bytes| (!full(*bytes)).then(|| tier(*bytes))).collect();
    let highest = tiers.iter().flatten().copied().max()?;
    for level in (0..=highest).rev() {
        let above = |tier: &Option<u32>| tier.is_none_or(|tier| tier > level);
        let start = tiers.iter().rposition(above).map_or(0, |position| position + 1);
        let same = |tier: &Option<u32>| *tier == Some(level);
        let tail = tiers.get(start..).unwrap_or_default();
        let wanted = if level == 0 { fresh } else { FAN_IN as usize };
        if tail.iter().filter(|tier| same(tier)).count() >= wanted {
            let end = start + tail.iter().rposition(same).map_or(0, |position| position + 1);
            return within(sizes, start..end, limits);
        }
    }
    None
}

/// The longest beginning of a range whose bytes stay within the limit; at least two segments, or none.
fn within(sizes: &[u64], range: Range<usize>, limits: Limits) -> Option<Range<usize>> {
    let mut start = range.start;
    while start < range.end {
        let mut bytes = 0u64;
        let fitting = sizes
            .get(start..range.end)
            .unwrap_or_default()
            .iter()
            .take_while(|size| {
                bytes = bytes.saturating_add(**size);
                bytes <= limits.max_bytes
            })
            .count();
        if fitting >= 2 {
            return Some(start..start + fitting);
        }
        start += fitting.max(1);
    }
    None
}

/// What an explicit compaction still has to do: neighbours that fit together, or a single segment worth rewriting
/// because entries in it are superseded.
pub(crate) fn compact(sizes: &[u64], dead: &[bool], limits: Limits) -> Option<Range<usize>> {
    within(sizes, 0..sizes.len(), limits)
        .or_else(|| dead.iter().position(|dead| *dead).map(|position| position..position + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_bytes: 4 << 30 };

    /// Commits one after the other, merging whenever a plan says so; returns sizes, bytes merged and most files.
    fn simulate(commits: usize, bytes: u64, limits: Limits) -> (Vec<u64>, u64, usize) {
        let (mut sizes, mut merged, mut most) = (Vec::new(), 0, 0);
        for _ in 0..commits {
            sizes.push(bytes);
            most = most.max(sizes.len());
            while let Some(range) = background(&sizes, limits) {
                let output: u64 = sizes[range.clone()].iter().sum();
                assert!(range.len() >= 2 && output <= limits.max_bytes);
                merged += output;
                sizes.splice(range, [output]);
            }
        }
        (sizes, merged, most)
    }

    #[test]
    fn files_stay_few_and_rewriting_cheap() {
        let (sizes, merged, most) = simulate(31_250, 68 << 10, LIMITS);
        let total: u64 = sizes.iter().sum();
        assert_eq!(total, 31_250 * (68 << 10));
        assert!(most <= 128, "{most} files");
        assert!(merged <= 3 * total, "{} x", merged as f64 / total as f64);
    }

    #[test]
    fn full_segments_are_left_alone() {
        let limits = Limits { max_bytes: 1 << 20 };
        let (sizes, merged, _) = simulate(2_000, 100 << 10, limits);
        assert!(sizes.iter().all(|size| *size <= 1 << 20));
        assert!(merged <= 2 * 2_000 * (100 << 10));
        assert_eq!(background(&[1 << 20; 50], limits), None);
    }

    #[test]
    fn compact_joins_what_fits_and_rewrites_what_is_dead() {
        let limits = Limits { max_bytes: 10 };
        assert_eq!(compact(&[9, 4, 4, 4], &[false; 4], limits), Some(1..3));
        assert_eq!(compact(&[9, 9], &[false, true], limits), Some(1..2));
        assert_eq!(compact(&[9, 9], &[false, false], limits), None);
        assert_eq!(compact(&[], &[], limits), None);
    }
}
