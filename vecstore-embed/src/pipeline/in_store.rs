//! What the store knows of inputs.

use vecstore::{Snapshot, Store};

use crate::base::Result;
use crate::keys::{Record, Remembered};

/// Answers what the store holds.
pub(crate) trait Lookup {
    /// Looks for commits of others. Gives the number of the last one.
    fn refresh(&mut self) -> Result<u64>;

    /// Which of these keys the store lacks, as positions.
    fn missing(&mut self, keys: &[&[u8]]) -> Result<Vec<usize>>;

    /// How many of these keys, all of them stored now, the store lacked when the inputs were counted.
    fn gained(&mut self, keys: &[&[u8]]) -> Result<u64>;

    /// What it remembers of the file behind a key.
    fn record(&mut self, key: &[u8]) -> Result<Option<Record>>;
}

/// The store; or none, before there is one.
pub(crate) struct InStore<'a> {
    store: Option<&'a Store>,
    snapshot: Option<Snapshot>,
    /// The store as it was when the inputs were counted.
    counted: Option<Snapshot>,
}

impl<'a> InStore<'a> {
    pub(crate) fn new(store: Option<&'a Store>) -> Self {
        InStore { store, snapshot: None, counted: None }
    }

    /// With the store as it was when the inputs were counted; `None` if there was none.
    pub(crate) fn since(store: &'a Store, counted: Option<Snapshot>) -> Self {
        InStore { store: Some(store), snapshot: None, counted }
    }
}

impl Lookup for InStore<'_> {
    fn refresh(&mut self) -> Result<u64> {
        self.snapshot = self.store.map(Store::refresh).transpose()?;
        Ok(self.snapshot.as_ref().map_or(0, Snapshot::last_commit))
    }

    fn missing(&mut self, keys: &[&[u8]]) -> Result<Vec<usize>> {
        match &self.snapshot {
            Some(snapshot) => Ok(snapshot.missing(keys)?),
            None => Ok((0..keys.len()).collect()),
        }
    }

    fn gained(&mut self, keys: &[&[u8]]) -> Result<u64> {
        let commit = |snapshot: &Option<Snapshot>| snapshot.as_ref().map_or(0, Snapshot::last_commit);
        match &self.counted {
            _ if commit(&self.snapshot) == commit(&self.counted) => Ok(0),
            Some(counted) => Ok(counted.missing(keys)?.len() as u64),
            None => Ok(keys.len() as u64),
        }
    }

    fn record(&mut self, key: &[u8]) -> Result<Option<Record>> {
        let Some(snapshot) = &self.snapshot else { return Ok(None) };
        let Some(entry) = snapshot.get(key)? else { return Ok(None) };
        Ok(Remembered::decode(entry.payload()).record)
    }
}
