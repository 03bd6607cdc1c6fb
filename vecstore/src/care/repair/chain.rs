//! Chooses the files that make up commits 1 to N with the least loss.
//!
//! Files are edges between commit numbers, and the links of two edges that follow each other must agree. A
//! damaged file costs the entries that are lost with it, and a hole costs more than any file. The cheapest
//! way from 1 to N wins.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::survey::{Found, State};
use crate::format::{COMPAT_LOST, Id};
use crate::segment::SegmentName;
use crate::state::SegmentRecord;

/// A part of the repaired chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Piece {
    /// The file of this number among those found: as it is, under another name, or the entries rescued from
    /// it.
    File(usize),
    /// Commits that no file covers.
    Hole { first: u64, last: u64 },
}

impl Piece {
    pub fn file(self, found: &[Found]) -> Option<&Found> {
        match self {
            Piece::File(number) => found.get(number),
            Piece::Hole { .. } => None,
        }
    }

    /// The first and the last commit of the piece.
    pub fn range(self, found: &[Found]) -> (u64, u64) {
        match self {
            Piece::File(number) => found.get(number).map_or((1, 1), Found::range),
            Piece::Hole { first, last } => (first, last),
        }
    }
}

/// What a chain is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// The store.
    Store,
    /// A version.
    Named,
    /// A version, without files that were merged after it. Such a file lacks entries that were superseded
    /// later, but still hides the older entries that these had replaced.
    NamedAlone,
}

/// Lost entries, then a penalty that decides between ways with equal loss.
type Cost = (u128, u128);

/// Cost of a file that was merged after a version: it lacks entries that were superseded after the version.
const OTHER_MOMENT: u128 = 1 << 20;

/// Cost of a hole, per commit: everything is lost, and nothing tells how much that was.
const HOLE: u128 = 1 << 40;

/// Cost of a file from which an earlier repair has left out entries; their number is unknown.
///
/// Any file with content of its own is better. An unusable file is worse, and so are the inputs of a merge
/// with one of them missing, as a power cut may leave them: the output of a merge of such a file has all
/// entries that existed then. A file without any entry, as a repair puts into a hole, costs this per commit.
const LEFT_OUT: u128 = HOLE / 4 * 3;

#[derive(Clone, Copy, Debug)]
struct Edge {
    piece: Piece,
    first: u64,
    last: u64,
    cost: Cost,
    /// Link in and link out, if they are known.
    links: Option<(Id, Id)>,
}

/// The last commit for which there is evidence: `listed` by the manifest or a version, or in the footer of a
/// file of the store. A file without a readable footer counts if it follows directly, and is large enough for
/// its commits.
pub(super) fn last_commit(listed: u64, found: &[Found], len: impl Fn(&Found) -> u64) -> u64 {
    let told = found.iter().filter(|file| file.footer().is_some()).map(|file| file.name.last).max();
    let mut last = told.unwrap_or(0).max(listed);
    for file in found.iter().filter(|file| file.damaged) {
        let name = file.called;
        if name.first == last + 1 && name.last - name.first <= len(file) {
            last = name.last;
        }
    }
    last
}

/// Finds the cheapest chain from commit 1 to `last`. `start`: the link with which the chain must begin, if
/// known.
pub(super) fn cheapest(
    found: &[Found],
    records: &[SegmentRecord],
    last: u64,
    start: Option<Id>,
    of: Chain,
) -> Vec<Piece> {
    let mut edges = edges(found, records, last, of);
    let mut places: BTreeSet<u64> = [1, last + 1].into();
    places.extend(edges.iter().flat_map(|edge| [edge.first, edge.last + 1]));
    places.extend(records.iter().flat_map(|record| [record.first, record.last + 1]));
    places.retain(|place| *place <= last + 1);
    let ordered: Vec<u64> = places.into_iter().collect();
    for pair in ordered.windows(2) {
        if let [first, next] = *pair {
            let len = u128::from(next - first);
            let piece = Piece::Hole { first, last: next - 1 };
            // Of two files that exclude each other the earlier one is preferred: so a hole at the end has no
            // penalty.
            let liking = if next > last { 0 } else { len.saturating_mul(len).saturating_mul(2) };
            edges.push(Edge { piece, first, last: next - 1, cost: (HOLE * len, liking), links: None });
        }
    }
    edges.sort_by_key(|edge| edge.first);
    // For each edge, the cost of the best way that ends with it, and the edge before.
    let mut best: Vec<Option<(Cost, Option<usize>)>> = vec![None; edges.len()];
    let mut ending: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (number, edge) in edges.iter().enumerate() {
        let way = if edge.first == 1 {
            let fits = edge.links.zip(start).is_none_or(|((link_in, _), start)| link_in == start);
            fits.then_some(((0, 0), None))
        } else {
            let before = ending.get(&(edge.first - 1)).map_or(&[][..], Vec::as_slice);
            let fits = |before: &usize| {
                let links = edges.get(*before).and_then(|edge| edge.links).zip(edge.links);
                links.is_none_or(|((_, link_out), (link_in, _))| link_in == link_out)
            };
            let ways = before.iter().filter(|before| fits(before)).filter_map(|before| {
                let (cost, _) = best.get(*before).copied().flatten()?;
                Some((cost, Some(*before)))
            });
            ways.min_by_key(|(cost, _)| *cost)
        };
        if let (Some((cost, before)), Some(place)) = (way, best.get_mut(number)) {
            let total = (cost.0 + edge.cost.0, cost.1.saturating_add(edge.cost.1));
            *place = Some((total, before));
            ending.entry(edge.last).or_default().push(number);
        }
    }
    let ends = ending.get(&last).into_iter().flatten().copied();
    let mut at = ends.min_by_key(|number| best.get(*number).copied().flatten().map(|(cost, _)| cost));
    let mut pieces = Vec::new();
    while let Some(edge) = at.and_then(|number| edges.get(number)) {
        pieces.push(edge.piece);
        at = at.and_then(|number| best.get(number).copied().flatten()).and_then(|(_, before)| before);
    }
    pieces.reverse();
    match of {
        Chain::Store => join_holes(pieces),
        // One file for several holes of a version would overlap the store's files there.
        Chain::Named | Chain::NamedAlone => pieces,
    }
}

