//! What is asked of every store, and the stores.

use std::path::Path;

use crate::{Outcome, fjall, lmdb, ours, redb, sqlite};

/// Keys, and as many rows of [`crate::DIM`] elements.
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

    /// Copies the row of each key into `row`, one after the other, within one transaction or snapshot. Says how many
    /// there are.
    fn fetch(&self, keys: &[String], row: &mut [u8]) -> Outcome<usize>;

    /// Passes every row's bytes on, in the store's own order.
    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()>;

    /// How many of these keys are not there.
    fn missing(&self, keys: &[String]) -> Outcome<usize>;

    /// Adds all rows up in a plain loop over the mapped files, for a store whose files have them as an array.
    fn plain_loop(&self) -> Outcome<Option<u64>> {
        Ok(None)
    }

    /// Brings what was written into the form that is best to read, where the store has such a thing.
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
