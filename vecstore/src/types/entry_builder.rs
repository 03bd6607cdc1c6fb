//! One entry on its way into a batch.

use crate::base::{DType, Element, Error, Result, escaped, narrow_into};
use crate::types::batch::{Condition, Ends};
use crate::types::details::Details;
use crate::types::{Address, Batch, Kind, MAX_KEY_LEN, MAX_PAYLOAD_LEN, OnDuplicate, Value};

/// Entries like the first one that a batch has room for.
const USUAL_BATCH: usize = 32;
/// Bytes of such room at most.
const MOST_ROOM: usize = 256 << 10;

/// An entry on its way into a [`Batch`], from [`Batch::entry`]: rows, a payload, attributes, and what becomes
/// of it if its key is stored. One of the `push` methods adds it; an entry that is dropped before, or
/// refused, leaves the batch as it was.
///
/// The limits: a payload has up to 16 MiB ([`MAX_PAYLOAD_LEN`]); the names of attributes are UTF-8 of 1 to
/// 255 bytes without control characters, and a store has up to 256 of them; the values of one name have one
/// type in the whole store; the texts of an entry have up to 16 MiB together, those of lists counted with 8
/// bytes more each.
#[derive(Debug)]
#[must_use = "an entry is only added by `push`, `push_empty` or `push_rejected`"]
pub struct EntryBuilder<'b, 'a> {
    batch: &'b mut Batch,
    details: Details<'a>,
    condition: Condition,
    /// What is wrong with the rows given so far.
    failed: Option<Error>,
}

impl<'b, 'a> EntryBuilder<'b, 'a> {
    pub(super) fn new(batch: &'b mut Batch, key: &[u8]) -> Self {
        // An earlier builder that was forgotten instead of dropped has left its rows.
        batch.truncate();
        let mut failed = None;
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            let len = key.len();
            let what = format!("a key of {len} bytes is not possible; use 1 to {MAX_KEY_LEN}");
            failed = Some(Error::invalid(what));
        } else {
            batch.keys.extend_from_slice(key);
        }
        EntryBuilder { batch, details: Details::default(), condition: Condition::OfAppend, failed }
    }

    /// One more row, of as many elements as the batch's dimension.
    pub fn row<T: Element>(mut self, row: &[T]) -> Self {
        if self.failed.is_none() {
            match self.check_row(row) {
                Ok(()) => self.add_row(bytemuck::cast_slice(row), &[]),
                Err(error) => self.failed = Some(error),
            }
        }
        self
    }

    /// Several more rows.
    pub fn rows<T: Element, R: AsRef<[T]>>(self, rows: impl IntoIterator<Item = R>) -> Self {
        rows.into_iter().fold(self, |entry, row| entry.row(row.as_ref()))
    }

    /// One more row given as `f32`, converted to the batch's element type: the nearest value, and for `i8`
    /// with a scale of the row's largest magnitude over 127.
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

    /// One more row of `i8`, and its scale: element times scale is the value.
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

    /// Rows of the batch's own dimension and element type, as they are stored.
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

    /// A payload, which the store keeps and does not look into; the last one given counts.
    pub fn payload(mut self, payload: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.details.payload = payload.as_ref();
        self
    }

    /// One attribute more: a named value for filters.
    pub fn attribute(mut self, name: &'a str, value: impl Into<Value<'a>>) -> Self {
        self.details.attributes.push((name, value.into()));
        self
    }

    /// What becomes of this entry if its key is stored, whatever the append says of the others.
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

    /// This entry replaces the stored one of its key, and only if that is still the one of this address: what
    /// was read in order to compute it is not overtaken by another writer. Otherwise the append fails with
    /// [`Error::EntryChanged`](crate::Error::EntryChanged), and nothing of the batch is stored.
    ///
    /// The address is that of the key's entry ([`Entry::address`](crate::Entry::address)); its commit is
    /// compared: of one key a commit has one entry.
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

    /// Adds the entry, which has rows.
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`](crate::Error::DimensionMismatch),
    /// [`Error::DTypeMismatch`](crate::Error::DTypeMismatch) and
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument), as described with each part; the batch is
    /// then as it was.
    pub fn push(self) -> Result<()> {
        if self.failed.is_none()
            && self.batch.rows.len() == self.batch.entries.last().map_or(0, |ends| ends.rows)
        {
            return Err(self.refusal(format_args!(
                "it has no rows; add some, or use `push_empty` for an input in which nothing was found"
            )));
        }
        self.add(Kind::Rows, "")
    }

    /// Adds the entry, which says "done, and nothing was found".
    ///
    /// # Errors
    /// As [`EntryBuilder::push`]; also for an entry that has rows.
    pub fn push_empty(self) -> Result<()> {
        self.add(Kind::Empty, "")
    }

    /// Adds the entry, which says "its content is bad", with the reason. Reason and payload have one limit.
    ///
    /// # Errors
    /// As [`EntryBuilder::push`]; also for an entry that has rows.
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
            return Err(self.refusal(format_args!("an entry of kind {kind} has no rows; add it with `push`")));
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
            // Room for a usual batch at once, so that the first rows are not moved again and again.
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
        let what = "the row";
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
                "element {element} of row {at} is not finite (as {dtype}); find out what made it, or allow \
                 such values"
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
    /// What an entry left that was not added goes again.
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
