//! A manifest that is older than the merges beside it, as after MANIFEST alone was restored, or was copied
//! before the segments: the segments serve, the next checkpoint lists them, and no file that may be needed is
//! removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::small::{contents, create, create_again, put, segment_files};
use crate::common::{assert_whole, copy_dir, on_demand};
use crate::sim::crash::Rng;
use crate::sim::oracle::State;
use crate::sim::run::{Do, Run, STORE, options};
use crate::sim::{Node, SimFs};
use vecstore::{Error, Progress, Store};

type Contents = BTreeMap<String, Vec<f32>>;

fn put_many(store: &Store, name: &str, count: usize) {
    for at in 0..count {
        put(store, &format!("{name} {at}"), at as f32);
    }
}

/// A store whose manifest lists its first five commits, each in a file of its own. A merge has replaced these
/// files, and those of `more` later commits, by one file.
fn behind(path: &Path, more: usize) -> Contents {
    let store = create(path);
    put_many(&store, "old", 4);
    put(&store, "old 1", 10.0);
    store.checkpoint().unwrap();
    let old = fs::read(path.join("MANIFEST")).unwrap();
    put_many(&store, "new", more);
    store.compact_full().unwrap();
    let right = contents(&store.snapshot());
    store.close().unwrap();
    assert_eq!(segment_files(path).len(), 1);
    fs::write(path.join("MANIFEST"), old).unwrap();
    right
}

#[test]
fn every_next_operation_serves_and_lists_the_merged_files() {
    for more in [0, 3] {
        let dir = tempfile::tempdir().unwrap();
        let right = behind(&dir.path().join("s"), more);
        for what in ["checkpoint", "version", "backup", "compact", "append", "background"] {
            let path = dir.path().join(what);
            copy_dir(&dir.path().join("s"), &path);
            let store = create_again(&path);
            assert_eq!(contents(&store.snapshot()), right);
            let mut right = right.clone();
            match what {
                "checkpoint" => store.checkpoint().unwrap(),
                "version" => drop(store.create_version("now").unwrap()),
                "backup" => {
                    let backup = dir.path().join("b");
                    store.backup(&backup).unwrap();
                    assert_eq!(contents(&on_demand().for_reading().open(&backup).unwrap().snapshot()), right);
                    assert_whole(&backup);
                    fs::remove_dir_all(backup).unwrap();
                }
                "compact" => drop(store.compact().unwrap()),
                "append" => {
                    put(&store, "newest", 1.0);
                    right.insert("newest".to_owned(), vec![1.0, -1.0]);
                }
                _ => {
                    for at in 0..130 {
                        put(&store, "again and again", at as f32);
                    }
                    right.insert("again and again".to_owned(), vec![129.0, -129.0]);
                    assert!(store.snapshot().segments().count() < 128, "files are merged as ever");
                }
            }
            store.close().unwrap();
            assert_whole(&path);
            assert_eq!(contents(&create_again(&path).snapshot()), right, "{what}");
            create_again(&path).compact_full().unwrap();
            assert_eq!(contents(&create_again(&path).snapshot()), right, "{what}, merged");
            assert_whole(&path);
        }
    }
}

/// Listed files may be removed once a merge's output takes their place, so the output is read first.
#[test]
fn a_damaged_merge_output_replaces_no_listed_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    put_many(&store, "listed", 3);
    store.checkpoint().unwrap();
    let old = fs::read(path.join("MANIFEST")).unwrap();
    let first = path.join("segments").join(&segment_files(&path)[0]);
    let bytes = fs::read(&first).unwrap();
    store.compact_full().unwrap();
    drop(store);
    let merged = path.join("segments").join(&segment_files(&path)[0]);
    let mut hit = fs::read(&merged).unwrap();
    hit[4096] ^= 1;
    fs::write(&merged, hit).unwrap();
    fs::write(&first, bytes).unwrap();
    fs::write(path.join("MANIFEST"), &old).unwrap();

    let store = create_again(&path);
    for error in [store.checkpoint().unwrap_err(), store.compact().unwrap_err()] {
        assert!(matches!(&error, Error::Damaged { path, .. } if *path == merged), "{error}");
        assert!(error.to_string().contains("vecstore repair"), "{error}");
    }
    drop(store);
    assert!(fs::read(path.join("MANIFEST")).unwrap() == old && first.exists() && merged.exists());
    vecstore::repair(&path).unwrap();
    assert_whole(&path);
}