/// Drops a hole after the last `listed` commit: files that fit nowhere are no evidence of commits there.
pub(super) fn drop_hole_after(listed: u64, pieces: &mut Vec<Piece>) {
    pieces.pop_if(|piece| matches!(piece, Piece::Hole { first, .. } if *first > listed));
}

/// Joins neighbouring holes, so that one file fills them.
fn join_holes(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (joined.last_mut(), piece) {
            (Some(Piece::Hole { last, .. }), Piece::Hole { last: end, .. }) => *last = end,
            _ => joined.push(piece),
        }
    }
    joined
}

fn edges(found: &[Found], records: &[SegmentRecord], last: u64, of: Chain) -> Vec<Edge> {
    let listed: HashMap<SegmentName, &SegmentRecord> =
        records.iter().map(|record| (record.name(), record)).collect();
    // Of equal ranges only the highest generation counts: an older file does not know which entries were lost
    // and written again.
    let mut newest: BTreeMap<(u64, u64), u32> = BTreeMap::new();
    for file in found.iter().filter(|file| file.sound().is_some()) {
        let generation = newest.entry(file.range()).or_default();
        *generation = file.name.generation.max(*generation);
    }
    let edge = |(number, file): (usize, &Found)| {
        let name = file.name;
        let len = u128::from(name.last - name.first + 1);
        // Smaller files are preferred to one that contains them: the sum of their squares is less.
        let size = len.saturating_mul(len);
        let cost = match &file.state {
            State::Sound(segment) if listed.get(&name) == Some(&&SegmentRecord::of(segment)) => {
                (0, u128::from(file.is_misplaced()))
            }
            State::Sound(_) if newest.get(&file.range()) != Some(&name.generation) => return None,
            State::Sound(_) if of == Chain::NamedAlone && !is_input(name, records) => return None,
            State::Sound(segment) if segment.is_lossy() => {
                let commits = if segment.entry_count() == 0 { len } else { 1 };
                (LEFT_OUT * commits, size)
            }
            State::Sound(_) if of == Chain::Named && !is_input(name, records) => (OTHER_MOMENT, size),
            State::Sound(_) => (0, size),
            State::Remains(_)
                if of == Chain::NamedAlone && !listed.contains_key(&name) && !is_input(name, records) =>
            {
                return None;
            }
            State::Remains(remains) => {
                let left_out = if remains.footer.compat & COMPAT_LOST != 0 { LEFT_OUT } else { 0 };
                (left_out + u128::from(remains.lost().max(1)), size.saturating_mul(4))
            }
            State::Nothing if file.damaged => (HOLE * len - 1, size),
            State::Nothing => return None,
        };
        let links = file.footer().map(|footer| (footer.link_in, footer.link_out));
        let piece = Piece::File(number);
        (name.last <= last).then_some(Edge { piece, first: name.first, last: name.last, cost, links })
    };
    found.iter().enumerate().filter_map(edge).collect()
}

/// True for a file that existed before a listed file that covers its commits.
fn is_input(name: SegmentName, records: &[SegmentRecord]) -> bool {
    records.iter().map(SegmentRecord::name).any(|listed| {
        listed.first <= name.first
            && name.last <= listed.last
            && ((listed.first, listed.last) != (name.first, name.last) || name.generation < listed.generation)
    })
}
