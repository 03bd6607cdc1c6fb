//! What it costs a writer that others commit too: their files, by the names that the commit lock's record
//! has, and now and then a look at the directory.

use std::path::Path;

use crate::sim::run::{STORE, options};
use crate::sim::{Call, SimFs};
use vecstore::vfs::Vfs;
use vecstore::{OnDuplicate, Store, StoreConfig};

/// A process with the store open for writing.
struct Writer {
    fs: SimFs,
    store: Store,
}

impl Writer {
    fn new(fs: &SimFs) -> Self {
        let fs = fs.other_process();
        let store = options(&fs).open(STORE).unwrap();
        Writer { fs, store }
    }

    /// Appends, and says with which calls.
    fn append(&self, key: &str) -> Vec<Call> {
        let before = self.fs.calls().len();
        let mut batch = self.store.batch();
        batch.push(key, &[1.0f32]).unwrap();
        self.store.append(&mut batch, OnDuplicate::Error).unwrap();
        self.fs.calls_from(before)
    }
}

/// How many calls of this kind have to do with segments.
fn count(calls: &[Call], what: &str) -> usize {
    let of_segments = |call: &&Call| call.path.to_string_lossy().contains("segments");
    calls.iter().filter(of_segments).filter(|call| call.what == what).count()
}

fn two_writers() -> (Writer, Writer) {
    let fs = SimFs::new();
    drop(options(&fs).create(STORE, StoreConfig::new(1)).unwrap());
    (Writer::new(&fs), Writer::new(&fs))
}

#[test]
fn the_files_of_others_are_mapped_by_name() {
    let (ours, theirs) = two_writers();
    theirs.append("theirs");
    ours.append("ours");
    for commits in 0..4 {
        (0..commits).for_each(|i| drop(theirs.append(&format!("{commits}/{i}"))));
        let calls = ours.append(&format!("ours {commits}"));
        assert_eq!(count(&calls, "list"), 0, "{calls:?}");
        // Theirs, and the one just written.
        assert_eq!(count(&calls, "map"), commits + 1, "{calls:?}");
        // The writer that counted a commit has flushed its name.
        assert_eq!(count(&calls, "flush directory"), 1, "{calls:?}");
    }
    assert_eq!(ours.store.snapshot().totals().entries, 12);
}

/// Others may have merged: with many files the directory is looked at, and again when there are many more.
#[test]
fn many_files_are_looked_at_now_and_then() {
    let (ours, theirs) = two_writers();
    // Another process has begun to merge, and takes long.
    let mut merging = ours.fs.other_process().open_lock(&Path::new(STORE).join("LOCK.merge"), true).unwrap();
    assert!(merging.try_lock().unwrap());
    theirs.append("theirs");
    ours.append("ours");
    let mut looked_at = Vec::new();
    for commit in (4..=200).step_by(2) {
        theirs.append(&format!("{commit}"));
        let before = ours.store.snapshot().last_commit() as usize;
        let calls = ours.append(&format!("ours {commit}"));
        // After its own commit it may look for something to merge.
        let written = calls.iter().position(|call| call.what == "create").unwrap();
        if count(&calls[..written], "list") > 0 {
            looked_at.push(before);
            let flushes = calls[..written].iter().filter(|call| call.what == "flush directory").count();
            assert_eq!(flushes, 0, "the writer that counted its commits has flushed what there is");
        }
    }
    // What was found there counts from then on, their newest commit too.
    assert_eq!(looked_at, [96, 128, 160, 192]);
}