/// A file that begins within the manifest's commits and ends after them must be of the same history.
#[test]
fn a_merge_of_another_history_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("s"), dir.path().join("other"));
    let store = create(&path);
    put_many(&store, "shared", 2);
    store.close().unwrap();
    vecstore::restore(&path, &other).unwrap();
    let store = create_again(&path);
    put(&store, "before the restore", 1.0);
    store.compact_full().unwrap();
    drop(store);
    for file in segment_files(&other) {
        fs::remove_file(other.join("segments").join(file)).unwrap();
    }
    copy_dir(&path.join("segments"), &other.join("segments"));
    let error = on_demand().open(&other).unwrap_err();
    assert!(matches!(error, Error::ForeignSegment { .. }), "{error}");
    assert!(error.to_string().contains("vecstore repair"), "{error}");
}

/// The power fails at any moment while the manifest is brought up to date: the same entries are there before
/// and after.
#[test]
fn a_power_cut_while_an_old_manifest_is_updated_loses_nothing() {
    let mut run = Run::new(SimFs::new());
    for action in [Do::Create(0), Do::Append(0), Do::Replace(0), Do::Checkpoint(0)] {
        run.act(action);
    }
    let listed = run.fs.history();
    let manifest = |image: &[Node]| {
        let find = |dir: usize, name: &str| match &image[dir] {
            Node::Dir(names) => names[std::ffi::OsStr::new(name)],
            Node::File(_) => panic!("a directory"),
        };
        find(find(find(0, "d"), "s"), "MANIFEST")
    };
    let old = listed.image(listed.log.len(), &Default::default(), &mut Rng(1));
    let Node::File(old) = &old[manifest(&old)] else { panic!("a file") };
    for action in [Do::Append(0), Do::Delete(0), Do::FullMerge(0)] {
        run.act(action);
    }
    let right = State::read(&run.stores[&0].snapshot()).unwrap();
    run.act(Do::Close(0));
    assert!(run.errors.is_empty(), "{:?}", run.errors);
    let merged = run.fs.history();
    let mut image = merged.image(merged.log.len(), &Default::default(), &mut Rng(1));
    let at = manifest(&image);
    image[at] = Node::File(Arc::clone(old));

    let mut states = 0;
    for what in [Do::Checkpoint(0), Do::FullMerge(0), Do::Name(0)] {
        let mut run = Run::new(SimFs::from_image(image.clone()));
        run.act(Do::Open(0));
        run.act(what);
        run.act(Do::Close(0));
        assert!(run.errors.is_empty(), "{what:?}: {:?}", run.errors);
        let history = run.fs.history();
        let mut rng = Rng(1);
        for prefix in 0..=history.log.len() {
            for fates in history.fates(prefix, 16, &mut rng) {
                let fs = SimFs::from_image(history.image(prefix, &fates, &mut rng));
                let story = || format!("{what:?}, {}", history.tell(prefix, &fates));
                let store = options(&fs).open(STORE).unwrap_or_else(|error| panic!("{}: {error}", story()));
                assert!(State::read(&store.snapshot()).unwrap() == right, "{}", story());
                store.checkpoint().unwrap_or_else(|error| panic!("{}: {error}", story()));
                drop(store);
                let report = vecstore::verify_on(&fs, Path::new(STORE), &Progress::new()).unwrap();
                assert!(report.is_whole(), "{}: {:?}", story(), report.faults);
                states += 1;
            }
        }
    }
    assert!(states > 60, "{states}");
}
