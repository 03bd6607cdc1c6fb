//! Entries of a snapshot, borrowed or owned.

use std::fmt;
use std::sync::Arc;

use crate::base::{DType, Element, Error, Result};
use crate::format::rejected;
use crate::segment::Segment;
use crate::types::{Address, Kind, Value};

/// One entry of a snapshot. It borrows its key, rows and payload from the mapped segment. [`Entry::to_owned`]
/// makes an entry that can outlive the snapshot.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub(crate) segment: &'a Arc<Segment>,
    pub(crate) index: usize,
    key: &'a [u8],
    kind: Kind,
    payload: &'a [u8],
    first_row: usize,
    row_count: usize,
}

impl<'a> Entry<'a> {
    /// Reads entry `index` of a segment, checking every offset.
    #[inline]
    pub(crate) fn read(segment: &'a Arc<Segment>, index: usize) -> Result<Self> {
        let key = segment.key(index)?;
        let (kind, span) = segment.kind_and_rows(index)?;
        let payload = match kind {
            Kind::Rejected => reason_and_payload(segment, index)?.1,
            _ => segment.payload(index)?,
        };
        Ok(Entry { segment, index, key, kind, payload, first_row: span.start, row_count: span.len() })
    }

    /// The same entry, without a borrow of the snapshot. It keeps its segment mapped as long as it lives.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("a", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let first = store.snapshot().iter().next().expect("there is one")?.to_owned();
    /// assert_eq!(first.entry().key(), b"a"); // the snapshot is gone
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn to_owned(&self) -> OwnedEntry {
        let Entry { segment, index, kind, first_row, row_count, .. } = *self;
        OwnedEntry { segment: Arc::clone(segment), index, kind, first_row, row_count }
    }

