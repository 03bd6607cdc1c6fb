//! Decides, for each batch of a group, what is written and what it supersedes.
//!
//! Runs under the commit lock, against a view that knows every commit, so that the answer cannot be overtaken.

use crate::types::OnDuplicate;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::base::{Error, Result, escaped};
use crate::commit::Appended;
use crate::format::key_hash;
use crate::format::records::Kill;
use crate::segment::Segment;
use crate::state::{Asked, View, kill_of};
use crate::types::{AttributeType, Batch, BatchEntry, Kind, MAX_ATTRIBUTES};

/// Entries that the group has written so far.
#[derive(Debug, Default)]
pub(crate) struct Overlay<'a> {
    entries: HashMap<&'a [u8], Kill>,
    /// Their attributes.
    types: HashMap<&'a str, AttributeType>,
    /// More batches follow in this group.
    pub is_needed: bool,
}

/// A batch after resolution.
#[derive(Debug)]
pub(crate) struct Resolved<'a> {
    batch: &'a Batch,
    /// The entries to be written, and the hashes of their keys.
    pub written: Vec<(u64, BatchEntry<'a>)>,
    pub kills: Vec<Kill>,
    pub outcome: Appended,
}

impl<'a> Resolved<'a> {
    /// The rows of all entries to be written, and their scales, where these are the whole batch.
    pub fn all_rows(&self) -> Option<(&'a [u8], &'a [f32])> {
        (self.written.len() == self.batch.len()).then(|| self.batch.all_rows())
    }
}

/// Refuses a batch in which a key is there twice. `asked` are its keys in the order of their hashes.
fn check_keys(batch: &Batch, asked: &[Asked]) -> Result<()> {
    // Hardly ever: keys that differ may have the same hash.
    if asked.windows(2).any(|pair| matches!(pair, [one, other] if one.0 == other.0)) {
        let mut seen = HashSet::with_capacity(batch.len());
        if let Some(twice) = batch.entries().find(|entry| !seen.insert(entry.key)) {
            return Err(Error::bad_input(format!(
                "key \"{}\" is twice in one batch; nothing of it was written; give each key once",
                escaped(twice.key)
            )));
        }
    }
    Ok(())
}

/// The numbers of the entries whose keys are stored, ascending, and the newest stored entry of each, as the kill of a commit
/// that is still to be named.
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

/// Refuses a batch with an attribute that has another type in the store, or in what the group has written so far.
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
            return Err(Error::bad_input(format!(
                "attribute \"{}\" is {found} in this batch, and {known} in {place}; nothing of this batch was written; \
                 convert its values, or give them another name",
                escaped(name.as_bytes())
            )));
        }
    }
    if fresh {
        check_names(view, overlay, batch)?;
    }
    Ok(())
}

/// Refuses a batch with which a store would have too many attributes: each is a column of every file that is merged.
fn check_names(view: &View, overlay: &Overlay<'_>, batch: &Batch) -> Result<()> {
    let mut names: HashSet<&str> = batch.attribute_types().map(|(name, _)| name).collect();
    names.extend(overlay.types.keys());
    for live in &view.segments {
        names.extend(live.segment.directory()?.columns().iter().map(|column| &*column.name));
    }
    if names.len() > MAX_ATTRIBUTES {
        return Err(Error::bad_input(format!(
            "with this batch the store would have {} attributes, and {MAX_ATTRIBUTES} is the most; nothing of this batch was \
             written; put what differs from entry to entry into values, not into names, or into the payload",
            names.len()
        )));
    }
    Ok(())
}

/// Resolves one batch that would become `commit`. The overlay is only changed when this succeeds and something is
/// left to write.
pub(crate) fn resolve<'a>(
    view: &View,
    overlay: &mut Overlay<'a>,
    batch: &'a Batch,
    policy: OnDuplicate,
    commit: u64,
) -> Result<Resolved<'a>> {
    check_types(view, overlay, batch)?;
    let row_bytes = view.meta.dim * view.meta.dtype.size();
    let mut written: Vec<(u64, BatchEntry<'_>)> = Vec::with_capacity(batch.len());
    let mut kills = Vec::new();
    let mut outcome = Appended::default();
    let mut fresh: Vec<(&[u8], Kill)> = Vec::new();
    let mut duplicates: (usize, &[u8]) = (0, b"");
    let mut row = 0u64;

    let hashes: Vec<u64> = batch.entries().map(|entry| key_hash(entry.key)).collect();
    let mut asked: Vec<Asked> = hashes.iter().copied().zip(0..).collect();
    asked.sort_unstable();
    check_keys(batch, &asked)?;
    let mut stored = stored(view, batch, &asked)?.into_iter().peekable();
    for ((number, hash), entry) in hashes.into_iter().enumerate().zip(batch.entries()) {
        let stored = stored.next_if(|(of, _)| *of == number).map(|(_, stored)| stored);
        let existing = overlay.entries.get(entry.key).copied().or(stored);
        let present = existing.is_some_and(|existing| existing.kind != Kind::Tombstone.code());
        let deletes = entry.kind == Kind::Tombstone;
        if present && !deletes {
            match policy {
                OnDuplicate::Skip => {
                    outcome.skipped += 1;
                    continue;
                }
                OnDuplicate::Replace => outcome.replaced += 1,
                OnDuplicate::Error => {
                    if duplicates.0 == 0 {
                        duplicates.1 = entry.key;
                    }
                    duplicates.0 += 1;
                    continue;
                }
            }
        }
        if deletes {
            if !present {
                outcome.skipped += 1;
                continue;
            }
            outcome.deleted += 1;
        }
        // The tombstone of a key that comes back is superseded like any other entry.
        if let Some(old) = existing {
            kills.push(Kill { killer: commit, ..old });
        }
        let rows = u32::try_from(entry.rows.len() / row_bytes)
            .map_err(|_| Error::bad_input("an entry holds fewer than 2^32 rows; split it"))?;
        if overlay.is_needed {
            fresh.push((entry.key, existing_at((commit, written.len() as u64), row, rows, entry.kind)));
        }
        row += u64::from(rows);
        written.push((hash, entry));
    }
    if duplicates.0 > 0 {
        return Err(Error::DuplicateKey { key: duplicates.1.to_vec(), count: duplicates.0 });
    }
    overlay.entries.extend(fresh);
    if overlay.is_needed {
        overlay.types.extend(written.iter().flat_map(|(_, entry)| entry.attributes.types()));
    }
    outcome.entries = written.len() as u64;
    outcome.rows = row;
    Ok(Resolved { batch, written, kills, outcome })
}

/// The kill of an entry, by a commit that is still to be named.
fn existing_at((commit, entry): (u64, u64), row: u64, rows: u32, kind: Kind) -> Kill {
    Kill { killer: 0, commit, entry, row, rows, kind: kind.code(), padding: [0; 3] }
}
