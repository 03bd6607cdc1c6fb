//! LMDB with its default flags: every commit is flushed.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};

use crate::peer::{Batch, Peer};
use crate::{Outcome, bytes_of};

/// Largest size of the file; only pages in use take space.
const MAP: usize = 64 << 30;

#[derive(Clone, Copy)]
struct Lmdb {
    env: &'static Env,
    rows: Database<'static, Bytes, Bytes>,
}

/// Environments open in this process: LMDB cannot open a folder twice, and none is closed before the program
/// ends.
static OPEN: Mutex<Vec<(PathBuf, Lmdb)>> = Mutex::new(Vec::new());

pub fn open(dir: &Path) -> Outcome<Box<dyn Peer>> {
    let mut open = OPEN.lock().map_err(|_| "LMDB: a thread panicked")?;
    if let Some((_, known)) = open.iter().find(|(path, _)| path == dir) {
        return Ok(Box::new(*known));
    }
    // SAFETY: no other process uses this folder, which was made for this run.
    let env = unsafe { EnvOpenOptions::new().map_size(MAP).open(dir)? };
    // Leaked, because a database borrows its environment; the program ends soon.
    let env: &'static Env = Box::leak(Box::new(env));
    let rows = env
        .create_databases_and_commit(env.write_txn()?, |opener, txn| {
            opener.create_database(txn, None).map(CommitOrAbort::<_, ()>::Commit)
        })?
        .unwrap_commit();
    let opened = Lmdb { env, rows };
    open.push((dir.to_owned(), opened));
    Ok(Box::new(opened))
}

impl Peer for Lmdb {
    fn append(&self, batch: &Batch) -> Outcome<()> {
        let mut txn = self.env.write_txn()?;
        for (key, row) in batch.entries() {
            self.rows.put(&mut txn, key.as_bytes(), bytes_of(row))?;
        }
        txn.commit()?;
        Ok(())
    }

    fn fetch(&self, keys: &[String], row: &mut [u8]) -> Outcome<usize> {
        let txn = self.env.read_txn()?;
        let mut found = 0;
        for key in keys {
            if let Some(value) = self.rows.get(&txn, key.as_bytes())? {
                row.copy_from_slice(value);
                found += 1;
            }
        }
        Ok(found)
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        let txn = self.env.read_txn()?;
        for entry in self.rows.iter(&txn)? {
            each(entry?.1);
        }
        Ok(())
    }

    fn missing(&self, keys: &[String]) -> Outcome<usize> {
        let txn = self.env.read_txn()?;
        let mut missing = 0;
        for key in keys {
            missing += usize::from(self.rows.get(&txn, key.as_bytes())?.is_none());
        }
        Ok(missing)
    }
}
