//! Which files make up commits 1 to N with the least loss.
//!
//! Files are edges between commit numbers; between two that follow each other the links must agree. Damaged
//! files are edges that cost what is lost with them, and a hole costs more than any of them. The cheapest way
//! from 1 to N wins.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::survey::{Found, State};
use crate::format::{COMPAT_LOST, Id};
use crate::segment::SegmentName;
use crate::state::SegmentRecord;

/// A stretch of the repaired chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Piece {
    /// This file: as it is, under another name, or what can be rescued from it. Its number among those found.
    File(usize),
    /// Nothing covers these commits.
    Hole { first: u64, last: u64 },
}

impl Piece {
    pub fn file(self, found: &[Found]) -> Option<&Found> {
        match self {
            Piece::File(number) => found.get(number),
            Piece::Hole { .. } => None,
        }
    }

    /// Its first and its last commit.
    pub fn range(self, found: &[Found]) -> (u64, u64) {
        match self {
            Piece::File(number) => found.get(number).map_or((1, 1), Found::range),
            Piece::Hole { first, last } => (first, last),
        }
    }
}

/// What the chain is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// The store.
    Store,
    /// A version.
    Named,
    /// A version without files that were merged after it: one left out what was superseded later, and still hides what that
    /// had replaced.
    NamedAlone,
}

/// Lost entries, then how little a way is liked.
type Cost = (u128, u128);

/// Entries that were superseded after a version are not in files that were merged after it.
const OTHER_MOMENT: u128 = 1 << 20;

/// A hole loses everything: how much that was is not known.
const HOLE: u128 = 1 << 40;

/// What an earlier repair has left out of a file. How much it was is not known: any content of its own is
/// better. But a merge of such a file has all that was there when it was made: its inputs without one of
/// them, which a power cut may leave, are worse, and so is an unusable file. A file without any entry, as a
/// repair puts into a hole, costs this per commit.
const LEFT_OUT: u128 = HOLE / 4 * 3;

#[derive(Clone, Copy, Debug)]
struct Edge {
    piece: Piece,
    first: u64,
    last: u64,
    cost: Cost,
    /// Links, where they are known.
    links: Option<(Id, Id)>,
}

/// The last commit there is reason to believe in: `listed` by the manifest or a version, or named by
/// a file that belongs to the store. A file that cannot be told follows on directly, and is no smaller than
/// its commits call for.
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

/// Finds the cheapest chain from commit 1 to `last`. `start` is what the first link must be, where that is
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
            // Of two files that exclude each other the earlier one is liked better: a hole at the end is not
            // one.
            let liking = if next > last { 0 } else { len.saturating_mul(len).saturating_mul(2) };
            edges.push(Edge { piece, first, last: next - 1, cost: (HOLE * len, liking), links: None });
        }
    }
    edges.sort_by_key(|edge| edge.first);
    // For each edge the cost of the best way that ends with it, and the edge before.
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
        // One of several files of a version would overlap what the store has there.
        Chain::Named | Chain::NamedAlone => pieces,
    }
}

/// Files that fit nowhere are no evidence of commits after the last one that is `listed`.
pub(super) fn drop_hole_after(listed: u64, pieces: &mut Vec<Piece>) {
    pieces.pop_if(|piece| matches!(piece, Piece::Hole { first, .. } if *first > listed));
}

/// One file for neighbouring holes.
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
    // For equal ranges the highest generation counts: an older one does not know what was lost and written
    // again.
    let mut newest: BTreeMap<(u64, u64), u32> = BTreeMap::new();
    for file in found.iter().filter(|file| file.sound().is_some()) {
        let generation = newest.entry(file.range()).or_default();
        *generation = file.name.generation.max(*generation);
    }
    let edge = |(number, file): (usize, &Found)| {
        let name = file.name;
        let len = u128::from(name.last - name.first + 1);
        // Smaller files are liked better than one that contains them: together their squares are less.
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

/// True for a file that was there before a listed one that covers its commits.
fn is_input(name: SegmentName, records: &[SegmentRecord]) -> bool {
    records.iter().map(SegmentRecord::name).any(|listed| {
        listed.first <= name.first
            && name.last <= listed.last
            && ((listed.first, listed.last) != (name.first, name.last) || name.generation < listed.generation)
    })
}
