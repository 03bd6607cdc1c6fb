//! A batch: entries that become durable and visible as a whole or not at all.

use std::ops::Range;

use crate::base::{DType, Element, Result};
use crate::types::details::Attributes;
use crate::types::{AttributeType, EntryAttributes, EntryBuilder, Kind, OnDuplicate};

/// Entries that are appended together: all of them become durable and visible, or none.
///
/// Entries take effect in their order. If the batch holds a key twice, [`OnDuplicate::Skip`] stores the first
/// entry, [`OnDuplicate::Replace`] the last one.
///
/// ```
/// use vecstore::{Batch, DType};
/// let mut batch = Batch::new(3, DType::F32);
/// batch.push("cat.jpg", &[0.1f32, 0.2, 0.3])?;
/// batch.push_rows("two faces.jpg", [[1.0f32, 0.0, 0.0], [0.0, 1.0, 0.0]])?;
/// batch.push_empty("no face.jpg")?;
/// batch.push_rejected("broken.jpg", "truncated after 1024 bytes")?;
/// batch.entry("dog.jpg").row(&[0.3f32, 0.2, 0.1]).attribute("year", 2024).payload(b"any bytes").push()?;
/// assert_eq!((batch.len(), batch.row_count()), (5, 4));
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batch {
    pub(super) dim: usize,
    pub(super) dtype: DType,
    pub(super) allow_non_finite: bool,
    pub(super) rows: Vec<u8>,
    pub(super) scales: Vec<f32>,
    pub(super) keys: Vec<u8>,
    /// For each entry its reason (if it is rejected), then its payload.
    pub(super) payloads: Vec<u8>,
    pub(super) attributes: Attributes,
    pub(super) entries: Vec<Ends>,
    /// The store's last commit that the batch expects.
    expected: Option<u64>,
}

/// Ends of an entry's parts in the batch's buffers, its kind, and how the append treats it if its key is
/// stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub kind: Kind,
    pub condition: Condition,
    pub key: usize,
    pub rows: usize,
    pub reason: usize,
    pub payload: usize,
    pub attributes: usize,
}

/// How an append treats an entry whose key is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// As the append's own policy says.
    OfAppend,
    Policy(OnDuplicate),
    /// The entry replaces the stored entry if that is of this commit; otherwise the append fails.
    ReplaceIf(u64),
}

/// An entry of a batch, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchEntry<'a> {
    pub key: &'a [u8],
    pub kind: Kind,
    pub condition: Condition,
    pub rows: &'a [u8],
    /// One scale per row for `i8`; empty for other element types.
    pub scales: &'a [f32],
    /// Why the input was rejected; empty for other kinds.
    pub reason: &'a str,
    pub payload: &'a [u8],
    pub attributes: EntryAttributes<'a>,
}

impl Batch {
    /// An empty batch for vectors of `dim` elements of type `dtype`. [`Store::batch`](crate::Store::batch)
    /// makes a batch with the dimension and element type of the store.
    pub fn new(dim: usize, dtype: DType) -> Self {
        Batch {
            dim,
            dtype,
            allow_non_finite: false,
            rows: Vec::new(),
            scales: Vec::new(),
            keys: Vec::new(),
            payloads: Vec::new(),
            attributes: Attributes::default(),
            entries: Vec::new(),
            expected: None,
        }
    }

    /// If `allow` is true, the batch accepts NaN and infinity in rows, scales and attributes. By default it
    /// refuses them: a single such element makes every distance to its row meaningless.
    ///
    /// ```
    /// use vecstore::{Batch, DType};
    /// let mut batch = Batch::new(2, DType::F32);
    /// assert!(batch.push("a", &[f32::NAN, 0.0]).is_err());
    /// batch.allow_non_finite(true).push("a", &[f32::NAN, 0.0])?;
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn allow_non_finite(mut self, allow: bool) -> Self {
        self.allow_non_finite = allow;
        self
    }

