//! A batch: entries that become durable and visible as a whole or not at all.

use std::ops::Range;

use crate::base::{DType, Element, Result};
use crate::types::details::Attributes;
use crate::types::{AttributeType, EntryAttributes, EntryBuilder, Kind, OnDuplicate};

/// Entries to be appended together.
///
/// Entries take effect in their order: of a key that the batch holds twice, [`OnDuplicate::Skip`] stores the
/// first entry, [`OnDuplicate::Replace`] the last one.
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
    /// Of each entry the reason, if it is rejected, and the payload.
    pub(super) payloads: Vec<u8>,
    pub(super) attributes: Attributes,
    pub(super) entries: Vec<Ends>,
    /// The last commit that the store must have.
    expected: Option<u64>,
}

/// Where an entry's pieces end, and what becomes of it if its key is stored.
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

/// What becomes of an entry if its key is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// What the append says.
    OfAppend,
    Policy(OnDuplicate),
    /// It replaces the entry of this commit, and no other.
    ReplaceIf(u64),
}

/// An entry of a batch, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchEntry<'a> {
    pub key: &'a [u8],
    pub kind: Kind,
    pub condition: Condition,
    pub rows: &'a [u8],
    /// One per row, for element types that have scales.
    pub scales: &'a [f32],
    /// Why the input was rejected; empty for other kinds.
    pub reason: &'a str,
    pub payload: &'a [u8],
    pub attributes: EntryAttributes<'a>,
}

impl Batch {
    /// An empty batch for vectors of `dim` elements of type `dtype`. [`Store::batch`](crate::Store::batch)
    /// makes one that fits the store.
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

    /// Accepts NaN and infinities, which are refused otherwise: one of them makes every distance to its row
    /// useless.
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

    /// Makes the append fail with [`Error::StoreChanged`](crate::Error::StoreChanged) unless the store's last
    /// commit is this one: what was read before then still holds when the batch is committed.
    /// [`Batch::clear`] forgets it.
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

    /// Removes all entries and keeps their memory for the next ones. An append does this to the batch it has
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

    /// True when there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of rows of all entries.
    pub fn row_count(&self) -> usize {
        self.rows.len() / self.row_bytes()
    }

    /// Dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Element type of the vectors.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Begins an entry of this key, with whatever belongs to it; it is added by one of the builder's `push`
    /// methods.
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

    /// Adds an entry with one row, of as many elements as the store's dimension.
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`](crate::Error::DimensionMismatch) and
    /// [`Error::DTypeMismatch`](crate::Error::DTypeMismatch) for a row that is not the batch's;
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an empty key, one over
    /// [`MAX_KEY_LEN`](crate::MAX_KEY_LEN), NaN or infinity. The batch is then as it was.
    pub fn push<T: Element>(&mut self, key: impl AsRef<[u8]>, row: &[T]) -> Result<()> {
        self.entry(key).row(row).push()
    }

    /// Adds an entry with several rows: the faces of a picture, the chunks of a document.
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
    /// As [`Batch::push`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for no rows at all.
    pub fn push_rows<T: Element, R: AsRef<[T]>>(
        &mut self,
        key: impl AsRef<[u8]>,
        rows: impl IntoIterator<Item = R>,
    ) -> Result<()> {
        self.entry(key).rows(rows).push()
    }

    /// Adds an entry with one row given as `f32`, converted to the batch's element type: see
    /// [`EntryBuilder::converted`].
    ///
    /// ```
    /// use vecstore::{Batch, DType};
    /// let mut batch = Batch::new(2, DType::F16);
    /// batch.push_converted("a", &[0.1, 0.2])?;
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Batch::push`], and for values beyond what the element type can hold (`f16`: 65504).
    pub fn push_converted(&mut self, key: impl AsRef<[u8]>, row: &[f32]) -> Result<()> {
        self.entry(key).converted(row).push()
    }

    /// Adds an entry that says "done, and nothing was found".
    ///
    /// # Errors
    /// As for [`Batch::push`] on the key.
    pub fn push_empty(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.entry(key).push_empty()
    }

    /// Adds an entry that says "its content is bad", with the reason.
    ///
    /// # Errors
    /// As for [`Batch::push`] on the key; a reason has at most [`MAX_PAYLOAD_LEN`](crate::MAX_PAYLOAD_LEN)
    /// bytes.
    pub fn push_rejected(&mut self, key: impl AsRef<[u8]>, reason: &str) -> Result<()> {
        self.entry(key).push_rejected(reason)
    }

    /// Adds a tombstone: the key's entry, if there is one, is deleted by the commit of this batch.
    ///
    /// # Errors
    /// As for [`Batch::push`] on the key.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.entry(key).add(Kind::Tombstone, "")
    }

    /// Removes what belongs to no entry.
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

    /// Bytes of rows, keys, payloads and attributes.
    pub(crate) fn byte_len(&self) -> usize {
        let rows = self.rows.len() + self.scales.len() * 4;
        rows + self.keys.len() + self.payloads.len() + self.attributes.byte_len()
    }

    /// The last commit that the store must have for this batch to be appended.
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
