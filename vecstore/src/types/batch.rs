//! A batch: entries that become durable and visible as a whole or not at all.

use std::ops::Range;

use crate::base::{DType, Element, Error, Result, escaped, narrow_into};
use crate::types::details::Attributes;
use crate::types::{AttributeType, Details, EntryAttributes, Kind, MAX_KEY_LEN, MAX_PAYLOAD_LEN};

/// Entries like the first one that a batch has room for.
const USUAL_BATCH: usize = 32;
/// Bytes of such room at most.
const MOST_ROOM: usize = 256 << 10;

/// Entries to be appended together.
///
/// ```
/// use vecstore::{Batch, DType};
/// let mut batch = Batch::new(3, DType::F32);
/// batch.push("cat.jpg", &[0.1f32, 0.2, 0.3])?;
/// batch.push("two faces.jpg", &[1.0f32, 0.0, 0.0, 0.0, 1.0, 0.0])?;
/// batch.push_empty("no face.jpg", b"")?;
/// batch.push_rejected("broken.jpg", "truncated after 1024 bytes", b"")?;
/// assert_eq!((batch.len(), batch.rows()), (4, 3));
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batch {
    dim: usize,
    dtype: DType,
    allow_non_finite: bool,
    rows: Vec<u8>,
    scales: Vec<f32>,
    keys: Vec<u8>,
    /// Of each entry the reason, if it is rejected, and the payload.
    payloads: Vec<u8>,
    pub(super) attributes: Attributes,
    entries: Vec<Ends>,
}

/// Where an entry's pieces end.
#[derive(Clone, Copy, Debug)]
struct Ends {
    kind: Kind,
    key: usize,
    rows: usize,
    reason: usize,
    payload: usize,
    attributes: usize,
}

