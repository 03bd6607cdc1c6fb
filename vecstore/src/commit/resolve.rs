//! Decides, for each batch of a group, which entries are written and which stored entries they supersede.
//!
//! Runs under the commit lock, against a view that has every commit: no other commit can invalidate a
//! decision.

use crate::types::OnDuplicate;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::base::{Error, Result, escaped};
use crate::commit::Appended;
use crate::format::key_hash;
use crate::format::records::Kill;
use crate::segment::Segment;
use crate::state::{Asked, View, kill_of};
use crate::types::{AttributeType, Batch, BatchEntry, Condition, Kind, MAX_ATTRIBUTES};

/// Entries of the group's earlier batches.
#[derive(Debug, Default)]
pub(crate) struct Overlay<'a> {
    entries: HashMap<&'a [u8], Kill>,
    /// Attribute types of the group's earlier batches.
    types: HashMap<&'a str, AttributeType>,
    /// True if more batches follow in the group.
    pub is_needed: bool,
}

/// A resolved batch: the entries to write, and what they supersede.
#[derive(Debug)]
pub(crate) struct Resolved<'a> {
    batch: &'a Batch,
    /// The entries to write, each with the hash of its key.
    pub written: Vec<(u64, BatchEntry<'a>)>,
    pub kills: Vec<Kill>,
    pub outcome: Appended,
}

impl<'a> Resolved<'a> {
    /// The rows and scales of the batch, if all of its entries are written.
    pub fn all_rows(&self) -> Option<(&'a [u8], &'a [f32])> {
        (self.written.len() == self.batch.len()).then(|| self.batch.all_rows())
    }
}

/// True if the batch has a key twice. `asked`: the batch's keys in the order of their hashes.
fn has_repeats(batch: &Batch, asked: &[Asked]) -> bool {
    // Rarely true. Even then no key may be repeated: different keys can have the same hash.
    let may_repeat = asked.windows(2).any(|pair| matches!(pair, [one, other] if one.0 == other.0));
    let mut seen = HashSet::new();
    may_repeat && !batch.entries().all(|entry| seen.insert(entry.key))
}

/// The batch's entries whose keys are stored: their numbers, ascending, each with a kill of the newest stored
/// entry of its key. The kill's `killer` is not set yet.
fn stored(view: &View, batch: &Batch, asked: &[Asked]) -> Result<Vec<(usize, Kill)>> {
    let mut stored = Vec::new();
    let found = |number, segment: &Arc<Segment>, entry| {
        stored.push((number, kill_of(segment, entry, 0)?));
        Ok(())
    };
    view.find_all(asked, |number| batch.key(number), found, |_| ())?;
    stored.sort_unstable_by_key(|(number, _)| *number);
    Ok(stored)
}

/// Refuses a batch if an attribute has another type in the store or in an earlier batch of the group.
fn check_types(view: &View, overlay: &Overlay<'_>, batch: &Batch) -> Result<()> {
    let mut fresh = false;
    for (name, found) in batch.attribute_types() {
        let (known, place) = match overlay.types.get(name) {
            Some(kind) => (Some(*kind), "a batch that is appended at the same time"),
            None => match view.column(name)? {
                Some(column) => (column.kind, "the store"),
                None => {
                    fresh = true;
                    continue;
                }
            },
        };
        if known != Some(found) {
            let known =
                known.map_or("of a type that this version does not know".to_owned(), |k| k.to_string());
            return Err(Error::invalid(format!(
                "attribute \"{}\" is {found} in this batch, and {known} in {place}; nothing of this batch \
                 was written; convert its values, or give them another name",
                escaped(name.as_bytes())
            )));
        }
    }
    if fresh {
        check_names(view, overlay, batch)?;
    }
    Ok(())
}

/// Refuses a batch that would give the store too many attributes: each attribute is a column of every merged
/// file.
fn check_names(view: &View, overlay: &Overlay<'_>, batch: &Batch) -> Result<()> {
    let mut names: HashSet<&str> = batch.attribute_types().map(|(name, _)| name).collect();
    names.extend(overlay.types.keys());
    for live in &view.segments {
        names.extend(live.segment.directory()?.columns().iter().map(|column| &*column.name));
    }
    if names.len() > MAX_ATTRIBUTES {
        return Err(Error::invalid(format!(
            "with this batch the store would have {} attributes, and {MAX_ATTRIBUTES} is the most; nothing \
             of this batch was written; put data that differs between entries into values or the payload, \
             not into names",
            names.len()
        )));
    }
    Ok(())
}

/// Resolves one batch that would become `commit`. Changes the overlay only on success, and only if the batch
/// has an entry to write.
pub(crate) fn resolve<'a>(
    view: &View,
    overlay: &mut Overlay<'a>,
    batch: &'a Batch,
    policy: OnDuplicate,
    commit: u64,
) -> Result<Resolved<'a>> {
    if let Some(expected) = batch.expected_last_commit().filter(|expected| *expected != commit - 1) {
        return Err(Error::StoreChanged { expected, found: commit - 1 });
    }
    check_types(view, overlay, batch)?;
    let hashes: Vec<u64> = batch.entries().map(|entry| key_hash(entry.key)).collect();
    let mut asked: Vec<Asked> = hashes.iter().copied().zip(0..).collect();
    asked.sort_unstable();
    let mut stored = stored(view, batch, &asked)?.into_iter().peekable();
    let mut deciding = Deciding {
        policy,
        commit,
        written: Vec::with_capacity(batch.len()),
        here: has_repeats(batch, &asked).then(HashMap::new),
        kills: Vec::new(),
        spared: HashSet::new(),
        duplicates: (0, b""),
        outcome: Appended::default(),
    };
    for ((number, hash), entry) in hashes.into_iter().enumerate().zip(batch.entries()) {
        let stored = stored.next_if(|(of, _)| *of == number).map(|(_, stored)| stored);
        let existing = overlay.entries.get(entry.key).copied().or(stored);
        deciding.decide((hash, entry), existing)?;
    }
    deciding.finish(view, overlay, batch)
}