    /// The key.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The entry's kind.
    #[inline]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of rows (vectors); 0 unless the kind is [`Kind::Rows`].
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// All rows, one after the other, straight from the mapped file: a slice of `row_count() * dim` elements.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] if the store has elements of another type; [`Error::Damaged`] if a block of
    /// the rows is damaged, and the handle compares checksums while reading.
    #[inline]
    pub fn rows<T: Element>(&self) -> Result<&'a [T]> {
        self.expect(T::DTYPE)?;
        bytemuck::try_cast_slice(self.row_bytes()?)
            .map_err(|_| Error::damaged(self.segment.path(), "ROWS", "rows are not aligned"))
    }

    /// A copy of all rows as `f32`, one after the other, converted from the store's element type:
    /// `row_count() * dim` elements. Elements of an `i8` store are multiplied by their row's scale.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file's tables contradict each other, or a block of the rows is damaged and
    /// the handle compares checksums while reading.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.segment.rows_f32(self.span())
    }

    /// All rows of an `i8` store and their scales, straight from the mapped file: `row_count() * dim`
    /// elements, and `row_count()` scales. A value is an element times the scale of its row.
    ///
    /// # Errors
    /// As [`Entry::rows`].
    pub fn quantized(&self) -> Result<(&'a [i8], &'a [f32])> {
        self.expect(DType::I8)?;
        Ok((bytemuck::cast_slice(self.row_bytes()?), self.segment.row_scales(self.span())))
    }

    fn expect(&self, found: DType) -> Result<()> {
        let (what, expected) = ("the slice asked for", self.segment.dtype());
        if found == expected { Ok(()) } else { Err(Error::DTypeMismatch { what, expected, found }) }
    }

    fn span(&self) -> std::ops::Range<usize> {
        self.first_row..self.first_row + self.row_count
    }

    #[inline]
    fn row_bytes(&self) -> Result<&'a [u8]> {
        self.segment.row_bytes(self.span())
    }

    /// The bytes of all rows, and their scales.
    pub(super) fn stored_rows(&self) -> Result<(&'a [u8], &'a [f32])> {
        Ok((self.row_bytes()?, self.segment.row_scales(self.span())))
    }

    /// The payload; empty if the entry has none.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The value of an attribute; `None` if the entry has no attribute of this name.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use vecstore::{OnDuplicate, Store, StoreConfig, Value};
    /// let store = Store::create(dir.path().join("photos.vecs"), StoreConfig::new(1))?;
    /// let mut batch = store.batch();
    /// batch.entry("cat.jpg").row(&[0.5f32]).attribute("year", 2024).push()?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// let snapshot = store.snapshot();
    /// let cat = snapshot.get("cat.jpg")?.expect("it was appended");
    /// assert_eq!(cat.attribute("year")?, Some(Value::I64(2024)));
    /// assert_eq!(cat.attribute("month")?, None);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file's attributes cannot be read.
    pub fn attribute(&self, name: &str) -> Result<Option<Value<'a>>> {
        let column = self.segment.directory()?.column(name);
        column.map_or(Ok(None), |column| self.segment.value(self.index, column))
    }

    /// All attributes of the entry, sorted by name. Attributes of a type that only a later version of this
    /// crate knows are left out.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use vecstore::{OnDuplicate, Store, StoreConfig, Value};
    /// let store = Store::create(dir.path().join("photos.vecs"), StoreConfig::new(1))?;
    /// let mut batch = store.batch();
    /// let entry = batch.entry("cat.jpg").row(&[0.5f32]).attribute("tags", vec!["cat", "sofa"]);
    /// entry.attribute("liked", true).push()?;
    /// batch.push("dog.jpg", &[0.25f32])?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// let snapshot = store.snapshot();
    /// let all: Vec<_> = snapshot.iter().map(|entry| entry?.attributes()).collect::<Result<_, _>>()?;
    /// assert_eq!(all[0], [("liked", Value::Bool(true)), ("tags", Value::Texts(vec!["cat", "sofa"]))]);
    /// assert!(all[1].is_empty());
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Entry::attribute`].
    pub fn attributes(&self) -> Result<Vec<(&'a str, Value<'a>)>> {
        let mut found = Vec::new();
        for column in self.segment.directory()?.columns() {
            found.extend(self.segment.value(self.index, column)?.map(|value| (&*column.name, value)));
        }
        Ok(found)
    }

    /// The reason why the input was rejected; `None` unless the kind is [`Kind::Rejected`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// use vecstore::{Kind, OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let mut batch = store.batch();
    /// batch.push_rejected("broken.jpg", "truncated after 1024 bytes")?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// let snapshot = store.snapshot();
    /// let entry = snapshot.get("broken.jpg")?.expect("it was stored");
    /// assert_eq!((entry.kind(), entry.row_count()), (Kind::Rejected, 0));
    /// assert_eq!(entry.reason(), Some("truncated after 1024 bytes"));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn reason(&self) -> Option<&'a str> {
        let of_rejected = || reason_and_payload(self.segment, self.index).ok();
        if self.kind == Kind::Rejected { of_rejected().map(|(reason, _)| reason) } else { None }
    }

    /// Address of the entry's first row. For an entry without rows: the address that its first row would
    /// have.
    pub fn address(&self) -> Address {
        self.segment.address_of_entry(self.index, self.first_row)
    }

    /// Path of the segment file that holds the entry, and the index of the entry's first row in that file's
    /// array. A merge may have deleted the file since the snapshot was taken.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("a", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let entry = store.snapshot().get_owned("a")?.expect("it was stored");
    /// let (file, first_row) = entry.entry().location();
    /// println!("numpy.load({file:?}, mmap_mode=\"r\")[{first_row}]");
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn location(&self) -> (&'a std::path::Path, usize) {
        (self.segment.path(), self.first_row)
    }

    /// Element type of the rows.
    pub fn dtype(&self) -> DType {
        self.segment.dtype()
    }
}

/// The reason and the payload of a rejected entry.
fn reason_and_payload(segment: &Segment, index: usize) -> Result<(&str, &[u8])> {
    let bytes = segment.payload(index)?;
    let detail = || format!("the reason of entry {index} cannot be read");
    rejected::decode(bytes).ok_or_else(|| Error::damaged(segment.path(), "PAYL", detail()))
}

/// Iterates over a segment in which every entry has one row and no payload: reading all rows is then little
/// more than reading memory.
#[derive(Debug)]
pub(crate) struct SimpleEntries<'a> {
    segment: &'a Arc<Segment>,
    keys: &'a [u8],
    ends: std::iter::Enumerate<std::slice::Iter<'a, u64>>,
    /// Where the next key begins.
    start: usize,
}

impl<'a> SimpleEntries<'a> {
    /// The segment's entries, if each has one row and no payload.
    pub fn of(segment: &'a Arc<Segment>) -> Option<Self> {
        let ends = segment.simple_key_ends()?.iter().enumerate();
        Some(SimpleEntries { segment, keys: segment.all_keys(), ends, start: 0 })
    }

    /// The next entry. Its offsets are checked.
    #[inline]
    pub fn next(&mut self) -> Option<Result<Entry<'a>>> {
        let (index, end) = self.ends.next()?;
        let end = usize::try_from(*end).unwrap_or(usize::MAX);
        let start = std::mem::replace(&mut self.start, end);
        let Some(key) = self.keys.get(start..end) else {
            // Returns the error that names the damage.
            return Some(Entry::read(self.segment, index));
        };
        let segment = self.segment;
        Some(Ok(Entry {
            segment,
            index,
            key,
            kind: Kind::Rows,
            payload: &[],
            first_row: index,
            row_count: 1,
        }))
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &String::from_utf8_lossy(self.key))
            .field("kind", &self.kind)
            .field("rows", &self.row_count)
            .field("address", &self.address().to_string())
            .finish()
    }
}

/// An entry that borrows nothing: it can be returned, stored and sent to other threads. As long as it lives,
/// its segment stays mapped and occupies space on the disk, even after a merge has deleted the file.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use vecstore::{OnDuplicate, OwnedEntry, Store, StoreConfig};
/// fn find(store: &Store, key: &str) -> vecstore::Result<Option<OwnedEntry>> {
///     store.snapshot().get_owned(key)
/// }
/// let store = Store::create(dir.path().join("photos.vecs"), StoreConfig::new(1))?;
/// let mut batch = store.batch();
/// batch.push("cat.jpg", &[0.5f32])?;
/// store.append(&mut batch, OnDuplicate::Skip)?;
/// let cat = find(&store, "cat.jpg")?.expect("it was appended");
/// assert_eq!(cat.entry().rows::<f32>()?, &[0.5]);
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone)]
pub struct OwnedEntry {
    segment: Arc<Segment>,
    index: usize,
    kind: Kind,
    first_row: usize,
    row_count: usize,
}

impl OwnedEntry {
    /// The entry, borrowed from this owned entry.
    pub fn entry(&self) -> Entry<'_> {
        let OwnedEntry { segment, index, kind, first_row, row_count } = self;
        // Key and payload were readable when the entry was read.
        let key = segment.key(*index).unwrap_or_default();
        let payload = match kind {
            Kind::Rejected => reason_and_payload(segment, *index).map(|(_, payload)| payload),
            _ => segment.payload(*index),
        };
        let payload = payload.unwrap_or_default();
        Entry {
            segment,
            index: *index,
            key,
            kind: *kind,
            payload,
            first_row: *first_row,
            row_count: *row_count,
        }
    }
}

impl fmt::Debug for OwnedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry().fmt(f)
    }
}
