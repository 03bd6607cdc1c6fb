//! Stores with superseded entries, and their liveness bitmaps.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::layout::section;
use vecstore::{Error, MergePolicy, OnDuplicate, OpenOptions, Reader, Snapshot, Store, StoreConfig, Totals};

pub fn options() -> OpenOptions {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand)
}

pub fn create(path: &Path) -> Store {
    options().create(path, StoreConfig::new(2)).unwrap()
}

pub fn put(store: &Store, keys: &[&str], x: f32) {
    let mut batch = store.batch();
    for key in keys {
        batch.push(key, &[x, -x]).unwrap();
    }
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

/// Everything that liveness decides: entries and their addresses, totals, number of search hits.
pub fn state(snapshot: &Snapshot) -> (BTreeMap<Vec<u8>, String>, Totals, usize) {
    let entries = snapshot.iter().map(|entry| {
        let entry = entry.unwrap();
        (entry.key().to_vec(), format!("{} {} {:?}", entry.kind(), entry.address(), entry.to_f32().unwrap()))
    });
    let hits = snapshot.search(&[1.0, 1.0], usize::MAX).unwrap().len();
    (entries.collect(), snapshot.totals(), hits)
}

pub fn read_only(path: &Path) -> Result<Reader, Error> {
    options().for_reading().open(path)
}

pub fn bitmaps(path: &Path) -> Vec<PathBuf> {
    let Ok(names) = fs::read_dir(path.join("derived")) else { return Vec::new() };
    let mut names: Vec<PathBuf> = names.map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.extension().is_none_or(|kind| kind != "keyf"));
    names.sort();
    names
}

pub fn segments(path: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(path.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// Damages the kills of a segment, so that reading them is an error.
pub fn spoil_kills(segment: &Path) {
    let mut bytes = fs::read(segment).unwrap();
    bytes[section(segment, "KILL").offset] ^= 1;
    fs::write(segment, bytes).unwrap();
}

/// Two segments with superseded entries, and one that supersedes them.
pub fn small(path: &Path) -> Store {
    let store = create(path);
    put(&store, &["a", "b", "c"], 1.0);
    put(&store, &["d", "e"], 2.0);
    put(&store, &["a", "e"], 3.0);
    store.delete(&["b"]).unwrap();
    store
}
