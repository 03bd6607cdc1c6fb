//! The file that takes the place of a damaged one: every intact entry, at its old address.
//!
//! A lost entry must not bring back the entry that it had superseded. So where an entry is lost that replaced
//! or deleted an older one, a tombstone of the same key stands in its place.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, hash_map};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::items::{Item, lay_out};
use super::kills;
use super::remains::{Content, Origin, Remains, Remnant};
use super::survey::State;
use crate::base::{DType, Result};
use crate::format::footer::Footer;
use crate::format::records::Kill;
use crate::format::{COMPAT_LOST, key_hash};
use crate::segment::{EncodedSegment, Segment};
use crate::state::{View, kill_of};
use crate::types::Kind;

/// Entries whose addresses are lost with RUNS get numbers from here on: batches have fewer entries.
const NEW_ENTRIES: u64 = 1 << 32;
/// Rows whose addresses are lost with RUNS get numbers from here on: batches have fewer rows.
const NEW_ROWS: u64 = 1 << 48;

/// What later segments say about a damaged segment.
#[derive(Debug, Default)]
pub(super) struct Newer {
    pub sound: Vec<Arc<Segment>>,
    /// Keys that can be read in later damaged segments.
    pub keys: HashSet<Vec<u8>>,
    /// Entries that later segments supersede, by commit and number in the batch. Kills of damaged segments
    /// may turn out to be wrong.
    pub killed: HashSet<(u64, u64)>,
    /// Entries that sound later segments supersede, by commit and number in the batch.
    pub surely_killed: HashSet<(u64, u64)>,
}

impl Newer {
    fn has(&self, key: &[u8]) -> Result<bool> {
        let hash = key_hash(key);
        for segment in &self.sound {
            if segment.find(hash, key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(self.keys.contains(key))
    }

    /// Notes the readable content of a later file.
    pub fn add(&mut self, state: &State) {
        match state {
            State::Sound(segment) => {
                let killed = segment.kills().iter().map(|kill| (kill.commit, kill.entry));
                self.surely_killed.extend(killed.clone());
                self.killed.extend(killed);
                self.sound.push(Arc::clone(segment));
            }
            State::Remains(remains) => {
                self.killed.extend(remains.kills().0.iter().map(|kill| (kill.commit, kill.entry)));
                let entries = (0..remains.entry_count()).filter_map(|index| remains.entry(index).key);
                self.keys.extend(entries.map(<[u8]>::to_vec));
            }
            State::Nothing => {}
        }
    }
}

/// What became of the entries of a damaged segment.
#[derive(Debug, Default)]
pub(super) struct Rescued {
    pub kept: u64,
    /// Keys of lost entries.
    pub lost_keys: Vec<Vec<u8>>,
    /// Number of entries lost from files that only versions use.
    pub lost_from_versions: usize,
    /// Number of lost entries whose keys cannot be read.
    pub unnamed: u64,
    /// True if intact entries are not in the new file because newer entries of their keys exist.
    pub leaves_out: bool,
    /// Number of entries whose addresses are lost, and that have new ones.
    pub readdressed: u64,
    /// True if kills of the segment cannot be read. They are found again by keys.
    pub kills_lost: bool,
    /// Number of kept entries that may have lost attributes.
    pub attributes_lost: u64,
    /// Sections that only a later version of the program knows, and that are not in the new file.
    pub sections_lost: Vec<String>,
    /// Number of entries without a key, because theirs has a length that no key may have.
    pub impossible_keys: usize,
}

/// Lays out a file with the intact entries of a damaged segment. `remains`: `None` if the segment is missing,
/// or its footer cannot be read. `identity`: range, links and name of the new file.
pub(super) fn rescue<'a>(
    remains: Option<&'a Remains>,
    identity: Footer,
    settings: Vec<u8>,
    around: Around<'_>,
) -> Result<(EncodedSegment<'a>, Rescued)> {
    let mut rescue = Rescue {
        remains,
        range: identity.first..=identity.last,
        around,
        entries: Vec::new(),
        places: HashMap::new(),
        latest: HashMap::new(),
        kills: Vec::new(),
        result: Rescued::default(),
    };
    rescue.read_entries();
    rescue.take_kills()?;
    if rescue.result.kills_lost {
        rescue.kill_older()?;
    }
    let items = rescue.items()?;
    if rescue.result.kills_lost {
        rescue.kill_here(&items)?;
    }
    let Rescue { kills, mut result, .. } = rescue;
    let (builder, attributes_lost) = lay_out(remains, &items, kills, |name| {
        Ok(around.older.column(name)?.and_then(|column| column.kind))
    })?;
    result.attributes_lost = attributes_lost;
    result.sections_lost = remains.map_or(Vec::new(), |remains| remains.unknown_sections.clone());
    result.impossible_keys = remains.map_or(0, Remains::impossible_keys);
    let mut footer = identity;
    if remains.is_none()
        || !result.lost_keys.is_empty()
        || result.unnamed > 0
        || result.kills_lost
        || attributes_lost > 0
        || !result.sections_lost.is_empty()
    {
        footer.compat |= COMPAT_LOST;
    }
    let dtype = DType::from_code(footer.dtype).unwrap_or(DType::F32);
    Ok((builder.finish(footer, dtype, settings)?, result))
}

/// What is known about the store around a damaged segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    /// The store up to the segment before.
    pub older: &'a View,
    pub newer: &'a Newer,
    /// Entries that liveness bitmaps list as superseded, by commit and number in the batch.
    pub superseded: &'a HashSet<(u64, u64)>,
}

