//! Looking up keys: filters, the position of a hash, and the entries there.

use super::Segment;
use crate::base::Result;
use crate::segment::ahead::ask_for;
use crate::segment::derived::DerivedFile;
use crate::segment::filter::{IN_MEMORY, KeyFilter};

impl Segment {
    /// True if the segment has too many keys for a filter in memory: its filter is then a derived file.
    pub fn wants_filter_file(&self) -> bool {
        self.entry_count() > IN_MEMORY
    }

    /// True if the segment should have a filter file and has no sound one.
    pub fn lacks_filter(&self) -> bool {
        let file = self.filter().and_then(KeyFilter::file);
        self.wants_filter_file() && file.is_none_or(DerivedFile::is_damaged)
    }

    /// Uses a filter from a derived file from now on; lookups ask it before the index.
    pub fn use_filter(&self, filter: KeyFilter) {
        self.index.use_filter(filter);
    }

    /// False only if a filter says that the segment has no key with this hash.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        self.index.may_have(hash)
    }

    /// The filter in use, if there is one.
    pub fn filter(&self) -> Option<&KeyFilter> {
        self.index.filter()
    }

    /// The newest entry of this segment with this key.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Result<Option<usize>> {
        if !self.index.may_have(hash) {
            return Ok(None);
        }
        self.check_tables()?;
        let Some(place) = self.place_of(hash) else { return Ok(None) };
        if let Some(entry) = self.ask_for_key(place).filter(|_| self.is_plain) {
            ask_for_one(self.rows(), entry, self.row_bytes);
        }
        self.newest_at(place, hash, key)
    }

    /// Position of the first of the hashes equal to `hash`, if there is one. Prefetches the entries there.
    #[inline]
    pub fn place_of(&self, hash: u64) -> Option<usize> {
        let hashes = self.hashes();
        let entries = self.slice(&self.tables.hash_entries);
        let place = self.index.lower_bound(hashes, hash, |near| ask_for_one(entries, near, size_of::<u32>()));
        let is_there = hashes.get(place) == Some(&hash);
        if !is_there {
            self.index.was_in_vain(hashes);
        }
        is_there.then_some(place)
    }

    /// Prefetches the key of the entry at a position among the hashes, which is about to be read. Returns the
    /// entry.
    #[inline]
    pub fn ask_for_key(&self, place: usize) -> Option<usize> {
        let entry = self.hash_entry(place)?;
        ask_for_one(self.slice(&self.tables.key_ends), entry, size_of::<u64>());
        ask_for_one(self.all_keys(), entry, self.key_len);
        Some(entry)
    }

    /// The newest entry with this key among those whose hashes equal `hash`, from position `start` on.
    #[inline]
    pub fn newest_at(&self, start: usize, hash: u64, key: &[u8]) -> Result<Option<usize>> {
        let mut newest = None;
        let rest = self.hashes().get(start..).unwrap_or_default();
        // There is hardly ever more than one candidate.
        for offset in 0..rest.iter().take_while(|candidate| **candidate == hash).count() {
            let Some(entry) = self.hash_entry(start + offset) else { continue };
            if newest.is_none_or(|newest| entry > newest) && self.key(entry)? == key {
                newest = Some(entry);
            }
        }
        Ok(newest)
    }
}

/// Prefetches item `index` of a table of items that are `size` bytes long.
#[inline]
fn ask_for_one(bytes: &[u8], index: usize, size: usize) {
    let start = index.saturating_mul(size).min(bytes.len());
    ask_for(bytes.get(start..bytes.len().min(start.saturating_add(size))).unwrap_or_default());
}
