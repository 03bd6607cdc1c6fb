//! The rule for kills: of each key, the newest entry is live, and no other.
//!
//! The rule holds over all segments of a store, also after merges, restores and repairs. A merge leaves out
//! superseded entries, so a kill may name an entry that no longer exists. But an existing entry is superseded
//! exactly if a newer entry of its key exists, and a tombstone counts as one. If the newest of several
//! entries of a key is lost, a repair puts a tombstone in its place.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::base::{Error, Result};
use crate::format::records::Kill;
use crate::segment::{Segment, Sorted};
use crate::state::{View, kill_of};

/// An entry: the number of its segment in the view, and its number in the segment.
pub(super) type Place = (usize, usize);

/// The keys of a view's segments.
pub(super) trait Keys {
    /// The hash at a position of a segment's index, and the entry that it belongs to.
    fn hash_at(&mut self, segment: usize, position: usize) -> Result<Option<(u64, usize)>>;
    /// The key of an entry.
    fn key(&mut self, place: Place) -> Result<Vec<u8>>;
    /// True if entries with equal hashes surely have the same key. Then their keys need not be read.
    fn are_of_one(&self, _places: &[Place]) -> bool {
        false
    }
}

/// Keys of segments that are in memory.
pub(super) struct InMemory<'a>(pub &'a View);

impl InMemory<'_> {
    fn segment(&self, number: usize) -> Result<&Segment> {
        let live = self.0.segments.get(number);
        live.map(|live| &*live.segment).ok_or(Error::internal("a segment that no view has"))
    }
}

impl Keys for InMemory<'_> {
    fn hash_at(&mut self, segment: usize, position: usize) -> Result<Option<(u64, usize)>> {
        let segment = self.segment(segment)?;
        Ok(segment.hashes().get(position).copied().zip(segment.hash_entry(position)))
    }

    fn key(&mut self, (segment, entry): Place) -> Result<Vec<u8>> {
        self.segment(segment)?.key(entry).map(<[u8]>::to_vec)
    }
}

/// A kill, and the key of the entry that it names.
type Named = (Kill, Vec<u8>);

/// The wrong kills of a segment.
#[derive(Debug, Default)]
pub(super) struct WrongKills {
    /// Kills that the segment lacks.
    lacking: Vec<Named>,
    /// Kills of the segment that name the newest entry of a key.
    excess: Vec<Named>,
}

impl WrongKills {
    /// Descriptions of the wrong kills for a report, each with the keys that are hit.
    pub fn told(self) -> impl Iterator<Item = (String, Vec<Vec<u8>>)> {
        let tell = |kills: Vec<Named>, what: fn(&Kill) -> String| {
            let detail = what(&kills.first()?.0);
            let more =
                if kills.len() > 1 { format!(" (and {} more)", kills.len() - 1) } else { String::new() };
            Some((detail + &more, kills.into_iter().map(|(_, key)| key).collect()))
        };
        let lacking = tell(self.lacking, |Kill { killer, commit, entry, .. }| {
            format!(
                "entry {entry} of commit {commit} is live beside a newer one of its key, in commit {killer}"
            )
        });
        let excess = tell(self.excess, |Kill { commit, entry, .. }| {
            format!("entry {entry} of commit {commit} is superseded, and no newer one of its key is there")
        });
        lacking.into_iter().chain(excess)
    }

    /// The kills that the segment should have.
    pub fn right(&self, segment: &Segment) -> Vec<Kill> {
        let excess: HashSet<_> = self.excess.iter().map(|(kill, _)| kill.victim()).collect();
        let stays = segment.kills().iter().filter(|kill| !excess.contains(&kill.victim()));
        stays.chain(self.lacking.iter().map(|(kill, _)| kill)).copied().collect()
    }
}

/// The segments of a view whose kills are wrong, by their numbers. Goes through all hashes in order, and
/// looks at keys only where hashes are equal.
pub(super) fn wrong_kills(view: &View, keys: &mut impl Keys) -> Result<BTreeMap<usize, WrongKills>> {
    let mut found = Findings { view, wrong: BTreeMap::new(), hidden: HashMap::new() };
    let mut sorted = Sorted::of(view.segments.len(), |segment, position| keys.hash_at(segment, position))?;
    let (mut equal, mut hash_of_equal): (Vec<Place>, _) = (Vec::new(), None);
    loop {
        let next = sorted.next(|segment, position| keys.hash_at(segment, position))?;
        let hash = next.map(|((hash, _), ..)| hash);
        if hash != hash_of_equal {
            equal.sort_unstable();
            found.judge(keys, &equal)?;
            equal.clear();
            hash_of_equal = hash;
        }
        let Some(((_, entry), segment, _)) = next else { break };
        equal.push((segment, entry));
    }
    Ok(found.into_wrong())
}

struct Findings<'a> {
    view: &'a View,
    wrong: BTreeMap<usize, WrongKills>,
    /// Superseded entries that are the newest of their keys, each with its key.
    hidden: HashMap<(u64, u64), Vec<u8>>,
}

impl Findings<'_> {
    fn is_live(&self, (segment, entry): Place) -> Result<bool> {
        self.view.segments.get(segment).map_or(Ok(false), |live| live.is_live(entry))
    }

    fn any_live(&self, places: &[Place]) -> Result<bool> {
        places.iter().try_fold(false, |any, place| Ok(any || self.is_live(*place)?))
    }

    /// Checks all entries whose keys have the same hash; the newest entry comes last.
    fn judge(&mut self, keys: &mut impl Keys, equal: &[Place]) -> Result<()> {
        if let Some((newest, older)) = equal.split_last()
            && self.is_live(*newest)?
            && !self.any_live(older)?
            && (older.is_empty() || keys.are_of_one(equal))
        {
            return Ok(());
        }
        let keyed = equal.iter().map(|place| Ok((keys.key(*place)?, *place)));
        let mut keyed = keyed.collect::<Result<Vec<_>>>()?;
        keyed.sort_unstable();
        for of_key in keyed.chunk_by(|(one, _), (other, _)| one == other) {
            for ((key, older), (_, newer)) in of_key.iter().zip(of_key.iter().skip(1)) {
                if self.is_live(*older)? {
                    let kill = self.kill_of(*older, *newer)?;
                    self.wrong.entry(newer.0).or_default().lacking.push((kill, key.clone()));
                }
            }
            if let Some((key, newest)) = of_key.last()
                && !self.is_live(*newest)?
            {
                let kill = self.kill_of(*newest, *newest)?;
                self.hidden.insert(kill.victim(), key.clone());
            }
        }
        Ok(())
    }

    /// The kill of the entry `older` by the commit of the entry `newer`.
    fn kill_of(&self, older: Place, newer: Place) -> Result<Kill> {
        let all = InMemory(self.view);
        let (killer, _) = all.segment(newer.0)?.origin(newer.1).unwrap_or_default();
        kill_of(all.segment(older.0)?, older.1, killer)
    }

    /// Adds the kills that name hidden entries, and returns all wrong kills.
    fn into_wrong(mut self) -> BTreeMap<usize, WrongKills> {
        for (number, live) in self.view.segments.iter().enumerate().filter(|_| !self.hidden.is_empty()) {
            for kill in live.segment.kills() {
                if let Some(key) = self.hidden.get(&kill.victim()) {
                    self.wrong.entry(number).or_default().excess.push((*kill, key.clone()));
                }
            }
        }
        self.wrong
    }
}
