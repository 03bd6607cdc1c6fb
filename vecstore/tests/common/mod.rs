//! Helpers of the tests of stores on a real disk.

#![allow(dead_code, reason = "each test binary uses its part of this module")]

pub mod bench;
pub mod bitmaps;
pub mod hooked;
pub mod layout;
pub mod looks;
pub mod small;

use std::fs;
use std::path::Path;
use std::process::Output;

use vecstore::{MergePolicy, OpenOptions};

/// Options for a store that merges only when a caller asks for it, or when it must.
pub fn on_demand() -> OpenOptions {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand)
}

/// Program and arguments that run one ignored test of this program, in a process of its own.
pub fn one_test(name: &str) -> Vec<String> {
    let program = std::env::current_exe().expect("it has a path");
    [&program.to_string_lossy(), "--exact", name, "--ignored", "--nocapture"].map(str::to_owned).to_vec()
}

/// Asserts that the program succeeded and ran one test.
pub fn assert_one_passed(what: &str, output: &Output) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (said, failed) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{what}: {said}\n{failed}");
}

/// Copies a directory and everything in it.
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

/// Asserts that nothing in the store is damaged.
pub fn assert_whole(path: &Path) {
    let report = vecstore::verify(path).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
}
