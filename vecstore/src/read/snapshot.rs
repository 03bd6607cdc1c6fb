//! An immutable view of a store.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::base::{DType, Error, Result};
use crate::format::system_time;
use crate::read::{Entry, Hit, SimpleEntries, missing, search};
use crate::state::{Totals, View};
use crate::types::{Address, Kind, Metric};

/// The store at one moment. Cloning it is cheap; it stays as it is while writers go on.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("last_commit", &self.last_commit())
            .field("totals", &self.totals())
            .finish()
    }
}

/// A segment file of a snapshot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The file: a NumPy array of shape `(rows, dim)`, followed by the store's own tables.
    pub path: PathBuf,
    /// First commit it covers.
    pub first_commit: u64,
    /// Last commit it covers.
    pub last_commit: u64,
    /// Entries in the file, superseded ones included.
    pub entries: u64,
    /// Rows in the file, superseded ones included.
    pub rows: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// When its last commit was made, by the clock of its writer; `None` where that is not known.
    pub time: Option<SystemTime>,
    /// A merge has found it damaged: it stays as it is until [`repair`](crate::repair), and merges go around it.
    pub is_damaged: bool,
}

impl Snapshot {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Snapshot { view }
    }

    /// Elements per vector.
    pub fn dim(&self) -> usize {
        self.view.meta.dim
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.view.meta.dtype
    }

    /// How vectors are compared.
    pub fn metric(&self) -> Metric {
        self.view.meta.metric
    }

    /// The last commit it holds; 0 for an empty store.
    pub fn last_commit(&self) -> u64 {
        self.view.last_commit()
    }

    /// Counts over the live entries. Costs nothing.
    pub fn totals(&self) -> Totals {
        self.view.totals
    }

    /// The segment files, in commit order: reading them one after the other gives all rows, superseded ones included
    /// (after [`Store::compact_full`](crate::Store::compact_full) there are none). Which row is whose:
    /// [`Entry::location`].
    pub fn segments(&self) -> impl Iterator<Item = SegmentInfo> + '_ {
        self.view.segments.iter().map(|live| {
            let footer = live.segment.footer();
            SegmentInfo {
                path: live.segment.path().to_owned(),
                first_commit: footer.first,
                last_commit: footer.last,
                entries: footer.entries,
                rows: footer.rows,
                bytes: footer.file_len,
                time: system_time(footer.time),
                is_damaged: self.view.meta.damaged.contains(&live.segment.name()),
            }
        })
    }

    /// The entry of a key; `None` when it is not stored or was deleted.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a table of a segment points outside its file.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry<'_>>> {
        let Some((segment, index)) = self.view.find(key.as_ref())? else { return Ok(None) };
        let entry = Entry::read(segment, index)?;
        Ok((entry.kind() != Kind::Tombstone).then_some(entry))
    }

    /// True when the key is stored: empty and rejected entries count, deleted ones do not.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Positions of the keys that are not stored, ascending. Many keys are divided among all cores.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let mut batch = store.batch();
    /// batch.push("b", &[1.0f32])?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// assert_eq!(store.snapshot().missing(&["a", "b", "c"])?, [0, 2]);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn missing<K: AsRef<[u8]> + Sync>(&self, keys: &[K]) -> Result<Vec<usize>> {
        missing::missing(&self.view, keys)
    }

    /// All live entries in commit order. Deleted keys do not appear.
    pub fn iter(&self) -> Iter<'_> {
        Iter::new(&self.view)
    }

    /// The row at an address; `None` when there is none there any more.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a table of a segment points outside its file.
    pub fn at(&self, address: Address) -> Result<Option<Vec<f32>>> {
        let Some(live) = self.view.segment_of(address.commit) else { return Ok(None) };
        let Some(row) = live.segment.locate_row(address.commit, address.row) else { return Ok(None) };
        if !live.is_row_live(row)? {
            return Ok(None);
        }
        live.segment.rows_f32(row..row + 1).map(Some)
    }

    /// The `k` live rows nearest to `query`, nearest first, by comparing with every row (exact). Uses all cores
    /// when there is enough to do.
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`] for a query of another dimension, [`Error::BadInput`] for one with NaN or
    /// infinity, [`Error::Damaged`] as [`Snapshot::get`].
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        if query.len() != self.dim() {
            return Err(Error::DimensionMismatch {
                what: "the query",
                expected: self.dim(),
                found: query.len(),
            });
        }
        if query.iter().any(|element| !element.is_finite()) {
            return Err(Error::bad_input("the query has an element that is not finite"));
        }
        search::exact(&self.view, query, k)
    }
}

/// Live entries of a snapshot in commit order.
#[derive(Debug)]
pub struct Iter<'a> {
    view: &'a View,
    segment: usize,
    entry: usize,
    /// What is left of the current segment, where nothing has to be looked up for an entry but its key.
    simple: Option<SimpleEntries<'a>>,
}

impl<'a> Iter<'a> {
    fn new(view: &'a View) -> Self {
        Iter { view, segment: 0, entry: 0, simple: simple_of(view, 0) }
    }
}

/// The entries of a segment in which all are live and simple.
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
    /// The next entry of whatever segment.
    fn next_in_general(&mut self) -> Option<Result<Entry<'a>>> {
        loop {
            let live = self.view.segments.get(self.segment)?;
            if self.simple.is_some() || self.entry >= live.segment.entry_count() {
                self.segment += 1;
                self.entry = 0;
                self.simple = simple_of(self.view, self.segment);
                match self.simple.as_mut().and_then(SimpleEntries::next) {
                    Some(entry) => return Some(entry),
                    None => continue,
                }
            }
            let index = self.entry;
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
    }
}
