//! Hashes of keys, read again from the segment files, a few at a time. A second hash of four bytes per key,
//! kept in memory since the first read, tells whether keys of equal hash are equal; the keys themselves are
//! read again only where something is wrong.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::Path;

use bytemuck::Pod;
use twox_hash::XxHash64;

use super::Seen;
use crate::base::{Error, IoContext, Result};
use crate::care::liveness::{Keys, Place};
use crate::format::section::{self, Tag};
use crate::segment::Segment;
use crate::state::{LiveSegment, View};
use crate::types::MAX_KEY_LEN;
use crate::vfs::{ReadAt, Vfs};

/// Hashes read at once: 64 KiB of hashes, and 32 KiB of entry numbers.
const AT_ONCE: usize = 8192;
/// Most files open at a time.
const MOST_OPEN: usize = 256;

/// A second hash of each key, with a seed that the author of a file cannot know.
pub(super) fn tags(segment: &Segment, seed: u64) -> Vec<u32> {
    let tag = |key: &[u8]| u32::try_from(XxHash64::oneshot(seed, key) >> 32).unwrap_or_default();
    (0..segment.entry_count()).map(|index| segment.key(index).map_or(0, tag)).collect()
}

/// The keys of a view's segments, read from their files.
pub(super) struct OnDisk<'a> {
    vfs: &'a dyn Vfs,
    view: &'a View,
    /// The second hash of each entry's key, by segment.
    tags: Vec<&'a [u32]>,
    files: HashMap<usize, Box<dyn ReadAt>>,
    /// For each segment, the part of its index that was read last: first position, hashes, entries.
    read: Vec<(usize, Vec<u64>, Vec<u32>)>,
}

impl<'a> OnDisk<'a> {
    pub fn new(vfs: &'a dyn Vfs, view: &'a View, seen: &'a Seen) -> Self {
        let read = vec![Default::default(); view.segments.len()];
        let tags_of = |live: &LiveSegment| seen.tags.get(&live.segment.name());
        let tags = view.segments.iter().map(|live| tags_of(live).map_or(&[][..], Vec::as_slice)).collect();
        OnDisk { vfs, view, tags, files: HashMap::new(), read }
    }

    /// Reads elements of a table of segment `number`.
    fn elements<T: Pod>(&mut self, number: usize, tag: Tag, range: Range<usize>) -> Result<Vec<T>> {
        let live = self.view.segments.get(number);
        let segment = live.map(|live| &live.segment).ok_or(Error::internal("a segment that no view has"))?;
        let path = segment.path();
        let line = segment.layout().sections.iter().find(|line| line.tag == tag);
        let offset = line.map_or(0, |line| line.offset) + (range.start * size_of::<T>()) as u64;
        if self.files.len() >= MOST_OPEN && !self.files.contains_key(&number) {
            self.files.clear();
        }
        let file = match self.files.entry(number) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(none) => none.insert(self.vfs.open(path).at(path, "read the keys")?),
        };
        let mut elements = vec![T::zeroed(); range.len()];
        file.read_at(bytemuck::cast_slice_mut(&mut elements), offset).at(path, "read the keys")?;
        Ok(elements)
    }
}

impl Keys for OnDisk<'_> {
    fn are_of_one(&self, places: &[Place]) -> bool {
        let tag = |(segment, entry): &Place| self.tags.get(*segment)?.get(*entry).copied();
        let mut tags = places.iter().map(tag);
        let first = tags.next().flatten();
        first.is_some() && tags.all(|tag| tag == first)
    }

    fn hash_at(&mut self, segment: usize, position: usize) -> Result<Option<(u64, usize)>> {
        let count = self.view.segments.get(segment).map_or(0, |live| live.segment.entry_count());
        let at = |(first, hashes, entries): &(usize, Vec<u64>, Vec<u32>)| {
            let at = position.checked_sub(*first)?;
            Some((*hashes.get(at)?, *entries.get(at)? as usize))
        };
        if let Some(found) = self.read.get(segment).and_then(at) {
            return Ok(Some(found));
        }
        let range = position..count.min(position.saturating_add(AT_ONCE));
        let hashes = self.elements(segment, section::HASH, range.clone())?;
        let read = (position, hashes, self.elements(segment, section::HENT, range)?);
        let found = at(&read);
        if let Some(place) = self.read.get_mut(segment) {
            *place = read;
        }
        Ok(found)
    }

    fn key(&mut self, (segment, entry): Place) -> Result<Vec<u8>> {
        let ends: Vec<u64> = self.elements(segment, section::KEND, entry.saturating_sub(1)..entry + 1)?;
        let ends: Vec<usize> =
            ends.into_iter().map(|end| usize::try_from(end).unwrap_or(usize::MAX)).collect();
        let range = match ends[..] {
            [end] => 0..end,
            [start, end] => start..end,
            _ => 0..0,
        };
        if range.start > range.end || range.len() > MAX_KEY_LEN {
            let path = self.view.segments.get(segment).map(|live| live.segment.path());
            let detail = format!("entry {entry} is not what it was a moment ago");
            return Err(Error::damaged(path.unwrap_or(Path::new("")), "KEND", detail));
        }
        self.elements(segment, section::KEYS, range)
    }
}
