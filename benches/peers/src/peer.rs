//! The trait that every store implements, and the stores.

use std::path::Path;

use crate::{Outcome, fjall, lmdb, ours, redb, sqlite};

/// Keys, and a row of [`crate::DIM`] elements for each.
pub struct Batch {
    pub keys: Vec<String>,
    pub rows: Vec<f32>,
}

impl Batch {
    /// Key and row of each entry.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.keys.iter().map(String::as_str).zip(self.rows.chunks(crate::DIM))
    }
}

/// A store. Several threads may use it at once.
pub trait Peer: Send + Sync {
    /// Stores a batch, all of it or nothing; returns when it is durable.
    fn append(&self, batch: &Batch) -> Outcome<()>;

    /// Copies the row of each key into `row`, one after the other, within one transaction or snapshot.
    /// Returns how many keys are stored.
    fn fetch(&self, keys: &[String], row: &mut [u8]) -> Outcome<usize>;

    /// Passes every row's bytes on, in the store's own order.
    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()>;

    /// Number of these keys that are not stored.
    fn missing(&self, keys: &[String]) -> Outcome<usize>;

    /// Adds up all rows in a plain loop over the mapped files, if the store's files have the rows as an
    /// array.
    fn plain_loop(&self) -> Outcome<Option<u64>> {
        Ok(None)
    }

    /// Brings written data into the form that is best to read, if the store has such a form.
    fn settle(&self) -> Outcome<()> {
        Ok(())
    }
}

/// Opens or creates a store in a folder.
pub type Open = fn(&Path) -> Outcome<Box<dyn Peer>>;

/// The stores, with the settings under which each makes every batch durable.
pub const PEERS: [(&str, Open); 5] = [
    ("vecstore", ours::open),
    ("LMDB (heed)", lmdb::open),
    ("redb", redb::open),
    ("SQLite (WAL, FULL)", sqlite::open),
    ("fjall (SyncAll)", fjall::open),
];
