//! An immutable view of a store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::base::{DType, Error, Result};
use crate::format::key_hash;
use crate::read::{Entry, Hit, IntoIter, Iter, OwnedEntry, SearchOptions, Segment, missing, search};
use crate::state::{Asked, Totals, View};
use crate::types::{Address, Fingerprint, Kind, Metric};

/// An immutable view of the store at one moment. Cloning it is cheap, and writers do not change it. Files
/// that merges delete meanwhile keep their space on the disk until the last snapshot that needs them is
/// dropped.
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

impl Snapshot {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Snapshot { view }
    }

    /// Elements per vector.
    pub fn dim(&self) -> usize {
        self.view.meta.dim
    }

    /// Type of the vectors' elements.
    pub fn dtype(&self) -> DType {
        self.view.meta.dtype
    }

    /// The metric by which searches compare vectors.
    pub fn metric(&self) -> Metric {
        self.view.meta.metric
    }

    /// The fingerprint of the model and preprocessing that make the vectors; `None` if none is recorded.
    pub fn fingerprint(&self) -> Option<&Fingerprint> {
        self.view.meta.fingerprint.as_ref()
    }

    /// The value of a setting; `None` if the store has no setting of this name.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.view.meta.settings.get(name).map(String::as_str)
    }

    /// All settings of the store, by name.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.view.meta.settings
    }

    /// Number of stored keys: of live entries with rows, empty and rejected ones. [`Snapshot::iter`] returns
    /// as many entries.
    pub fn len(&self) -> usize {
        usize::try_from(self.totals().entries).unwrap_or(usize::MAX)
    }

    /// True if no key is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of the last commit in the snapshot; 0 for an empty store.
    pub fn last_commit(&self) -> u64 {
        self.view.last_commit()
    }

    /// Counts over the live entries. The cost grows with the number of segments, not of entries.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("a", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// store.delete(&["a"])?;
    /// let totals = store.snapshot().totals();
    /// assert_eq!((totals.entries, totals.rows, totals.dead_rows, totals.tombstones), (0, 0, 1, 1));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn totals(&self) -> Totals {
        self.view.totals()
    }

    /// The segment files, in commit order. Together they hold all rows, including rows of replaced and
    /// deleted entries (after [`Store::compact_full`](crate::Store::compact_full) there are none). Several
    /// threads can read several segments at the same time.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("b", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let snapshot = store.snapshot();
    /// let counted: usize = std::thread::scope(|scope| {
    ///     let counting = snapshot.segments().map(|segment| scope.spawn(move || segment.iter().count()));
    ///     counting.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).sum()
    /// });
    /// assert_eq!(counted, snapshot.len());
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn segments(&self) -> impl ExactSizeIterator<Item = Segment<'_>> {
        Segment::all(&self.view)
    }

    /// The live entry of a key; `None` if the key is not stored or was deleted.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a table of a segment points outside its file, or if a block is damaged and the
    /// handle compares checksums while reading.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry<'_>>> {
        let Some((segment, index)) = self.view.find(key.as_ref())? else { return Ok(None) };
        let entry = Entry::read(segment, index)?;
        Ok((entry.kind() != Kind::Tombstone).then_some(entry))
    }

    /// As [`Snapshot::get`], but the entry borrows nothing: it can outlive the snapshot.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_owned(&self, key: impl AsRef<[u8]>) -> Result<Option<OwnedEntry>> {
        Ok(self.get(key)?.map(|entry| entry.to_owned()))
    }

    /// The live entries of many keys, in the order of the keys; `None` for each key that is not stored.
    /// Faster than one [`Snapshot::get`] for each key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("b", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let snapshot = store.snapshot();
    /// let found = snapshot.get_many(&["a", "b"])?;
    /// assert!(found[0].is_none() && found[1].is_some());
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Entry<'_>>>> {
        let hashes = keys.iter().map(|key| key_hash(key.as_ref()));
        let mut asked: Vec<Asked> = hashes.zip(0..).collect();
        asked.sort_unstable();
        let key = |number| keys.get(number).map(AsRef::as_ref).unwrap_or_default();
        let mut found = Vec::new();
        let note = |number, segment: &Arc<crate::segment::Segment>, index| {
            found.push((number, segment.name().first, index));
            Ok(())
        };
        self.view.find_all(&asked, key, note, |_| ())?;
        let mut entries: Vec<Option<Entry<'_>>> = keys.iter().map(|_| None).collect();
        for (number, commit, index) in found {
            let Some(live) = self.view.segment_of(commit) else { continue };
            let entry = Entry::read(&live.segment, index)?;
            if let Some(place) = entries.get_mut(number).filter(|_| entry.kind() != Kind::Tombstone) {
                *place = Some(entry);
            }
        }
        Ok(entries)
    }

    /// True if the key is stored: empty and rejected entries count, deleted ones do not.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Positions in `keys` of the keys that are not stored, ascending. Uses all cores if there are many keys.
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

    /// Iterates over all live entries, in commit order. Deleted keys do not appear.
    pub fn iter(&self) -> Iter<'_> {
        Iter::new(&self.view)
    }

    /// Iterates over the live entries of commits after `commit`, in commit order: the entries that are new to
    /// a reader of the store up to that commit. A replaced entry appears once, with its newest commit;
    /// deleted keys do not appear.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # for key in ["a", "b"] {
    /// #     let mut batch = store.batch();
    /// #     batch.push(key, &[1.0f32])?;
    /// #     store.append(&mut batch, OnDuplicate::Skip)?;
    /// # }
    /// let snapshot = store.snapshot();
    /// let new: Vec<_> = snapshot.iter_since(1).map(|entry| entry.unwrap().key()).collect();
    /// assert_eq!(new, [b"b"]);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn iter_since(&self, commit: u64) -> Iter<'_> {
        Iter::since(&self.view, commit)
    }

    /// Iterates over the stored keys that begin with `prefix`, in commit order. Keys have no order in a
    /// store, so this scans all of them.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("2024/a.jpg", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// for key in store.snapshot().keys_with_prefix("2024/") {
    ///     println!("{}", String::from_utf8_lossy(key?));
    /// }
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// The iterator returns [`Error::Damaged`] in place of a key that cannot be read.
    pub fn keys_with_prefix(&self, prefix: impl AsRef<[u8]>) -> impl Iterator<Item = Result<&[u8]>> {
        let prefix = prefix.as_ref().to_vec();
        let keys = self.iter().map(|entry| entry.map(|entry| entry.key()));
        keys.filter(move |key| key.as_ref().map_or(true, |key| key.starts_with(&prefix)))
    }

    /// The entry of a hit; `None` if the hit is from another snapshot, and the entry is not live in this one.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.entry("b").row(&[1.0f32]).payload(b"what it is").push()?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let snapshot = store.snapshot();
    /// for hit in snapshot.search(&[1.0], 10)? {
    ///     let entry = snapshot.entry(&hit)?.expect("the hit is from this snapshot");
    ///     assert_eq!(entry.payload(), b"what it is");
    /// }
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn entry(&self, hit: &Hit) -> Result<Option<Entry<'_>>> {
        Ok(self.entry_at(hit.address)?.map(|(entry, _)| entry))
    }

    /// The entry that has the row at an address, and the index of that row in the entry, from 0; `None` if
    /// the snapshot has no live row at this address.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// batch.push_rows("two faces.jpg", [[1.0f32], [2.0]])?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// let snapshot = store.snapshot();
    /// let address = "1:1".parse()?; // the second row of the first commit
    /// let (entry, row) = snapshot.entry_at(address)?.expect("it is there");
    /// assert_eq!((entry.key(), row), (&b"two faces.jpg"[..], 1));
    /// assert_eq!(snapshot.row_at(address)?, Some(vec![2.0]));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn entry_at(&self, address: Address) -> Result<Option<(Entry<'_>, usize)>> {
        let Some(live) = self.view.segment_of(address.commit) else { return Ok(None) };
        let Some(row) = live.segment.locate_row(address.commit, address.row) else { return Ok(None) };
        if !live.is_row_live(row)? {
            return Ok(None);
        }
        live.segment.check_tables()?;
        let entry = Entry::read(&live.segment, live.segment.entry_of_row(row))?;
        Ok(Some((entry, row.saturating_sub(entry.location().1))))
    }

    /// The row at an address, as `dim` elements of type `f32`; `None` if the snapshot has no live row at this
    /// address.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn row_at(&self, address: Address) -> Result<Option<Vec<f32>>> {
        let Some(live) = self.view.segment_of(address.commit) else { return Ok(None) };
        let Some(row) = live.segment.locate_row(address.commit, address.row) else { return Ok(None) };
        if !live.is_row_live(row)? {
            return Ok(None);
        }
        live.segment.rows_f32(row..row + 1).map(Some)
    }

    /// The `k` live rows nearest to `query` (of `dim` finite elements), nearest first. The search is exact:
    /// it compares `query` with every row, and uses all cores if there are many rows.
    /// [`Snapshot::search_with`] has more options.
    ///
    /// # Errors
    /// As [`Snapshot::search_with`].
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Hit>> {
        self.search_with(query, &SearchOptions::new(k))
    }

    /// The live rows nearest to `query` (of `dim` finite elements), nearest first: of the rows that the
    /// options admit, at most as many as the options ask for. The search is exact: it compares `query` with
    /// every row.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use vecstore::{OnDuplicate, SearchOptions, Store, StoreConfig, Value};
    /// let store = Store::create(dir.path().join("s"), StoreConfig::new(2))?;
    /// let mut batch = store.batch();
    /// batch.entry("old").row(&[1.0f32, 0.0]).attribute("year", 1999).push()?;
    /// batch.entry("new").row(&[0.8f32, 0.6]).attribute("year", 2024).push()?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// let recent = |entry: &vecstore::Entry<'_>| {
    ///     matches!(entry.attribute("year"), Ok(Some(Value::I64(year))) if year > 2020)
    /// };
    /// let options = SearchOptions::new(10).min_score(0.5).filter(recent);
    /// let hits = store.snapshot().search_with(&[1.0, 0.0], &options)?;
    /// assert_eq!(hits.len(), 1);
    /// assert_eq!(hits[0].key, b"new");
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`] for a query of another dimension, [`Error::InvalidArgument`] for a query
    /// with NaN or infinity, [`Error::Damaged`] as for [`Snapshot::get`].
    pub fn search_with(&self, query: &[f32], options: &SearchOptions<'_>) -> Result<Vec<Hit>> {
        if query.len() != self.dim() {
            return Err(Error::DimensionMismatch {
                what: "the query",
                expected: self.dim(),
                found: query.len(),
            });
        }
        if query.iter().any(|element| !element.is_finite()) {
            return Err(Error::invalid("the query has an element that is not finite"));
        }
        search::exact(&self.view, query, options)
    }
}

impl<'a> IntoIterator for &'a Snapshot {
    type Item = Result<Entry<'a>>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl IntoIterator for Snapshot {
    type Item = Result<OwnedEntry>;
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter::new(self.view)
    }
}
