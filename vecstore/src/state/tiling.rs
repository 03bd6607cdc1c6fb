//! Chooses the files that make up commits 1 to N.
//!
//! Commit ranges of published files are nested or disjoint. A file that contains others is a merge output; as
//! long as the manifest does not list it, its inputs are used. Of equal ranges the highest generation wins.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::{Error, Result};
use crate::segment::SegmentName;

/// Chooses files of the directory `segments`, in order: those that the manifest `lists` as far as it goes,
/// then the commits after it. `present` is sorted.
///
/// # Errors
/// No file covers a commit that exists according to the manifest or later files; or a file overlaps others
/// without being a merge of them, because there are two histories in one directory.
pub(crate) fn choose(
    segments: &Path,
    lists: &[SegmentName],
    present: &[SegmentName],
) -> Result<Vec<SegmentName>> {
    // Of names with the same range the last one stays: it has the highest generation.
    let newest: BTreeMap<(u64, u64), SegmentName> =
        present.iter().map(|name| ((name.first, name.last), *name)).collect();
    let listed_last = lists.last().map_or(0, |name| name.last);
    let mut chosen: Vec<SegmentName> = Vec::new();
    let mut next = 1u64;
    loop {
        // Within the manifest's range the manifest decides, as long as its file is present.
        let listed = lists.binary_search_by_key(&next, |name| name.first).ok().and_then(|at| lists.get(at));
        let listed = listed.filter(|name| present.binary_search(name).is_ok());
        let newest_there = || newest.range((next, 0)..=(next, u64::MAX)).next().map(|(_, name)| name);
        if let Some(name) = listed.or_else(newest_there) {
            chosen.push(*name);
            next = name.last.saturating_add(1);
            continue;
        }
        let more = next <= listed_last || newest.keys().next_back().is_some_and(|(first, _)| *first > next);
        // No file begins here: a merge's inputs are incomplete. The smallest file that contains the commit
        // stands in for them.
        let container = newest
            .values()
            .filter(|name| name.first < next && next <= name.last)
            .min_by_key(|name| name.last - name.first);
        match container {
            // Only listed segments are ever merged, so no merge output reaches beyond them.
            Some(container) if container.last > listed_last => {
                return Err(Error::ForeignSegment {
                    path: segments.join(container.to_string()),
                    detail: "it overlaps other segments and is no merge of them".to_owned(),
                });
            }
            Some(container) => {
                chosen.retain(|name| name.first < container.first);
                chosen.push(*container);
                next = container.last.saturating_add(1);
            }
            None if more => {
                return Err(Error::MissingSegment { path: segments.to_owned(), commit: next });
            }
            None => return Ok(chosen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(first: u64, last: u64, generation: u32) -> SegmentName {
        SegmentName { first, last, generation }
    }

    /// The result of `choose`, in a form that tests can compare.
    #[derive(Debug, PartialEq)]
    enum Tiling {
        Whole(Vec<SegmentName>),
        Gap(u64),
        Overlap(SegmentName),
    }

    fn chosen(lists: &[SegmentName], present: &[SegmentName]) -> Tiling {
        let mut present = present.to_vec();
        present.sort_unstable();
        match choose(Path::new("s"), lists, &present) {
            Ok(chosen) => Tiling::Whole(chosen),
            Err(Error::MissingSegment { commit, .. }) => Tiling::Gap(commit),
            Err(Error::ForeignSegment { path, .. }) => {
                Tiling::Overlap(SegmentName::parse(path.file_name().unwrap()).unwrap())
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_group_that_overlaps_another_commit_is_refused() {
        let present = [name(1, 1, 0), name(2, 2, 0), name(2, 3, 0)];
        assert_eq!(chosen(&[name(1, 1, 0)], &present), Tiling::Overlap(name(2, 3, 0)));
    }

    #[test]
    fn single_commits_follow_the_manifest() {
        let listed = [name(1, 4, 2)];
        let present = [name(6, 6, 0), name(1, 4, 2), name(5, 5, 0), name(1, 1, 0)];
        assert_eq!(
            chosen(&listed, &present),
            Tiling::Whole(vec![name(1, 4, 2), name(5, 5, 0), name(6, 6, 0)])
        );
        assert_eq!(chosen(&[], &[]), Tiling::Whole(vec![]));
    }

    #[test]
    fn a_gap_is_named() {
        assert_eq!(chosen(&[], &[name(1, 1, 0), name(3, 3, 0)]), Tiling::Gap(2));
        assert_eq!(chosen(&[name(1, 2, 0)], &[]), Tiling::Gap(1));
        assert_eq!(chosen(&[], &[name(2, 2, 0)]), Tiling::Gap(1));
    }

    #[test]
    fn an_unlisted_output_is_ignored_while_its_inputs_are_whole() {
        let inputs = [name(1, 1, 0), name(2, 2, 0), name(3, 3, 0)];
        let mut present = inputs.to_vec();
        present.push(name(1, 3, 1));
        assert_eq!(chosen(&inputs, &present), Tiling::Whole(inputs.to_vec()));
        assert_eq!(chosen(&[], &present), Tiling::Whole(inputs.to_vec()));
        present.remove(1);
        assert_eq!(chosen(&inputs, &present), Tiling::Whole(vec![name(1, 3, 1)]), "an input is gone");
        assert_eq!(chosen(&[name(1, 3, 1)], &inputs), Tiling::Whole(inputs.to_vec()), "the output is gone");
    }

    #[test]
    fn a_file_stands_in_for_others_only_among_listed_commits() {
        let single = |commits: std::ops::RangeInclusive<u64>| commits.map(|at| name(at, at, 0));
        let listed: Vec<_> = single(1..=5).collect();
        let mut present: Vec<_> = single(1..=12).collect();
        present.push(name(1, 12, 0));
        assert_eq!(chosen(&listed, &present), Tiling::Whole(single(1..=12).collect()), "smaller ones tile");
        let present: Vec<_> = single(1..=4).chain([name(1, 6, 0), name(6, 6, 0)]).collect();
        let with_listed = |last: u64| chosen(&single(1..=last).collect::<Vec<_>>(), &present);
        assert_eq!(with_listed(4), Tiling::Overlap(name(1, 6, 0)), "no merge reaches beyond what is listed");
        assert_eq!(with_listed(6), Tiling::Whole(vec![name(1, 6, 0)]));
    }

    #[test]
    fn the_highest_generation_of_a_range_wins() {
        let present = [name(1, 1, 0), name(1, 1, 1)];
        assert_eq!(chosen(&[], &present), Tiling::Whole(vec![name(1, 1, 1)]));
    }
}
