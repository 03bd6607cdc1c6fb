//! The builder of one entry of a batch.

use crate::base::{DType, Element, Error, ROW, Result, escaped, narrow_into};
use crate::types::batch::{Condition, Ends};
use crate::types::details::Details;
use crate::types::{Address, Batch, Kind, MAX_KEY_LEN, MAX_PAYLOAD_LEN, OnDuplicate, Value};

/// Number of rows for which a batch reserves memory at once.
const USUAL_BATCH: usize = 32;
/// Most bytes that a batch reserves at once, unless a single row needs more.
const MOST_ROOM: usize = 256 << 10;

/// Builder of one entry of a [`Batch`], from [`Batch::entry`]: takes rows, a payload, attributes, and a
/// policy for a stored key. One of the `push` methods adds the entry. A builder that is dropped before, or
/// whose entry is refused, leaves the batch unchanged.
///
/// Limits: a payload has at most 16 MiB ([`MAX_PAYLOAD_LEN`]). The name of an attribute is UTF-8 of 1 to 255
/// bytes without control characters, and a store has at most 256 names. All values of one name in a store
/// have the same type. The texts of an entry's attributes have at most 16 MiB together, with 8 bytes more for
/// each text of a list.
#[derive(Debug)]
#[must_use = "an entry is only added by `push`, `push_empty` or `push_rejected`"]
pub struct EntryBuilder<'b, 'a> {
    batch: &'b mut Batch,
    details: Details<'a>,
    condition: Condition,
    /// Kind and reason of the stored entry that this entry copies.
    copied: Option<(Kind, &'a str)>,
    /// Number of leading attributes that were copied: an attribute given later replaces the copied one of its
    /// name.
    copied_attributes: usize,
    /// The first error in the key, the rows or the copied entry.
    failed: Option<Error>,
}

impl<'b, 'a> EntryBuilder<'b, 'a> {
    pub(super) fn new(batch: &'b mut Batch, key: &[u8]) -> Self {
        // A builder that was leaked with `mem::forget` has left its key and rows.
        batch.truncate();
        let mut failed = None;
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            let len = key.len();
            let what = format!("a key of {len} bytes is not possible; use 1 to {MAX_KEY_LEN}");
            failed = Some(Error::invalid(what));
        } else {
            batch.keys.extend_from_slice(key);
        }
        EntryBuilder {
            batch,
            details: Details::default(),
            condition: Condition::OfAppend,
            copied: None,
            copied_attributes: 0,
            failed,
        }
    }

    /// Adds a row of [`Batch::dim`] elements. An error in the row is returned by the `push` methods.
    pub fn row<T: Element>(mut self, row: &[T]) -> Self {
        if self.failed.is_none() {
            match self.check_row(row) {
                Ok(()) => self.add_row(bytemuck::cast_slice(row), &[]),
                Err(error) => self.failed = Some(error),
            }
        }
        self
    }

    /// Adds several rows of [`Batch::dim`] elements each.
    pub fn rows<T: Element, R: AsRef<[T]>>(self, rows: impl IntoIterator<Item = R>) -> Self {
        rows.into_iter().fold(self, |entry, row| entry.row(row.as_ref()))
    }

    /// Adds a row of [`Batch::dim`] `f32` elements, converted to the batch's element type: to the nearest
    /// value. For `i8` the scale is the row's largest magnitude divided by 127.
    ///
    /// ```
    /// use vecstore::{Batch, DType};
    /// let mut batch = Batch::new(3, DType::I8);
    /// batch.entry("a").converted(&[0.1, 0.2, -0.4]).push()?;
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn converted(mut self, row: &[f32]) -> Self {
        fn narrow<T: Element>(row: &[f32]) -> Vec<T> {
            row.iter().map(|value| T::narrow(*value)).collect()
        }
        if self.failed.is_some() {
            return self;
        }
        let checked = self.check_elements(row).and_then(|()| match self.batch.dtype {
            DType::F16 => self.check_elements(&narrow::<half::f16>(row)),
            DType::BF16 => self.check_elements(&narrow::<half::bf16>(row)),
            DType::F32 | DType::I8 => Ok(()),
        });
        match checked {
            Ok(()) => {
                let (mut bytes, mut scales) = (Vec::new(), Vec::new());
                narrow_into(self.batch.dtype, self.batch.dim, row, &mut bytes, &mut scales);
                self.add_row(&bytes, &scales);
            }
            Err(error) => self.failed = Some(error),
        }
        self
    }

