//! The cost of other writers' commits: a writer maps their files by the names in the commit lock's record,
//! and lists the directory now and then.

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

    /// Appends a key, and returns the calls that were made for it.
    fn append(&self, key: &str) -> Vec<Call> {
        let before = self.fs.calls().len();
        let mut batch = self.store.batch();
        batch.push(key, &[1.0f32]).unwrap();
        self.store.append(&mut batch, OnDuplicate::Error).unwrap();
        self.fs.calls_from(before)
    }
}

/// Number of calls of this kind whose path has to do with segments.
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
fn segments_of_other_writers_are_mapped_by_name() {
    let (ours, theirs) = two_writers();
    theirs.append("theirs");
    ours.append("ours");
    for commits in 0..4 {
        (0..commits).for_each(|i| drop(theirs.append(&format!("{commits}/{i}"))));
        let calls = ours.append(&format!("ours {commits}"));
        assert_eq!(count(&calls, "list"), 0, "{calls:?}");
        // The other writer's files, and the one just written.
        assert_eq!(count(&calls, "map"), commits + 1, "{calls:?}");
        // The other writer flushed its names before it raised the counter.
        assert_eq!(count(&calls, "flush directory"), 1, "{calls:?}");
    }
    assert_eq!(ours.store.snapshot().totals().entries, 12);
}

/// Other processes may have merged: with 96 segments the directory is listed, and again with 32 more.
#[test]
fn a_writer_lists_the_directory_from_96_segments_on() {
    let (ours, theirs) = two_writers();
    // Another process is in a long merge.
    let mut merging = ours.fs.other_process().open_lock(&Path::new(STORE).join("LOCK.merge"), true).unwrap();
    assert!(merging.try_lock().unwrap());
    theirs.append("theirs");
    ours.append("ours");
    let mut looked_at = Vec::new();
    for commit in (4..=200).step_by(2) {
        theirs.append(&format!("{commit}"));
        let before = ours.store.snapshot().last_commit() as usize;
        let calls = ours.append(&format!("ours {commit}"));
        // Later calls do not count: after its own commit the writer may look for files to merge.
        let written = calls.iter().position(|call| call.what == "create").unwrap();
        if count(&calls[..written], "list") > 0 {
            looked_at.push(before);
            let flushes = calls[..written].iter().filter(|call| call.what == "flush directory").count();
            assert_eq!(flushes, 0, "the writer that counted its commits has flushed what there is");
        }
    }
    // The next listing is due 32 segments after the number found, the other writer's newest one included.
    assert_eq!(looked_at, [96, 128, 160, 192]);
}
