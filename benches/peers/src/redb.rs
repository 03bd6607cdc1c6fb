//! redb with its default durability: every commit is flushed.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::peer::{Batch, Peer};
use crate::{Outcome, bytes_of};

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

struct Redb(Database);

pub fn open(dir: &Path) -> Outcome<Box<dyn Peer>> {
    let database = Database::create(dir.join("rows.redb"))?;
    let txn = database.begin_write()?;
    drop(txn.open_table(ROWS)?);
    txn.commit()?;
    Ok(Box::new(Redb(database)))
}

impl Peer for Redb {
    fn append(&self, batch: &Batch) -> Outcome<()> {
        let txn = self.0.begin_write()?;
        let mut table = txn.open_table(ROWS)?;
        for (key, row) in batch.entries() {
            table.insert(key.as_bytes(), bytes_of(row))?;
        }
        drop(table);
        txn.commit()?;
        Ok(())
    }

    fn fetch(&self, keys: &[String], row: &mut [u8]) -> Outcome<usize> {
        let table = self.0.begin_read()?.open_table(ROWS)?;
        let mut found = 0;
        for key in keys {
            if let Some(value) = table.get(key.as_bytes())? {
                row.copy_from_slice(value.value());
                found += 1;
            }
        }
        Ok(found)
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let table = self.0.begin_read()?.open_table(ROWS)?;
        for entry in table.iter()? {
            each(entry?.1.value());
        }
        Ok(())
    }

    fn missing(&self, keys: &[String]) -> Outcome<usize> {
        let table = self.0.begin_read()?.open_table(ROWS)?;
        let mut missing = 0;
        for key in keys {
            missing += usize::from(table.get(key.as_bytes())?.is_none());
        }
        Ok(missing)
    }
}
