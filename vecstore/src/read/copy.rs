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

    /// Adds a copy of a stored entry under another key.
    ///
    /// A rename copies the entry and [deletes the one that was read](Batch::delete_entry) in the same batch:
    /// if another writer has replaced it meanwhile, the append is refused, and no update is lost.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.push("old name", &[0.5f32])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let found = store.snapshot().get_owned("old name")?.expect("it was stored");
    /// let mut batch = store.batch();
    /// batch.push_entry_as("new name", &found.entry())?;
    /// batch.delete_entry(&found.entry())?;
    /// store.append(&mut batch, OnDuplicate::Error)?;
    /// # assert_eq!(store.snapshot().len(), 1);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Batch::push_entry`], and for a key that is not possible.
    pub fn push_entry_as(&mut self, key: impl AsRef<[u8]>, entry: &Entry<'_>) -> Result<()> {
        self.entry(key).copy_of(entry).push()
    }

    /// Adds a tombstone for the key of a stored entry, if that entry is still the one that was read;
    /// otherwise the append fails with [`Error::EntryChanged`]. See [`Batch::push_entry_as`].
    ///
    /// # Errors
    /// None that an entry of a store can cause.
    pub fn delete_entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.entry(entry.key()).replace_if(entry.address()).add(Kind::Tombstone, "")
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
        self.entry(entry.key()).copy_of(entry).payload(payload).replace_if(entry.address()).push()
    }
}

impl<'a> EntryBuilder<'_, 'a> {
    /// Everything that a stored entry has: its rows, payload and attributes, or the fact that it is empty or
    /// rejected. A payload given afterwards takes the place of its own, an attribute that of its name; rows
    /// are added to its own. [`EntryBuilder::push`] adds the copy, whatever its kind.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{OnDuplicate, Store, StoreConfig, Value};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// # let mut batch = store.batch();
    /// # batch.entry("cat.jpg").row(&[0.5f32]).attribute("year", 2023).attribute("liked", true).push()?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let found = store.snapshot().get_owned("cat.jpg")?.expect("it was appended");
    /// let cat = found.entry();
    /// let mut batch = store.batch();
    /// // Another year; vector, payload and the other attributes stay.
    /// batch.entry("cat.jpg").copy_of(&cat).attribute("year", 2024).replace_if(cat.address()).push()?;
    /// store.append(&mut batch, OnDuplicate::Error)?;
    /// let found = store.snapshot().get_owned("cat.jpg")?.expect("it is still there");
    /// assert_eq!(found.entry().attribute("year")?, Some(Value::I64(2024)));
    /// assert_eq!(found.entry().attribute("liked")?, Some(Value::Bool(true)));
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn copy_of(self, entry: &Entry<'a>) -> Self {
        let parts = entry.stored_rows().and_then(|rows| Ok((rows, entry.attributes()?)));
        let ((bytes, scales), attributes) = match parts {
            Ok(parts) => parts,
            Err(error) => return self.fail(error),
        };
        let segment = entry.segment;
        if let Some(found) = segment.unknown_attribute() {
            let expected = "not how to copy it".to_owned();
            return self.fail(Error::UnsupportedVersion { path: segment.path().to_owned(), expected, found });
        }
        self.stored_rows(segment.footer().dim as usize, segment.dtype(), bytes, scales)
            .copied(entry.kind(), entry.reason().unwrap_or_default(), attributes)
            .payload(entry.payload())
    }
}