    /// Adds a row of [`Batch::dim`] elements of type `i8`, and its scale: a value is an element times the
    /// scale.
    ///
    /// ```
    /// use vecstore::{Batch, DType};
    /// let mut batch = Batch::new(3, DType::I8);
    /// batch.entry("a").quantized(&[127, -64, 0], 0.5 / 127.0).push()?;
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn quantized(mut self, row: &[i8], scale: f32) -> Self {
        if self.failed.is_some() {
            return self;
        }
        let checked = self.check_dtype(DType::I8).and_then(|()| self.check_len(row.len())).and_then(|()| {
            match scale.is_finite() || self.batch.allow_non_finite {
                true => Ok(()),
                false => Err(self.refusal(format_args!("a scale must be finite, found {scale}"))),
            }
        });
        match checked {
            Ok(()) => self.add_row(bytemuck::cast_slice(row), &[scale]),
            Err(error) => self.failed = Some(error),
        }
        self
    }

    /// Adds rows as they are stored: the bytes of rows of `dim` elements of type `dtype`, and a scale per row
    /// for `i8`.
    pub(crate) fn stored_rows(mut self, dim: usize, dtype: DType, rows: &[u8], scales: &[f32]) -> Self {
        if self.failed.is_some() || rows.is_empty() {
            return self;
        }
        match self.check_dtype(dtype).and_then(|()| self.check_len(dim)) {
            Ok(()) => self.add_row(rows, scales),
            Err(error) => self.failed = Some(error),
        }
        self
    }

    /// Takes over the kind, reason and attributes of a stored entry.
    pub(crate) fn copied(
        mut self,
        kind: Kind,
        reason: &'a str,
        attributes: Vec<(&'a str, Value<'a>)>,
    ) -> Self {
        self.copied = Some((kind, reason));
        self.copied_attributes = attributes.len();
        self.details.attributes = attributes;
        self
    }

    /// Makes the `push` methods fail with this error, unless there is an earlier one.
    pub(crate) fn fail(mut self, error: Error) -> Self {
        self.failed.get_or_insert(error);
        self
    }

    /// Sets the payload: bytes that the store keeps and does not interpret. A later payload replaces it.
    pub fn payload(mut self, payload: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.details.payload = payload.as_ref();
        self
    }

    /// Adds an attribute: a named, typed value that filters can use.
    pub fn attribute(mut self, name: &'a str, value: impl Into<Value<'a>>) -> Self {
        let copied = self.details.attributes.iter().take(self.copied_attributes);
        if let Some(at) = copied.map(|(copied, _)| *copied).position(|copied| copied == name) {
            self.details.attributes.remove(at);
            self.copied_attributes -= 1;
        }
        self.details.attributes.push((name, value.into()));
        self
    }

    /// Sets how the append treats this entry if its key is stored. The append's own policy applies to the
    /// other entries.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let mut batch = store.batch();
    /// batch.push("a.txt", &[1.0f32])?; // only if it is new
    /// batch.entry("statistics").payload(b"{}").on_duplicate(OnDuplicate::Replace).push_empty()?;
    /// store.append(&mut batch, OnDuplicate::Skip)?;
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn on_duplicate(mut self, policy: OnDuplicate) -> Self {
        self.condition = Condition::Policy(policy);
        self
    }