/// The decisions on the entries of a batch, in their order.
struct Deciding<'a> {
    policy: OnDuplicate,
    commit: u64,
    /// The entries to write; `None` for an entry that a later entry of the batch supersedes.
    written: Vec<Option<(u64, BatchEntry<'a>)>>,
    /// Place in `written` of the newest entry of each key. Only for a batch that has a key twice.
    here: Option<HashMap<&'a [u8], usize>>,
    kills: Vec<Kill>,
    /// Tombstones that stay live although `kills` has a kill of them: the batch stored the key, and then
    /// deleted it again.
    spared: HashSet<(u64, u64)>,
    /// Number of entries refused as duplicates, and the key of the first one.
    duplicates: (usize, &'a [u8]),
    outcome: Appended,
}

impl<'a> Deciding<'a> {
    /// Decides on the next entry. `existing`: the newest entry of its key before this batch.
    fn decide(&mut self, (hash, entry): (u64, BatchEntry<'a>), existing: Option<Kill>) -> Result<()> {
        let is_stored = existing.is_some_and(|existing| existing.kind != Kind::Tombstone.code());
        let before = self.here.as_ref().and_then(|here| here.get(entry.key).copied());
        let kind_before = before.and_then(|at| Some(self.written.get(at)?.as_ref()?.1.kind));
        let is_present = kind_before.map_or(is_stored, |kind| kind != Kind::Tombstone);
        let deletes = entry.kind == Kind::Tombstone;
        if let Condition::ReplaceIf(expected) = entry.condition {
            let stored = existing.filter(|_| is_present).map(|existing| existing.commit);
            let found = if is_present && before.is_some() { Some(self.commit) } else { stored };
            if found != Some(expected) {
                return Err(Error::EntryChanged { key: entry.key.to_vec(), expected, found });
            }
        }
        if deletes && !is_present {
            self.outcome.skipped += 1;
            return Ok(());
        }
        let policy = match entry.condition {
            Condition::ReplaceIf(_) => OnDuplicate::Replace,
            Condition::Policy(policy) => policy,
            Condition::OfAppend => self.policy,
        };
        match policy {
            OnDuplicate::Skip if is_present && !deletes => {
                self.outcome.skipped += 1;
                return Ok(());
            }
            OnDuplicate::Error if is_present && !deletes => {
                if self.duplicates.0 == 0 {
                    self.duplicates.1 = entry.key;
                }
                self.duplicates.0 += 1;
                return Ok(());
            }
            _ => {}
        }
        match before.and_then(|at| self.written.get_mut(at)?.take()) {
            // The kill of the stored entry stays, and counts for this entry.
            Some((_, superseded)) => {
                self.outcome.skipped += 1;
                match superseded.kind {
                    Kind::Tombstone => self.outcome.deleted -= 1,
                    _ => self.outcome.replaced -= u64::from(is_stored),
                }
            }
            // A key that is stored again after a deletion supersedes its tombstone like any other entry.
            None => {
                let old = existing.filter(|old| !self.spared.remove(&(old.commit, old.entry)));
                self.kills.extend(old.map(|old| Kill { killer: self.commit, ..old }));
            }
        }
        if deletes && !is_stored {
            // Only this batch stored the key: nothing is written for it, and an older tombstone stays live.
            self.outcome.skipped += 1;
            self.spared.extend(existing.map(|old| (old.commit, old.entry)));
            self.here.as_mut().and_then(|here| here.remove(entry.key));
            return Ok(());
        }
        match deletes {
            true => self.outcome.deleted += 1,
            false => self.outcome.replaced += u64::from(is_stored),
        }
        if let Some(here) = &mut self.here {
            here.insert(entry.key, self.written.len());
        }
        self.written.push(Some((hash, entry)));
        Ok(())
    }

    fn finish(mut self, view: &View, overlay: &mut Overlay<'a>, batch: &'a Batch) -> Result<Resolved<'a>> {
        if let (count @ 1.., key) = self.duplicates {
            return Err(Error::DuplicateKey { key: key.to_vec(), count });
        }
        let written: Vec<(u64, BatchEntry<'_>)> = self.written.into_iter().flatten().collect();
        if !self.spared.is_empty() {
            self.kills.retain(|kill| !self.spared.contains(&(kill.commit, kill.entry)));
        }
        let row_bytes = view.meta.dim * view.meta.dtype.size();
        let (mut row, mut fresh) = (0, Vec::new());
        for ((_, entry), number) in written.iter().zip(0..) {
            let rows = u32::try_from(entry.rows.len() / row_bytes)
                .map_err(|_| Error::invalid("an entry holds fewer than 2^32 rows; split it"))?;
            if overlay.is_needed {
                fresh.push((entry.key, existing_at((self.commit, number), row, rows, entry.kind)));
            }
            row += u64::from(rows);
        }
        overlay.entries.extend(fresh);
        if overlay.is_needed {
            overlay.types.extend(written.iter().flat_map(|(_, entry)| entry.attributes.types()));
        }
        self.outcome.entries = written.len() as u64 - self.outcome.deleted;
        self.outcome.rows = row;
        Ok(Resolved { batch, written, kills: self.kills, outcome: self.outcome })
    }
}

/// A kill of an entry; its `killer` is not set yet.
fn existing_at((commit, entry): (u64, u64), row: u64, rows: u32, kind: Kind) -> Kill {
    Kill { killer: 0, commit, entry, row, rows, kind: kind.code(), padding: [0; 3] }
}
