//! SQLite with a write-ahead log that is flushed at every commit, and pages that hold a few rows each.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use crate::peer::{Batch, Peer};
use crate::{Outcome, bytes_of};

/// Idle connections: each is for one thread at a time.
struct Sqlite {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

pub fn open(dir: &Path) -> Outcome<Box<dyn Peer>> {
    let sqlite = Sqlite { path: dir.join("rows.sqlite"), idle: Mutex::default() };
    sqlite.with(|connection| {
        connection
            .execute_batch("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, row BLOB NOT NULL)")?;
        Ok(())
    })?;
    Ok(Box::new(sqlite))
}

impl Sqlite {
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Outcome<T>) -> Outcome<T> {
        let idle = self.idle.lock().map_err(|_| "a thread panicked")?.pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = Connection::open(&self.path)?;
                connection.execute_batch(
                    "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                     PRAGMA mmap_size = 68719476736",
                )?;
                connection.busy_timeout(Duration::from_secs(60))?;
                connection
            }
        };
        let outcome = work(&mut connection);
        self.idle.lock().map_err(|_| "a thread panicked")?.push(connection);
        outcome
    }
}

impl Peer for Sqlite {
    fn append(&self, batch: &Batch) -> Outcome<()> {
        self.with(|connection| {
            let txn = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let mut insert = txn.prepare_cached("INSERT INTO rows VALUES (?1, ?2)")?;
            for (key, row) in batch.entries() {
                insert.execute((key.as_bytes(), bytes_of(row)))?;
            }
            drop(insert);
            txn.commit()?;
            Ok(())
        })
    }

    fn fetch(&self, keys: &[String], row: &mut [u8]) -> Outcome<usize> {
        self.with(|connection| {
            let txn = connection.transaction()?;
            let mut select = txn.prepare_cached("SELECT row FROM rows WHERE key = ?1")?;
            let mut found = 0;
            for key in keys {
                let copy = |entry: &rusqlite::Row<'_>| {
                    row.copy_from_slice(entry.get_ref(0)?.as_blob()?);
                    Ok(())
                };
                found += usize::from(select.query_row((key.as_bytes(),), copy).optional()?.is_some());
            }
            Ok(found)
        })
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        self.with(|connection| {
            let mut select = connection.prepare_cached("SELECT row FROM rows")?;
            let mut rows = select.query(())?;
            while let Some(entry) = rows.next()? {
                each(entry.get_ref(0)?.as_blob()?);
            }
            Ok(())
        })
    }

    fn missing(&self, keys: &[String]) -> Outcome<usize> {
        self.with(|connection| {
            let txn = connection.transaction()?;
            let mut select = txn.prepare_cached("SELECT 1 FROM rows WHERE key = ?1")?;
            let mut missing = 0;
            for key in keys {
                missing += usize::from(!select.exists((key.as_bytes(),))?);
            }
            Ok(missing)
        })
    }
}
