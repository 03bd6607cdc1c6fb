//! Small stores: two elements per row, merged only on demand.

use std::collections::BTreeMap;
use std::path::Path;

use vecstore::{Address, OnDuplicate, Snapshot, Store, StoreConfig};

use super::on_demand;

pub fn create(path: &Path) -> Store {
    on_demand().create(path, StoreConfig::new(2)).unwrap()
}

pub fn put(store: &Store, key: &str, x: f32) -> Address {
    let mut batch = store.batch();
    batch.push(key, &[x, -x]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
    store.snapshot().get(key).unwrap().unwrap().address()
}

pub fn contents(snapshot: &Snapshot) -> BTreeMap<String, Vec<f32>> {
    snapshot
        .iter()
        .map(|entry| {
            let entry = entry.unwrap();
            (String::from_utf8_lossy(entry.key()).into_owned(), entry.to_f32().unwrap())
        })
        .collect()
}

pub fn segment_files(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn create_again(path: &Path) -> Store {
    on_demand().open(path).unwrap()
}
