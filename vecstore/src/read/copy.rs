//! Copies stored entries into a batch.

use crate::base::{Error, Result};
use crate::read::Entry;
use crate::types::{Batch, EntryBuilder, Kind};

impl Batch {
    /// Adds a copy of a stored entry: its key, rows, payload and attributes, or its kind and reason if it has
    /// no rows. The entry may be from another store with the same dimension and element type.
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
    /// [`Error::DTypeMismatch`](Error::DTypeMismatch) for an entry of a store with another dimension or
    /// element type; [`Error::Damaged`](Error::Damaged) if the entry cannot be read;
    /// [`Error::UnsupportedVersion`](Error::UnsupportedVersion) if its segment has attributes of a type that
    /// only a later version of this crate knows; [`Error::InvalidArgument`](Error::InvalidArgument) for an
    /// attribute that is not finite, unless the batch [allows it](Batch::allow_non_finite). Rows are copied
    /// as they are.
    pub fn push_entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.push_entry_as(entry.key(), entry)
    }

    /// Adds a copy of a stored entry under another key.
    ///
    /// To rename an entry, copy it and [delete the original](Batch::delete_entry) in the same batch: if
    /// another writer has replaced the original meanwhile, the append is refused, and no update is lost.
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
    /// As [`Batch::push_entry`]; [`Error::InvalidArgument`](Error::InvalidArgument) also for an invalid key.
    pub fn push_entry_as(&mut self, key: impl AsRef<[u8]>, entry: &Entry<'_>) -> Result<()> {
        self.entry(key).copy_of(entry).push()
    }

    /// Adds a tombstone that deletes exactly this stored entry: if another writer has replaced or deleted it
    /// meanwhile, the append fails with [`Error::EntryChanged`]. See [`Batch::push_entry_as`].
    ///
    /// # Errors
    /// None for an entry of a store: its key is valid.
    pub fn delete_entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.entry(entry.key()).replace_if(entry.address()).add(Kind::Tombstone, "")
    }

    /// Adds a copy of a stored entry with another payload. The copy replaces exactly this stored entry: if
    /// another writer has replaced or deleted it meanwhile, the append fails (see
    /// [`EntryBuilder::replace_if`]).
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
    /// As [`Batch::push_entry`]; [`Error::InvalidArgument`](Error::InvalidArgument) also for a payload that
    /// is too long.
    pub fn set_payload(&mut self, entry: &Entry<'_>, payload: &[u8]) -> Result<()> {
        self.entry(entry.key()).copy_of(entry).payload(payload).replace_if(entry.address()).push()
    }
}

impl<'a> EntryBuilder<'_, 'a> {
    /// Copies the content of a stored entry: its rows, payload and attributes, or its kind and reason if it
    /// has no rows. A payload given later replaces the copied payload, an attribute given later the copied
    /// attribute of its name; rows given later are added to the copied rows. [`EntryBuilder::push`] adds an
    /// entry of the copied kind.
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
            let expected = "no way to copy it".to_owned();
            return self.fail(Error::UnsupportedVersion { path: segment.path().to_owned(), expected, found });
        }
        self.stored_rows(segment.footer().dim as usize, segment.dtype(), bytes, scales)
            .copied(entry.kind(), entry.reason().unwrap_or_default(), attributes)
            .payload(entry.payload())
    }
}
