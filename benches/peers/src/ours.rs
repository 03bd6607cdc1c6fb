//! vecstore, as anybody would use it.

use std::path::Path;

use vecstore::{OnDuplicate, Store, StoreConfig};

use crate::peer::{Batch, Peer};
use crate::{DIM, Outcome, bytes_of};

struct Ours(Store);

pub fn open(dir: &Path) -> Outcome<Box<dyn Peer>> {
    let path = dir.join("store.vecs");
    let store =
        if path.exists() { Store::open(&path)? } else { Store::create(&path, StoreConfig::new(DIM))? };
    Ok(Box::new(Ours(store)))
}

impl Peer for Ours {
    fn append(&self, batch: &Batch) -> Outcome<()> {
        let mut entries = self.0.batch();
        for (key, row) in batch.entries() {
            entries.push(key, row)?;
        }
        self.0.append(entries, OnDuplicate::Error)?;
        Ok(())
    }

    fn fetch(&self, keys: &[String], row: &mut [u8]) -> Outcome<usize> {
        let snapshot = self.0.snapshot();
        let mut found = 0;
        for key in keys {
            if let Some(entry) = snapshot.get(key)? {
                row.copy_from_slice(bytes_of(entry.rows::<f32>()?));
                found += 1;
            }
        }
        Ok(found)
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8])) -> Outcome<()> {
        for entry in self.0.snapshot().iter() {
            each(bytes_of(entry?.rows::<f32>()?));
        }
        Ok(())
    }

    fn missing(&self, keys: &[String]) -> Outcome<usize> {
        Ok(self.0.snapshot().missing(keys)?.len())
    }

    fn settle(&self) -> Outcome<()> {
        self.0.compact_full()?;
        Ok(())
    }
}