struct Rescue<'a, 'b> {
    remains: Option<&'a Remains>,
    range: RangeInclusive<u64>,
    around: Around<'b>,
    entries: Vec<(Origin, Remnant<'a>)>,
    /// Positions of the entries by commit and number in the batch.
    places: HashMap<(u64, u64), usize>,
    /// The last entry of each readable key.
    latest: HashMap<&'a [u8], usize>,
    kills: Vec<Kill>,
    result: Rescued,
}

/// Keys of lost entries, found in other places: by position if the entry is known, and keys of unknown
/// entries.
type StandIns = (HashMap<usize, Vec<u8>>, Vec<Vec<u8>>);

impl<'a> Rescue<'a, '_> {
    fn has_addresses(&self) -> bool {
        self.remains.is_none_or(Remains::has_addresses)
    }

    /// An address that no entry ever had, within the last commit.
    fn new_origin(&self, number: u64, row: u64) -> Origin {
        Origin { commit: *self.range.end(), entry: NEW_ENTRIES + number, row: NEW_ROWS + row }
    }

    fn read_entries(&mut self) {
        let Some(remains) = self.remains else { return };
        let mut row = 0;
        for index in 0..remains.entry_count() {
            let entry = remains.entry(index);
            let first_row = entry.content.as_ref().map(|content| content.rows.start);
            let known = remains.origin(index, first_row);
            let origin = known.unwrap_or_else(|| self.new_origin(index as u64, row));
            row += entry.content.as_ref().map_or(0, Content::row_count);
            self.places.insert((origin.commit, origin.entry), index);
            if let Some(key) = entry.key {
                self.latest.insert(key, index);
            }
            self.entries.push((origin, entry));
        }
    }

    /// Commit of an entry, and its number in the batch.
    fn origin(&self, index: usize) -> (u64, u64) {
        self.entries.get(index).map_or((0, 0), |(origin, _)| (origin.commit, origin.entry))
    }

    /// The entry of this file that a kill names.
    fn named_by(&self, kill: &Kill) -> Option<&(Origin, Remnant<'a>)> {
        self.entries.get(*self.places.get(&(kill.commit, kill.entry))?)
    }

    /// Keeps the kills that can be read and agree with the entries that they name.
    fn take_kills(&mut self) -> Result<()> {
        let (kills, mut all) = self.remains.map_or_else(|| (Vec::new(), false), Remains::kills);
        // Without addresses a kill cannot name an entry of this file.
        let dangling = |kill: &Kill| !self.has_addresses() && self.range.contains(&kill.commit);
        let fits = |kill: &Kill| {
            kill.padding == [0; 3]
                && Kind::from_code(kill.kind).is_some()
                && self.range.contains(&kill.killer)
                && kill.commit <= kill.killer
        };
        let mut fitting = Vec::with_capacity(kills.len());
        for kill in kills {
            match fits(&kill) && !dangling(&kill) && self.agrees(&kill)? {
                true => fitting.push(kill),
                false => all = false,
            }
        }
        self.kills = fitting;
        self.result.kills_lost = !all;
        Ok(())
    }

