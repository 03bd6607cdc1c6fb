//! Looking up keys: filters, the place of a hash, and the entries there.

use super::Segment;
use crate::base::Result;
use crate::segment::ahead::ask_for;
use crate::segment::derived::DerivedFile;
use crate::segment::filter::{IN_MEMORY, KeyFilter};

impl Segment {
    /// Too many keys for a filter in memory: that of such a segment is a derived file.
    pub fn wants_filter_file(&self) -> bool {
        self.entry_count() > IN_MEMORY
    }

    /// True when it is to have a filter file, and has none that is sound.
    pub fn lacks_filter(&self) -> bool {
        let file = self.filter().and_then(KeyFilter::file);
        self.wants_filter_file() && file.is_none_or(DerivedFile::is_damaged)
    }

    /// Asks a filter from a file from now on, before the index.
    pub fn use_filter(&self, filter: KeyFilter) {
        self.index.use_filter(filter);
    }

    /// False when a filter says that no key with this hash is here.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        self.index.may_have(hash)
    }

    /// The filter that is asked.
    pub fn filter(&self) -> Option<&KeyFilter> {
        self.index.filter()
    }

    /// The newest entry of this segment with this key.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Result<Option<usize>> {
        if !self.index.may_have(hash) {
            return Ok(None);
        }
        let Some(place) = self.place_of(hash) else { return Ok(None) };
        if let Some(entry) = self.ask_for_key(place).filter(|_| self.is_plain) {
            ask_for_one(self.rows(), entry, self.row_bytes);
        }
        self.newest_at(place, hash, key)
    }

    /// Where a hash stands, the first of equal ones. The entries there are asked for.
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

    /// Asks for the key of the entry at a place of a hash, which is about to be read. Says which entry that is.
    #[inline]
    pub fn ask_for_key(&self, place: usize) -> Option<usize> {
        let entry = self.hash_entry(place)?;
        ask_for_one(self.slice(&self.tables.key_ends), entry, size_of::<u64>());
        ask_for_one(self.all_keys(), entry, self.key_len);
        Some(entry)
    }

    /// The newest entry with this key among those whose hash stands at `start` and after it.
    #[inline]
    pub fn newest_at(&self, start: usize, hash: u64, key: &[u8]) -> Result<Option<usize>> {
        let mut newest = None;
        let rest = self.hashes().get(start..).unwrap_or_default();
        // Hardly ever more than one.
        for offset in 0..rest.iter().take_while(|candidate| **candidate == hash).count() {
            let Some(entry) = self.hash_entry(start + offset) else { continue };
            if newest.is_none_or(|newest| entry > newest) && self.key(entry)? == key {
                newest = Some(entry);
            }
        }
        Ok(newest)
    }
}

/// Item `index` of those that are `size` bytes long is about to be read.
#[inline]
fn ask_for_one(bytes: &[u8], index: usize, size: usize) {
    let start = index.saturating_mul(size).min(bytes.len());
    ask_for(bytes.get(start..bytes.len().min(start.saturating_add(size))).unwrap_or_default());
}
