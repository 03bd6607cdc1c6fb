//! Iterators over live entries, in commit order.

use std::sync::Arc;

use crate::base::Result;
use crate::read::{Entry, OwnedEntry, SimpleEntries};
use crate::state::View;
use crate::types::Kind;

/// Iterator over the live entries of a snapshot, in commit order.
#[derive(Debug)]
pub struct Iter<'a> {
    view: &'a View,
    place: Place,
    /// The rest of the current segment, if all its entries are live and have one row and no payload.
    simple: Option<SimpleEntries<'a>>,
}

impl<'a> Iter<'a> {
    pub(super) fn new(view: &'a View) -> Self {
        Iter { view, place: Place::default(), simple: simple_of(view, 0) }
    }

    /// Iterates over the live entries of commits after `commit`.
    pub(super) fn since(view: &'a View, commit: u64) -> Self {
        let segment = view.segments.partition_point(|live| live.segment.footer().last <= commit);
        let entry = view.segments.get(segment).map_or(0, |live| live.segment.first_entry_after(commit));
        let simple = if entry == 0 { simple_of(view, segment) } else { None };
        Iter { view, place: Place { segment, entry }, simple }
    }
}

/// The entries of a segment, if all of them are live and have one row and no payload.
fn simple_of(view: &View, segment: usize) -> Option<SimpleEntries<'_>> {
    let live = view.segments.get(segment).filter(|live| live.dead.is_none())?;
    SimpleEntries::of(&live.segment)
}

impl<'a> Iterator for Iter<'a> {
    type Item = Result<Entry<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(simple) = &mut self.simple
            && let Some(entry) = simple.next()
        {
            return Some(entry);
        }
        self.next_in_general()
    }
}

impl<'a> Iter<'a> {
    fn next_in_general(&mut self) -> Option<Result<Entry<'a>>> {
        loop {
            let segment = self.place.segment;
            if self.simple.is_some() {
                self.place = Place { segment: segment + 1, entry: 0 };
            } else if let Some(next) = self.place.next(self.view, segment) {
                return Some(next);
            }
            self.view.segments.get(self.place.segment)?;
            self.simple = simple_of(self.view, self.place.segment);
            if let Some(entry) = self.simple.as_mut().and_then(SimpleEntries::next) {
                return Some(entry);
            }
        }
    }
}

/// Iterator over the live entries of a snapshot, in commit order. The entries borrow nothing.
#[derive(Debug)]
pub struct IntoIter {
    view: Arc<View>,
    place: Place,
}

impl IntoIter {
    pub(super) fn new(view: Arc<View>) -> Self {
        IntoIter { view, place: Place::default() }
    }
}

impl Iterator for IntoIter {
    type Item = Result<OwnedEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let segments = self.view.segments.len();
        let entry = self.place.next(&self.view, segments.saturating_sub(1))?;
        Some(entry.map(|entry| entry.to_owned()))
    }
}

/// A place between two entries of a view.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub segment: usize,
    pub entry: usize,
}

impl Place {
    /// The next live entry that is no tombstone, up to the end of the segment `last`.
    pub fn next<'v>(&mut self, view: &'v View, last: usize) -> Option<Result<Entry<'v>>> {
        while self.segment <= last {
            let live = view.segments.get(self.segment)?;
            let index = self.entry;
            if index >= live.segment.entry_count() {
                *self = Place { segment: self.segment + 1, entry: 0 };
                continue;
            }
            self.entry += 1;
            match live.is_live(index) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => return Some(Err(error)),
            }
            match Entry::read(&live.segment, index) {
                Ok(entry) if entry.kind() == Kind::Tombstone => {}
                other => return Some(other),
            }
        }
        None
    }
}
