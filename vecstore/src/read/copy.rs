//! Stored entries, put into a batch again.

use crate::base::{Error, Result};
use crate::read::Entry;
use crate::types::{Batch, EntryBuilder, Kind};

impl Batch {
    /// Adds a copy of a stored entry, of this store or of another one of the same shape: rows, payload,
    /// attributes.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let create = |name| Store::create(dir.path().join(name), StoreConfig::new(1));
    /// # let (from, into) = (create("a")?, create("b")?);
    /// # let mut batch = from.batch();
    /// # batch.push("cat.jpg", &[0.5f32])?;
    /// # from.append(&mut batch, OnDuplicate::Skip)?;
    /// let mut batch = into.batch();
    /// for entry in &from.snapshot() {
    ///     batch.push_entry(&entry?)?;
    /// }
    /// assert_eq!(into.append(&mut batch, OnDuplicate::Skip)?.entries, 1);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DimensionMismatch`](Error::DimensionMismatch) and
    /// [`Error::DTypeMismatch`](Error::DTypeMismatch) for an entry of a store of another shape;
    /// [`Error::Damaged`](Error::Damaged) when it cannot be read;
    /// [`Error::UnsupportedVersion`](Error::UnsupportedVersion) when its segment has attributes of a type
    /// that only a later version knows. Rows are copied as they are; an attribute that is not finite needs a
    /// batch that [allows it](Batch::allow_non_finite).
    pub fn push_entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.push_entry_as(entry.key(), entry)
    }

    /// Adds a copy of a stored entry under another key. To rename, [delete](Batch::delete) the former key in
    /// the same batch.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("old name", &[0.5f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let entry = store.snapshot().get_owned("old name")?.expect("it was stored");
    /// let mut batch = store.batch();
    /// batch.push_entry_as("new name", &entry.entry())?;
    /// batch.delete("old name")?;
    /// store.append(&mut batch, OnDuplicate::Error)?;
    /// # assert_eq!(store.snapshot().len(), 1);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Batch::push_entry`], and for a key that is not possible.
    pub fn push_entry_as(&mut self, key: impl AsRef<[u8]>, entry: &Entry<'_>) -> Result<()> {
        let builder = begin(self.entry(key), entry)?;
        push(builder.payload(entry.payload()), entry)
    }

    /// Adds a stored entry with another payload; its rows and attributes stay. It replaces the entry that was
    /// read, and no later one: see [`EntryBuilder::replace_if`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("cat.jpg", &[0.5f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let cat = store.snapshot().get_owned("cat.jpg")?.expect("it was appended");
    /// let mut batch = store.batch();
    /// batch.set_payload(&cat.entry(), b"a note")?;
    /// store.append(&mut batch, OnDuplicate::Error)?;
    /// let cat = store.snapshot().get_owned("cat.jpg")?.expect("it is still there");
    /// assert_eq!((cat.entry().payload(), cat.entry().rows::<f32>()?), (&b"a note"[..], &[0.5][..]));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Batch::push_entry`], and for a payload that is too long.
    pub fn set_payload(&mut self, entry: &Entry<'_>, payload: &[u8]) -> Result<()> {
        let builder = begin(self.entry(entry.key()), entry)?;
        push(builder.payload(payload).replace_if(entry.address()), entry)
    }
}

/// The rows and attributes of a stored entry.
fn begin<'b, 'a>(builder: EntryBuilder<'b, 'a>, entry: &Entry<'a>) -> Result<EntryBuilder<'b, 'a>> {
    let segment = entry.segment;
    let (bytes, scales) = entry.stored_rows()?;
    let builder = builder.stored_rows(segment.footer().dim as usize, segment.dtype(), bytes, scales);
    if let Some(found) = segment.unknown_attribute() {
        let expected = "not how to copy it".to_owned();
        return Err(Error::UnsupportedVersion { path: segment.path().to_owned(), expected, found });
    }
    let attributes = entry.attributes()?;
    Ok(attributes.into_iter().fold(builder, |builder, (name, value)| builder.attribute(name, value)))
}

fn push(builder: EntryBuilder<'_, '_>, entry: &Entry<'_>) -> Result<()> {
    match entry.kind() {
        Kind::Rejected => builder.push_rejected(entry.reason().unwrap_or_default()),
        Kind::Empty => builder.push_empty(),
        _ => builder.push(),
    }
}
