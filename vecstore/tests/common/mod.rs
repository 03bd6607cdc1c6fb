//! What tests of stores on a real disk share.

#![allow(dead_code, reason = "each test binary uses its part of this module")]

pub mod bench;
pub mod bitmaps;
pub mod hooked;
pub mod looks;
pub mod small;

use std::fs;
use std::path::Path;

use vecstore::{Merging, OpenOptions};

/// Options for a store that merges only when it is asked to, or has to.
pub fn on_demand() -> OpenOptions {
    OpenOptions::new().merging(Merging::OnDemand)
}

/// Copies a directory and all that is in it.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Nothing of the store is damaged.
pub fn assert_whole(path: &Path) {
    let report = vecstore::verify(path, |_| {}).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
}