/// An entry of a batch, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchEntry<'a> {
    pub key: &'a [u8],
    pub kind: Kind,
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
        }
    }

    /// Accepts NaN and infinities, which are refused otherwise: one of them makes every distance to its row
    /// useless.
    pub fn allow_non_finite(mut self, allow: bool) -> Self {
        self.allow_non_finite = allow;
        self
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
    pub fn rows(&self) -> usize {
        self.rows.len() / (self.dim * self.dtype.size()).max(1)
    }

    /// Dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Element type of the vectors.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of rows, keys, payloads and attributes.
    pub(crate) fn byte_len(&self) -> usize {
        let rows = self.rows.len() + self.scales.len() * 4;
        rows + self.keys.len() + self.payloads.len() + self.attributes.byte_len()
    }

    /// Adds an entry with one row or more: `rows.len()` is a multiple of the dimension.
    ///
    /// # Errors
    /// An empty key or one over 64 KiB, no rows, a length that is no multiple of the dimension, elements of
    /// another type than the batch's, NaN or infinity. The batch is then as it was.
    pub fn push<T: Element>(&mut self, key: impl AsRef<[u8]>, rows: &[T]) -> Result<()> {
        self.push_with(key, rows, Details::new())
    }

    /// As [`Batch::push`], with a payload, attributes, or both: see [`Details`].
    ///
    /// # Errors
    /// As [`Batch::push`], and for a payload or an attribute that is not possible, NaN or infinity among them,
    /// or an attribute that has another type in the batch.
    pub fn push_with<'a, T: Element>(
        &mut self,
        key: impl AsRef<[u8]>,
        rows: &[T],
        details: impl Into<Details<'a>>,
    ) -> Result<()> {
        let key = key.as_ref();
        if T::DTYPE != self.dtype {
            return Err(Error::DTypeMismatch { what: "the entry", expected: self.dtype, found: T::DTYPE });
        }
        self.check_rows(key, rows)?;
        self.add(key, Kind::Rows, bytemuck::cast_slice(rows), &[], "", details.into())
    }

    /// Adds rows given as `f32`, converted to the batch's element type: the nearest value, and for `i8` a
    /// scale per row of its largest magnitude over 127.
    ///
    /// ```
    /// use vecstore::{Batch, DType};
    /// let mut batch = Batch::new(3, DType::I8);
    /// batch.push_converted("a", &[0.1, 0.2, -0.4], b"")?;
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Batch::push_with`], and for values beyond what the element type can hold (`f16`: 65504).
    pub fn push_converted<'a>(
        &mut self,
        key: impl AsRef<[u8]>,
        rows: &[f32],
        details: impl Into<Details<'a>>,
    ) -> Result<()> {
        let key = key.as_ref();
        self.check_rows(key, rows)?;
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        narrow_into(self.dtype, self.dim, rows, &mut bytes, &mut scales);
        fn narrow<T: Element>(rows: &[f32]) -> Vec<T> {
            rows.iter().map(|value| T::narrow(*value)).collect()
        }
        match self.dtype {
            DType::F16 => self.check_rows(key, &narrow::<half::f16>(rows))?,
            DType::BF16 => self.check_rows(key, &narrow::<half::bf16>(rows))?,
            DType::F32 | DType::I8 => {}
        }
        self.add(key, Kind::Rows, &bytes, &scales, "", details.into())
    }

    /// Adds rows of `i8` with one scale per row: element times scale is the value.
    ///
    /// # Errors
    /// As [`Batch::push_with`]; also for a batch of another element type, and where rows and scales are not
    /// equal in number.
    pub fn push_quantized<'a>(
        &mut self,
        key: impl AsRef<[u8]>,
        rows: &[i8],
        scales: &[f32],
        details: impl Into<Details<'a>>,
    ) -> Result<()> {
        let key = key.as_ref();
        if self.dtype != DType::I8 {
            return Err(Error::DTypeMismatch { what: "the entry", expected: self.dtype, found: DType::I8 });
        }
        self.check_shape(rows.len())?;
        let (count, found) = (rows.len() / self.dim, scales.len());
        if found != count || (!self.allow_non_finite && scales.iter().any(|s| !s.is_finite())) {
            return refuse(key, format_args!("{count} rows need as many finite scales, found {found}"));
        }
        self.add(key, Kind::Rows, bytemuck::cast_slice(rows), scales, "", details.into())
    }

    fn check_shape(&self, elements: usize) -> Result<()> {
        if elements == 0 || self.dim == 0 || !elements.is_multiple_of(self.dim) {
            return Err(Error::DimensionMismatch {
                what: "an entry's rows",
                expected: self.dim,
                found: elements,
            });
        }
        Ok(())
    }

    fn check_rows<T: Element>(&self, key: &[u8], rows: &[T]) -> Result<()> {
        self.check_shape(rows.len())?;
        if !self.allow_non_finite
            && !T::are_finite(rows)
            && let Some(at) = rows.iter().position(|element| !element.widen().is_finite())
        {
            let (element, row, dtype) = (at % self.dim, at / self.dim, T::DTYPE);
            let what = format_args!("element {element} of row {row} is not finite (as {dtype})");
            return refuse(key, format_args!("{what}; find out what made it, or allow such values"));
        }
        Ok(())
    }

    /// Adds an entry that says "done, and nothing was found".
    ///
    /// # Errors
    /// As for [`Batch::push_with`] on key, payload and attributes.
    pub fn push_empty<'a>(&mut self, key: impl AsRef<[u8]>, details: impl Into<Details<'a>>) -> Result<()> {
        self.add(key.as_ref(), Kind::Empty, &[], &[], "", details.into())
    }

    /// Adds an entry that says "its content is bad", with the reason.
    ///
    /// # Errors
    /// As for [`Batch::push_with`] on key, payload and attributes; reason and payload have one limit.
    pub fn push_rejected<'a>(
        &mut self,
        key: impl AsRef<[u8]>,
        reason: &str,
        details: impl Into<Details<'a>>,
    ) -> Result<()> {
        self.add(key.as_ref(), Kind::Rejected, &[], &[], reason, details.into())
    }

    /// Adds a tombstone: the key's entry, if there is one, is deleted by the commit of this batch.
    ///
    /// # Errors
    /// As for [`Batch::push`] on the key.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.add(key.as_ref(), Kind::Tombstone, &[], &[], "", Details::new())
    }

    fn add(
        &mut self,
        key: &[u8],
        kind: Kind,
        rows: &[u8],
        scales: &[f32],
        reason: &str,
        Details { payload, attributes }: Details<'_>,
    ) -> Result<()> {
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            let len = key.len();
            return Err(Error::bad_input(format!(
                "a key of {len} bytes is not possible; use 1 to {MAX_KEY_LEN}"
            )));
        }
        let len = reason.len() + payload.len();
        if len > MAX_PAYLOAD_LEN {
            let what = if kind == Kind::Rejected { "a reason and payload" } else { "a payload" };
            let what = format!("{what} of {len} bytes is too long; the limit is {MAX_PAYLOAD_LEN}");
            return refuse(key, format_args!("{what}"));
        }
        if let Err(what) = self.attributes.check(&attributes, self.allow_non_finite) {
            return refuse(key, format_args!("{what}"));
        }
        if u32::try_from(self.entries.len() + 1).is_err() {
            return Err(Error::bad_input("a batch holds fewer than 2^32 entries; append it in parts"));
        }
        self.keys.extend_from_slice(key);
        if self.rows.capacity() - self.rows.len() < rows.len() {
            // Room for a usual batch at once, so that the first rows are not moved again and again.
            self.rows.reserve(rows.len().max((USUAL_BATCH * rows.len()).min(MOST_ROOM)));
        }
        self.rows.extend_from_slice(rows);
        self.scales.extend_from_slice(scales);
        self.payloads.extend_from_slice(reason.as_bytes());
        let reason = self.payloads.len();
        self.payloads.extend_from_slice(payload);
        self.attributes.add(&attributes);
        self.entries.push(Ends {
            kind,
            key: self.keys.len(),
            rows: self.rows.len(),
            reason,
            payload: self.payloads.len(),
            attributes: self.attributes.len(),
        });
        Ok(())
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
        let row_bytes = (self.dim * self.dtype.size()).max(1);
        self.entries.iter().map(move |ends| {
            let entry = BatchEntry {
                key: self.keys.get(key..ends.key).unwrap_or_default(),
                kind: ends.kind,
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

fn refuse(key: &[u8], what: std::fmt::Arguments<'_>) -> Result<()> {
    Err(Error::bad_input(format!("key \"{}\": {what}", escaped(key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_entries_leave_the_batch_as_it_was() {
        let mut batch = Batch::new(2, DType::F32);
        assert!(batch.push("", &[0.0f32, 1.0]).is_err(), "empty key");
        assert!(batch.push(vec![b'k'; MAX_KEY_LEN + 1], &[0.0f32, 1.0]).is_err(), "long key");
        assert!(batch.push("k", &[0.0f32]).is_err(), "half a row");
        assert!(batch.push::<f32>("k", &[]).is_err(), "no row");
        assert!(batch.push("k", &[f32::NAN, 0.0]).is_err(), "NaN");
        assert!(batch.push("k", &[0.0, f32::INFINITY]).is_err(), "infinity");
        assert!(batch.push("k", &[half::f16::ONE; 2]).is_err(), "another type");
        assert!(batch.push_empty("k", &vec![0; MAX_PAYLOAD_LEN + 1]).is_err(), "long payload");
        assert!(batch.push_rejected("k", "reason", &vec![0; MAX_PAYLOAD_LEN - 5]).is_err(), "and a reason");
        assert!(batch.is_empty() && batch.byte_len() == 0);
        batch.push(vec![b'k'; MAX_KEY_LEN], &[0.0f32, 1.0]).unwrap();
        let mut batch = Batch::new(2, DType::F32).allow_non_finite(true);
        batch.push("k", &[f32::NAN, 0.0]).unwrap();
        assert_eq!(batch.rows(), 1);
    }

    #[test]
    fn entries_come_back_in_order() {
        let mut batch = Batch::new(1, DType::F32);
        batch.push_with("a", &[1.0f32, 2.0], b"p").unwrap();
        batch.push_rejected("b", "why", b"q").unwrap();
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

    #[test]
    fn values_beyond_the_element_type_are_refused() {
        for dtype in [DType::F16, DType::BF16] {
            let mut batch = Batch::new(2, dtype);
            let error = batch.push_converted("k", &[0.0, f32::MAX], b"").unwrap_err();
            assert!(error.to_string().contains(&format!("not finite (as {dtype})")), "{error}");
            batch.allow_non_finite(true).push_converted("k", &[0.0, f32::MAX], b"").unwrap();
        }
    }
}