    /// False if a kill contradicts the entry that it names, and that entry is intact.
    fn agrees(&self, kill: &Kill) -> Result<bool> {
        if !self.range.contains(&kill.commit) {
            return self.around.older.kill_agrees(kill);
        }
        let Some((origin, entry)) = self.named_by(kill) else { return Ok(true) };
        let said = entry.kind.zip(entry.content.as_ref());
        Ok(said.is_none_or(|(kind, content)| kills::says(kill, origin.row, content.row_count(), kind)))
    }

    /// The entries that the kills name.
    fn killed(&self) -> HashSet<(u64, u64)> {
        self.kills.iter().map(|kill| (kill.commit, kill.entry)).collect()
    }

    /// Finds lost kills of older entries again: an older entry is superseded if a newer one of the same key
    /// exists, or if a bitmap lists it.
    fn kill_older(&mut self) -> Result<()> {
        let Around { older, newer, superseded } = self.around;
        let known = self.killed();
        for live in &older.segments {
            for index in 0..live.segment.entry_count() {
                if !live.is_live(index)? {
                    continue;
                }
                let Some(origin) = live.segment.origin(index) else { continue };
                if known.contains(&origin) || newer.surely_killed.contains(&origin) {
                    continue;
                }
                let key = live.segment.key(index)?;
                let killer = match self.latest.get(key) {
                    Some(here) => self.origin(*here).0,
                    None if superseded.contains(&origin) || newer.has(key)? => *self.range.end(),
                    None => continue,
                };
                self.kills.push(kill_of(&live.segment, index, killer)?);
            }
        }
        Ok(())
    }

    /// Finds keys of lost entries that cannot be read themselves: an entry has the same key as the entry that
    /// it superseded.
    fn stand_ins(&self) -> Result<StandIns> {
        if !self.lacks_keys() {
            return Ok(StandIns::default());
        }
        let killed = self.killed();
        let is_superseded =
            |origin: &(u64, u64)| self.around.newer.killed.contains(origin) || killed.contains(origin);
        let nameless = self.entries.iter().enumerate().filter(|(_, (_, entry))| entry.key.is_none());
        let mut free: Vec<usize> =
            nameless.map(|(index, _)| index).filter(|index| !is_superseded(&self.origin(*index))).collect();
        let (mut at_entry, mut somewhere) = StandIns::default();
        let mut stand_in = |key: Vec<u8>, killer: Option<u64>| {
            let hash = key_hash(&key);
            let fits = |index: &usize| {
                let of_commit = !self.has_addresses()
                    || self.result.kills_lost
                    || killer.is_none_or(|killer| self.origin(*index).0 == killer);
                of_commit && self.remains.is_some_and(|remains| remains.may_have(*index, hash))
            };
            match free.iter().position(fits) {
                Some(at) => drop(at_entry.insert(free.remove(at), key)),
                None => somewhere.push(key),
            }
        };
        let mut told: HashSet<Vec<u8>> = HashSet::new();
        for kill in &self.kills {
            let Some(key) = self.key_of_killed(kill)? else { continue };
            let here = self.latest.get(key.as_slice()).map(|index| self.origin(*index));
            if here.is_some_and(|here| here > (kill.commit, kill.entry)) || self.around.newer.has(&key)? {
                continue;
            }
            told.insert(key.clone());
            stand_in(key, Some(kill.killer));
        }
        for key in self.orphans()?.into_iter().filter(|key| !told.contains(key)) {
            stand_in(key, None);
        }
        Ok((at_entry, somewhere))
    }

    /// True if there may have been entries whose keys are not known.
    fn lacks_keys(&self) -> bool {
        self.remains.is_none() || self.entries.iter().any(|(_, entry)| entry.key.is_none())
    }

    /// Keys of superseded older entries for which no newer entry is found. A merge left out the entry that
    /// superseded them, because it was superseded in turn by an entry that is lost now.
    fn orphans(&self) -> Result<Vec<Vec<u8>>> {
        let Around { older, newer, .. } = self.around;
        let mut keys = Vec::new();
        for live in &older.segments {
            for index in 0..live.segment.entry_count() {
                if live.is_live(index)? {
                    continue;
                }
                let key = live.segment.key(index)?;
                let newest = older.find(key)?;
                let is_newest = newest.is_some_and(|(of, at)| Arc::ptr_eq(of, &live.segment) && at == index);
                if is_newest && !self.latest.contains_key(key) && !newer.has(key)? {
                    keys.push(key.to_vec());
                }
            }
        }
        Ok(keys)
    }