    /// Makes the entry replace the stored entry of its key only if that entry still has the address
    /// `expected`. Otherwise another writer has replaced or deleted the entry that was read: the append fails
    /// with [`Error::EntryChanged`](crate::Error::EntryChanged), and nothing of the batch is stored.
    ///
    /// `expected` is the [`Entry::address`](crate::Entry::address) of the key's entry. Only its commit is
    /// compared, since a commit has at most one entry of a key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{Error, OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("mean", &[1.0f32])?;
    /// # store.append(&mut batch, OnDuplicate::Error)?;
    /// let mean = store.snapshot().get_owned("mean")?.expect("it was stored");
    /// let next = mean.entry().to_f32()?[0] + 1.0;
    /// let address = mean.entry().address();
    /// batch.entry("mean").row(&[next]).replace_if(address).push()?;
    /// store.append(&mut batch, OnDuplicate::Error)?;
    /// batch.entry("mean").row(&[next]).replace_if(address).push()?;
    /// assert!(matches!(store.append(&mut batch, OnDuplicate::Error), Err(Error::EntryChanged { .. })));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn replace_if(mut self, expected: Address) -> Self {
        self.condition = Condition::ReplaceIf(expected.commit);
        self
    }

    /// Adds the entry with its rows (kind [`Kind::Rows`]). An entry made by [`EntryBuilder::copy_of`] keeps
    /// the copied kind.
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`](crate::Error::DimensionMismatch) and
    /// [`Error::DTypeMismatch`](crate::Error::DTypeMismatch) if a row has another dimension or element type
    /// than the batch; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an entry without rows,
    /// an invalid key, NaN and infinity, and beyond the limits of [`EntryBuilder`]. After an error the batch
    /// is unchanged.
    pub fn push(self) -> Result<()> {
        let has_rows = self.batch.rows.len() > self.batch.entries.last().map_or(0, |ends| ends.rows);
        match self.copied {
            Some((kind, reason)) if kind != Kind::Rows && !has_rows => return self.add(kind, reason),
            _ if self.failed.is_none() && !has_rows => {
                return Err(self.refusal(format_args!(
                    "it has no rows; add some, or use `push_empty` for an input in which nothing was found"
                )));
            }
            _ => {}
        }
        self.add(Kind::Rows, "")
    }

    /// Adds the entry without rows (kind [`Kind::Empty`]): the input was processed, and nothing was found in
    /// it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an entry with rows; otherwise as
    /// [`EntryBuilder::push`].
    pub fn push_empty(self) -> Result<()> {
        self.add(Kind::Empty, "")
    }

    /// Adds the entry without rows (kind [`Kind::Rejected`]), with the reason why its input was rejected.
    /// Reason and payload together have at most [`MAX_PAYLOAD_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an entry with rows; otherwise as
    /// [`EntryBuilder::push`].
    pub fn push_rejected(self, reason: &str) -> Result<()> {
        self.add(Kind::Rejected, reason)
    }

    pub(crate) fn add(mut self, kind: Kind, reason: &str) -> Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let details = std::mem::take(&mut self.details);
        let len = reason.len() + details.payload.len();
        if len > MAX_PAYLOAD_LEN {
            let what = if kind == Kind::Rejected { "a reason and payload" } else { "a payload" };
            return Err(self
                .refusal(format_args!("{what} of {len} bytes is too long; the limit is {MAX_PAYLOAD_LEN}")));
        }
        if let Err(what) = self.batch.attributes.check(&details.attributes, self.batch.allow_non_finite) {
            return Err(self.refusal(format_args!("{what}")));
        }
        let batch = &mut *self.batch;
        if kind != Kind::Rows && batch.rows.len() > batch.entries.last().map_or(0, |ends| ends.rows) {
            return Err(self.refusal(format_args!("an entry of kind {kind} cannot have rows; use `push`")));
        }
        if u32::try_from(batch.entries.len() + 1).is_err() {
            return Err(Error::invalid("a batch holds fewer than 2^32 entries; append it in parts"));
        }
        batch.payloads.extend_from_slice(reason.as_bytes());
        let reason = batch.payloads.len();
        batch.payloads.extend_from_slice(details.payload);
        batch.attributes.add(&details.attributes);
        batch.entries.push(Ends {
            kind,
            condition: self.condition,
            key: batch.keys.len(),
            rows: batch.rows.len(),
            reason,
            payload: batch.payloads.len(),
            attributes: batch.attributes.len(),
        });
        Ok(())
    }

    fn add_row(&mut self, row: &[u8], scales: &[f32]) {
        let rows = &mut self.batch.rows;
        if rows.capacity() - rows.len() < row.len() {
            // Memory for a usual batch at once: growing row by row would move the first rows again and again.
            rows.reserve(row.len().max((USUAL_BATCH * row.len()).min(MOST_ROOM)));
        }
        rows.extend_from_slice(row);
        self.batch.scales.extend_from_slice(scales);
    }

    fn check_row<T: Element>(&self, row: &[T]) -> Result<()> {
        self.check_dtype(T::DTYPE).and_then(|()| self.check_elements(row))
    }

    fn check_dtype(&self, found: DType) -> Result<()> {
        let expected = self.batch.dtype;
        let what = "the entry";
        if found == expected { Ok(()) } else { Err(Error::DTypeMismatch { what, expected, found }) }
    }

    fn check_len(&self, found: usize) -> Result<()> {
        let expected = self.batch.dim;
        let what = ROW;
        let is_one = found == expected && expected > 0;
        if is_one { Ok(()) } else { Err(Error::DimensionMismatch { what, expected, found }) }
    }

    fn check_elements<T: Element>(&self, row: &[T]) -> Result<()> {
        self.check_len(row.len())?;
        if !self.batch.allow_non_finite
            && !T::are_finite(row)
            && let Some(element) = row.iter().position(|element| !element.widen().is_finite())
        {
            let before = self.batch.entries.last().map_or(0, |ends| ends.rows);
            let (at, dtype) = ((self.batch.rows.len() - before) / self.batch.row_bytes(), T::DTYPE);
            return Err(self.refusal(format_args!(
                "element {element} of row {at} is not finite (as {dtype}); find its cause, or allow such \
                 values"
            )));
        }
        Ok(())
    }

    fn refusal(&self, what: std::fmt::Arguments<'_>) -> Error {
        let start = self.batch.entries.last().map_or(0, |ends| ends.key);
        let key = self.batch.keys.get(start..).unwrap_or_default();
        Error::invalid(format!("key \"{}\": {what}", escaped(key)))
    }
}

