//! fjall, with every batch flushed.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::peer::{Batch, Peer};
use crate::{Outcome, bytes_of};

struct Fjall {
    database: Database,
    rows: Keyspace,
}

pub fn open(dir: &Path) -> Outcome<Box<dyn Peer>> {
    let database = Database::builder(dir).open()?;
    let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall { database, rows }))
}

impl Peer for Fjall {
    fn append(&self, batch: &Batch) -> Outcome<()> {
        let mut entries = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, row) in batch.entries() {
            entries.insert(&self.rows, key, bytes_of(row));
        }
        entries.commit()?;
        Ok(())
    }

    fn fetch(&self, keys: &[String], row: &mut [u8]) -> Outcome<usize> {
        let mut found = 0;
        for key in keys {
            if let Some(value) = self.rows.get(key)? {
                row.copy_from_slice(&value);
                found += 1;
            }
        }
        Ok(found)
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        for entry in self.rows.iter() {
            each(&entry.value()?);
        }
        Ok(())
    }

    fn missing(&self, keys: &[String]) -> Outcome<usize> {
        let mut missing = 0;
        for key in keys {
            missing += usize::from(!self.rows.contains_key(key)?);
        }
        Ok(missing)
    }
}