    fn key_of_killed(&self, kill: &Kill) -> Result<Option<Vec<u8>>> {
        if self.range.contains(&kill.commit) {
            let key = self.named_by(kill).and_then(|(_, entry)| entry.key);
            return Ok(key.map(<[u8]>::to_vec));
        }
        let Some(live) = self.around.older.segment_of(kill.commit) else { return Ok(None) };
        match live.segment.locate_entry(kill.commit, kill.entry) {
            Some(index) => live.segment.key(index).map(|key| Some(key.to_vec())),
            None => Ok(None),
        }
    }

    /// The entries of the new file, in order.
    fn items(&mut self) -> Result<Vec<Item<'a>>> {
        let (mut stand_ins, somewhere) = self.stand_ins()?;
        let newer = self.around.newer;
        let mut items: Vec<Item<'a>> = Vec::with_capacity(self.entries.len());
        let mut here: HashSet<&'a [u8]> = HashSet::new();
        let killed = self.killed();
        let has_addresses = self.has_addresses();
        for (index, (origin, entry)) in self.entries.iter().enumerate() {
            let origin = *origin;
            if let (Some(key), Some(kind), Some(content)) = (entry.key, entry.kind, &entry.content) {
                if !has_addresses {
                    // Later kills name the old address, which is lost: only a newer entry of the key tells
                    // that this one is superseded.
                    if newer.has(key)? {
                        self.result.leaves_out = true;
                        continue;
                    }
                    self.result.readdressed += 1;
                }
                self.result.kept += 1;
                here.insert(key);
                items.push(Item { origin, key: Cow::Borrowed(key), kind, content: Some(content.clone()) });
                continue;
            }
            let at = (origin.commit, origin.entry);
            if newer.killed.contains(&at) || killed.contains(&at) {
                continue;
            }
            let was_deletion = entry.kind == Some(Kind::Tombstone);
            let key = match (entry.key, stand_ins.remove(&index)) {
                (Some(key), _) => Cow::Borrowed(key),
                (None, Some(key)) => Cow::Owned(key),
                (None, None) => {
                    self.result.unnamed += u64::from(!was_deletion);
                    continue;
                }
            };
            let is_latest = self.latest.get(&*key).is_none_or(|latest| *latest <= index);
            if !is_latest || newer.has(&key)? {
                continue;
            }
            if !was_deletion {
                self.result.lost_keys.push(key.to_vec());
            }
            if here.contains(&*key) || self.around.older.find(&key)?.is_some() {
                items.push(Item { origin, key, kind: Kind::Tombstone, content: None });
            }
        }
        for (number, key) in (self.entries.len() as u64..).zip(somewhere) {
            // Numbered after all rows that got new addresses.
            let origin = self.new_origin(number, NEW_ROWS);
            self.result.lost_keys.push(key.clone());
            items.push(Item { origin, key: Cow::Owned(key), kind: Kind::Tombstone, content: None });
        }
        Ok(items)
    }

    /// Finds lost kills of this file's own entries again, as [`Rescue::kill_older`] does for older ones.
    fn kill_here(&mut self, items: &[Item<'_>]) -> Result<()> {
        let newer = self.around.newer;
        let mut known = self.killed();
        known.extend(&newer.surely_killed);
        let mut here: HashMap<&[u8], u64> = HashMap::new();
        for item in items.iter().rev() {
            let killer = match here.entry(&item.key) {
                hash_map::Entry::Occupied(later) => *later.get(),
                hash_map::Entry::Vacant(none) => {
                    none.insert(item.origin.commit);
                    if !newer.has(&item.key)? {
                        continue;
                    }
                    *self.range.end()
                }
            };
            if known.insert((item.origin.commit, item.origin.entry)) {
                self.kills.push(kill(killer, item.origin, item.row_count(), item.kind));
            }
        }
        Ok(())
    }
}

fn kill(killer: u64, of: Origin, rows: u64, kind: Kind) -> Kill {
    let Origin { commit, entry, row } = of;
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    Kill { killer, commit, entry, row, rows, kind: kind.code(), padding: [0; 3] }
}