    /// Makes the append fail with [`Error::StoreChanged`](crate::Error::StoreChanged) unless `commit` is the
    /// store's last commit (0 for a store without commits). Data that was read at that commit is then still
    /// current when the batch is committed. [`Batch::clear`] removes the condition.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{Error, OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let before = store.refresh()?;
    /// let mut batch = store.batch();
    /// batch.push("count", &[before.len() as f32])?;
    /// batch.expect_last_commit(before.last_commit());
    /// store.append(&mut batch, OnDuplicate::Replace)?;
    /// batch.push("count", &[before.len() as f32])?;
    /// batch.expect_last_commit(before.last_commit());
    /// let late = store.append(&mut batch, OnDuplicate::Replace);
    /// assert!(matches!(late, Err(Error::StoreChanged { expected: 0, found: 1, .. })));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn expect_last_commit(&mut self, commit: u64) {
        self.expected = Some(commit);
    }

    /// Removes all entries and the condition of [`Batch::expect_last_commit`], and keeps the memory for
    /// further entries. [`Store::append`](crate::Store::append) does the same to a batch that it has
    /// committed.
    ///
    /// ```
    /// use vecstore::{Batch, DType};
    /// let mut batch = Batch::new(1, DType::F32);
    /// batch.push("a", &[1.0f32])?;
    /// batch.clear();
    /// assert!(batch.is_empty());
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn clear(&mut self) {
        self.rows.clear();
        self.scales.clear();
        self.keys.clear();
        self.payloads.clear();
        self.attributes.clear();
        self.entries.clear();
        self.expected = None;
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if the batch has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of rows in all entries together.
    pub fn row_count(&self) -> usize {
        self.rows.len() / self.row_bytes()
    }

    /// Elements per row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Element type of the rows.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Begins an entry with this key. The builder takes the entry's rows, payload and attributes; one of its
    /// `push` methods adds the entry to the batch.
    ///
    /// ```
    /// use vecstore::{Batch, DType, Value};
    /// let mut batch = Batch::new(2, DType::F32);
    /// let entry = batch.entry("cat.jpg").row(&[0.1f32, 0.2]).row(&[0.3f32, 0.4]);
    /// let entry = entry.attribute("tags", vec!["cat", "sofa"]);
    /// entry.attribute("taken", Value::Time(1_718_000_000_000_000)).push()?;
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn entry<'a>(&mut self, key: impl AsRef<[u8]>) -> EntryBuilder<'_, 'a> {
        EntryBuilder::new(self, key.as_ref())
    }

    /// Adds an entry with one row of [`Batch::dim`] elements.
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`](crate::Error::DimensionMismatch) and
    /// [`Error::DTypeMismatch`](crate::Error::DTypeMismatch) if the row has another dimension or element type
    /// than the batch; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a key of 0 or more than
    /// [`MAX_KEY_LEN`](crate::MAX_KEY_LEN) bytes, and for NaN and infinity. After an error the batch is
    /// unchanged.
    pub fn push<T: Element>(&mut self, key: impl AsRef<[u8]>, row: &[T]) -> Result<()> {
        self.entry(key).row(row).push()
    }

    /// Adds an entry with several rows of [`Batch::dim`] elements each: the faces of a picture, the chunks of
    /// a document.
    ///
    /// ```
    /// use vecstore::{Batch, DType};
    /// let mut batch = Batch::new(2, DType::F32);
    /// let chunks: Vec<Vec<f32>> = vec![vec![0.1, 0.2], vec![0.3, 0.4]];
    /// batch.push_rows("letter.txt", &chunks)?;
    /// let flat = [0.1f32, 0.2, 0.3, 0.4, 0.5, 0.6];
    /// batch.push_rows("book.txt", flat.chunks(2))?;
    /// assert_eq!(batch.row_count(), 5);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Batch::push`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) also if there are no
    /// rows.
    pub fn push_rows<T: Element, R: AsRef<[T]>>(
        &mut self,
        key: impl AsRef<[u8]>,
        rows: impl IntoIterator<Item = R>,
    ) -> Result<()> {
        self.entry(key).rows(rows).push()
    }

    /// Adds an entry with one row of [`Batch::dim`] `f32` elements, converted to the batch's element type:
    /// see [`EntryBuilder::converted`].
    ///
    /// ```
    /// use vecstore::{Batch, DType};
    /// let mut batch = Batch::new(2, DType::F16);
    /// batch.push_converted("a", &[0.1, 0.2])?;
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Batch::push`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) also for a value beyond
    /// the range of the element type (`f16`: 65504).
    pub fn push_converted(&mut self, key: impl AsRef<[u8]>, row: &[f32]) -> Result<()> {
        self.entry(key).converted(row).push()
    }

    /// Adds an entry of kind [`Kind::Empty`]: the input was processed, and nothing was found in it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an invalid key, as [`Batch::push`].
    pub fn push_empty(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.entry(key).push_empty()
    }

    /// Adds an entry of kind [`Kind::Rejected`]: the input's content is bad, for this reason.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an invalid key, as [`Batch::push`], and
    /// for a reason of more than [`MAX_PAYLOAD_LEN`](crate::MAX_PAYLOAD_LEN) bytes.
    pub fn push_rejected(&mut self, key: impl AsRef<[u8]>, reason: &str) -> Result<()> {
        self.entry(key).push_rejected(reason)
    }

    /// Adds a tombstone: the commit of this batch deletes the key's entry. If the key is not stored, the
    /// tombstone is skipped.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an invalid key, as [`Batch::push`].
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.entry(key).add(Kind::Tombstone, "")
    }

    /// Removes keys, rows and scales that belong to no entry.
    pub(super) fn truncate(&mut self) {
        let (keys, rows) = self.entries.last().map_or((0, 0), |ends| (ends.key, ends.rows));
        self.keys.truncate(keys);
        self.rows.truncate(rows);
        if self.dtype == DType::I8 {
            self.scales.truncate(rows / self.row_bytes());
        }
    }

    /// Bytes of a row; at least 1.
    pub(super) fn row_bytes(&self) -> usize {
        (self.dim * self.dtype.size()).max(1)
    }

    /// Bytes of rows, scales, keys, payloads and attributes.
    pub(crate) fn byte_len(&self) -> usize {
        let rows = self.rows.len() + self.scales.len() * 4;
        rows + self.keys.len() + self.payloads.len() + self.attributes.byte_len()
    }

    /// The last commit that the store must have for an append of this batch to succeed.
    pub(crate) fn expected_last_commit(&self) -> Option<u64> {
        self.expected
    }

    /// Names and types of the attributes.
    pub(crate) fn attribute_types(&self) -> impl Iterator<Item = (&str, AttributeType)> {
        self.attributes.types()
    }

    /// The rows of all entries, and their scales.
    pub(crate) fn all_rows(&self) -> (&[u8], &[f32]) {
        (&self.rows, &self.scales)
    }

    /// The key of an entry.
    pub(crate) fn key(&self, index: usize) -> &[u8] {
        let end = |index: usize| self.entries.get(index).map_or(0, |ends| ends.key);
        self.keys.get(index.checked_sub(1).map_or(0, end)..end(index)).unwrap_or_default()
    }

    /// The entries in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = BatchEntry<'_>> {
        let (mut key, mut rows, mut payload, mut attributes) = (0, 0, 0, 0);
        let row_bytes = self.row_bytes();
        self.entries.iter().map(move |ends| {
            let entry = BatchEntry {
                key: self.keys.get(key..ends.key).unwrap_or_default(),
                kind: ends.kind,
                condition: ends.condition,
                rows: self.rows.get(rows..ends.rows).unwrap_or_default(),
                scales: self.scales.get(rows / row_bytes..ends.rows / row_bytes).unwrap_or_default(),
                reason: self.reason(payload..ends.reason),
                payload: self.payloads.get(ends.reason..ends.payload).unwrap_or_default(),
                attributes: self.attributes.range(attributes..ends.attributes),
            };
            (key, rows, payload, attributes) = (ends.key, ends.rows, ends.payload, ends.attributes);
            entry
        })
    }

    fn reason(&self, range: Range<usize>) -> &str {
        self.payloads.get(range).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_order() {
        let mut batch = Batch::new(1, DType::F32);
        batch.entry("a").row(&[1.0f32]).row(&[2.0f32]).payload(b"p").push().unwrap();
        batch.entry("b").payload(b"q").push_rejected("why").unwrap();
        batch.delete("c").unwrap();
        let found: Vec<_> =
            batch.entries().map(|e| (e.key, e.kind, e.rows.len(), e.reason, e.payload)).collect();
        assert_eq!(
            found,
            [
                (&b"a"[..], Kind::Rows, 8, "", &b"p"[..]),
                (b"b", Kind::Rejected, 0, "why", b"q"),
                (b"c", Kind::Tombstone, 0, "", b""),
            ]
        );
    }
}