impl Drop for EntryBuilder<'_, '_> {
    /// Removes the key and rows of an entry that was not added.
    fn drop(&mut self) {
        self.batch.truncate();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_entry_leaves_the_batch_as_it_was() {
        let mut batch = Batch::new(2, DType::F32);
        assert!(batch.push("", &[0.0f32, 1.0]).is_err(), "empty key");
        assert!(batch.push(vec![b'k'; MAX_KEY_LEN + 1], &[0.0f32, 1.0]).is_err(), "long key");
        assert!(batch.push("k", &[0.0f32]).is_err(), "half a row");
        assert!(batch.push("k", &[0.0f32; 3]).is_err(), "a row and a half");
        let error = batch.push("k", &[0.0f32; 4]).unwrap_err();
        assert!(matches!(error, Error::DimensionMismatch { expected: 2, found: 4, .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains("add several rows with `push_rows`"), "{error}");
        let error = batch.push::<f32>("k", &[]).unwrap_err().to_string();
        assert!(error.contains("with `push_empty`"), "{error}");
        let error = batch.push_rows::<f32, [f32; 2]>("k", []).unwrap_err().to_string();
        assert!(error.contains("use `push_empty`"), "{error}");
        assert!(batch.push("k", &[f32::NAN, 0.0]).is_err(), "NaN");
        let error = batch.push_rows("k", [[0.0, 1.0], [0.0, f32::INFINITY]]).unwrap_err().to_string();
        assert!(error.contains("key \"k\": element 1 of row 1 is not finite"), "{error}");
        assert!(batch.push("k", &[half::f16::ONE; 2]).is_err(), "another type");
        assert!(batch.entry("k").row(&[0.0f32, 1.0]).push_empty().is_err(), "empty, and has a row");
        let long = vec![0; MAX_PAYLOAD_LEN + 1];
        assert!(batch.entry("k").payload(&long).push_empty().is_err(), "long payload");
        let long = vec![0; MAX_PAYLOAD_LEN - 5];
        assert!(batch.entry("k").payload(&long).push_rejected("reason").is_err(), "and a reason");
        #[expect(unused_must_use, reason = "an entry that is not pushed")]
        batch.entry("k").row(&[0.0f32, 1.0]);
        assert!(batch.is_empty() && batch.byte_len() == 0);
        std::mem::forget(batch.entry("forgotten").row(&[0.0f32, 1.0]));
        batch.push("k", &[0.0f32, 1.0]).unwrap();
        assert_eq!((batch.key(0), batch.row_count()), (&b"k"[..], 1));
        batch.clear();
        batch.push(vec![b'k'; MAX_KEY_LEN], &[0.0f32, 1.0]).unwrap();
        let mut batch = Batch::new(2, DType::F32).allow_non_finite(true);
        batch.push("k", &[f32::NAN, 0.0]).unwrap();
        assert_eq!(batch.row_count(), 1);
    }

    #[test]
    fn a_refused_quantized_entry_leaves_no_scale() {
        let mut batch = Batch::new(2, DType::I8);
        batch.entry("a").quantized(&[1, 2], 0.5).quantized(&[3, 4], 0.25).push().unwrap();
        let before = batch.byte_len();
        assert!(batch.entry("b").quantized(&[1, 2], 0.5).quantized(&[3, 4], f32::NAN).push().is_err());
        assert!(batch.entry("b").quantized(&[1, 2], 0.5).quantized(&[3], 0.5).push().is_err());
        assert!(batch.entry("b").quantized(&[1, 2], 0.5).push_empty().is_err());
        assert_eq!((batch.len(), batch.byte_len()), (1, before));
    }

    #[test]
    fn values_beyond_the_element_type_are_refused() {
        for dtype in [DType::F16, DType::BF16] {
            let mut batch = Batch::new(2, dtype);
            let error = batch.push_converted("k", &[0.0, f32::MAX]).unwrap_err();
            assert!(error.to_string().contains(&format!("not finite (as {dtype})")), "{error}");
            batch.allow_non_finite(true).push_converted("k", &[0.0, f32::MAX]).unwrap();
        }
    }
}
