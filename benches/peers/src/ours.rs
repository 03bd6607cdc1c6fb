//! vecstore with its defaults.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use memmap2::Mmap;
use vecstore::{MergePolicy, OnDuplicate, OpenOptions, Store, StoreConfig};

use crate::peer::{Batch, Peer};
use crate::{DIM, Outcome, ROW, bytes_of, limits};

/// Bytes before the rows of a segment.
const HEAD: usize = 4096;

struct Ours {
    store: Store,
    /// The segments mapped as by any other reader, and the rows in each.
    maps: OnceLock<Vec<(Mmap, usize)>>,
    settles: bool,
}

pub fn open(dir: &Path) -> Outcome<Box<dyn Peer>> {
    open_with(dir, OpenOptions::new(), true)
}

/// Opens a store that keeps one segment for each batch it was filled with.
pub fn open_unmerged(dir: &Path) -> Outcome<Box<dyn Peer>> {
    open_with(dir, OpenOptions::new().merge_policy(MergePolicy::OnDemand), false)
}

fn open_with(dir: &Path, options: OpenOptions, settles: bool) -> Outcome<Box<dyn Peer>> {
    let path = dir.join("store.vecs");
    let store =
        if path.exists() { options.open(&path)? } else { options.create(&path, StoreConfig::new(DIM))? };
    Ok(Box::new(Ours { store, maps: OnceLock::new(), settles }))
}

impl Peer for Ours {
    fn append(&self, batch: &Batch) -> Outcome<()> {
        let mut entries = self.store.batch();
        for (key, row) in batch.entries() {
            entries.push(key, row)?;
        }
        self.store.append(&mut entries, OnDuplicate::Error)?;
        Ok(())
    }

    fn fetch(&self, keys: &[String], row: &mut [u8]) -> Outcome<usize> {
        let snapshot = self.store.snapshot();
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
        for entry in self.store.snapshot().iter() {
            each(bytes_of(entry?.rows::<f32>()?));
        }
        Ok(())
    }

    fn missing(&self, keys: &[String]) -> Outcome<usize> {
        Ok(self.store.snapshot().missing(keys)?.len())
    }

    fn settle(&self) -> Outcome<()> {
        if self.settles {
            self.store.compact_full()?;
        }
        Ok(())
    }

    fn plain_loop(&self) -> Outcome<Option<u64>> {
        if self.maps.get().is_none() {
            let mut maps = Vec::new();
            for segment in self.store.snapshot().segments() {
                let info = segment.info();
                // SAFETY: no program changes a published segment.
                let map = unsafe { Mmap::map(&File::open(&info.path)?)? };
                maps.push((map, info.file_rows as usize * ROW));
            }
            let _ = self.maps.set(maps);
        }
        let mut sum = 0u64;
        for (map, len) in self.maps.get().into_iter().flatten() {
            sum = sum.wrapping_add(limits::sum(map.get(HEAD..HEAD + len).ok_or("a segment is too short")?));
        }
        Ok(Some(sum))
    }
}
