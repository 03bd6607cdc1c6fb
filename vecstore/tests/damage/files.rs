//! Damaged, foreign and missing files: `verify` names each one, no call panics, and a repair mends what can
//! be mended.
//!
//! Reading does not check everything: rows, keys and payloads are used where they are mapped, and only
//! `verify` promises to find a flipped bit in them. Manifest, footers and small tables are checked by every
//! opener.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::layout;
use crate::sim::crash::Rng;
use crate::sim::run::{Do, Run, STORE, options};
use crate::sim::tier::sampled;
use crate::sim::{Node, SimFs};
use vecstore::{Error, OnDuplicate, Progress, Reader, Store, StoreConfig, VerifyReport};

/// A store of two commits with every kind of entry, a kill, a payload, a setting and a fingerprint.
fn small_store(path: &Path) -> Store {
    let store = Store::create(path, StoreConfig::new(2).setting("root", "/pictures")).unwrap();
    let mut batch = store.batch();
    batch.entry("two").rows([[1.0f32, 2.0], [3.0, 4.0]]).payload(b"payload").push().unwrap();
    batch.push_empty("none").unwrap();
    batch.push_rejected("bad", "truncated").unwrap();
    store.append(&mut batch, OnDuplicate::Skip).unwrap();
    let mut batch = store.batch();
    batch.push("two", &[5.0f32, 6.0]).unwrap();
    batch.push("three", &[7.0f32, 8.0]).unwrap();
    batch.delete("none").unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
    store
}

fn closed_store(path: &Path) {
    small_store(path).close().unwrap();
}

fn segment(path: &Path, commit: u64) -> PathBuf {
    path.join("segments").join(format!("{commit:010}-{commit:010}.0.npy"))
}

fn verify(path: &Path) -> VerifyReport {
    vecstore::verify(path).unwrap()
}

/// Opens the store and reads everything. It may fail, but must return.
fn read_everything(options: vecstore::OpenOptions, path: &Path) -> Result<usize, Error> {
    let store = options.for_reading().open(path)?;
    let snapshot = store.snapshot();
    let mut read = snapshot.search(&[1.0, 1.0], 10)?.len();
    for entry in snapshot.iter() {
        let entry = entry?;
        read += entry.to_f32()?.len() + entry.payload().len() + entry.reason().map_or(0, str::len);
        snapshot.get(entry.key())?;
        snapshot.row_at(entry.address())?;
    }
    read += snapshot.missing(&["two", "none", "other"])?.len();
    Ok(read)
}

/// Flips each bit (or a sample) of each file of a small store, except lock files.
#[test]
fn every_flipped_bit_is_found_in_the_right_file() {
    let mut run = Run::new(SimFs::new());
    // Two segments: rows, an empty and a rejected entry, payloads, a replaced entry, a tombstone; a manifest.
    for action in [Do::Create(0), Do::Setting(0), Do::Append(0), Do::Replace(0), Do::Close(0)] {
        run.act(action);
    }
    assert!(run.errors.is_empty(), "{:?}", run.errors);
    let history = run.fs.history();
    let image = history.image(history.log.len(), &Default::default(), &mut Rng(1));
    let files = files_of(&image, 0, &PathBuf::from("/"));
    let is_lock =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("LOCK"));
    let files: Vec<_> = files.into_iter().filter(|(path, _)| !is_lock(path)).collect();
    // Two segments, a liveness bitmap, the manifest.
    assert_eq!(files.len(), 4, "{files:?}");
    let whole = read_everything(options(&SimFs::from_image(image.clone())), Path::new(STORE)).unwrap();
    let bits = files.iter().flat_map(|(path, ino)| {
        let Node::File(bytes) = &image[*ino] else { panic!("a file") };
        let len = bytes.len();
        (0..len * 8).map(move |bit| (path, *ino, bit, len))
    });
    // The step of the sample, 7, hits each bit of a byte in turn.
    let bits: Vec<(&PathBuf, usize, usize, usize)> = sampled(bits, 7, 0);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((path, ino, bit, len)) =
                    bits.get(next.fetch_add(1, Ordering::Relaxed)).copied()
                {
                    let mut image = image.clone();
                    let Node::File(bytes) = &mut image[ino] else { panic!("a file") };
                    let end = if path.extension().is_some_and(|ext| ext == "npy") {
                        layout::end_at(bytes)
                    } else {
                        usize::MAX
                    };
                    Arc::make_mut(bytes)[bit / 8] ^= 1 << (bit % 8);
                    let fs = SimFs::from_image(image);
                    let report = vecstore::verify_on(&fs, Path::new(STORE), &Progress::new()).unwrap();
                    assert!(
                        report.faults.iter().any(|fault| &fault.path == path),
                        "{}: bit {bit} of {} is not reported: {:?}",
                        path.display(),
                        len * 8,
                        report.faults
                    );
                    // A bitmap only saves time: readers can do without, because segments have the same
                    // information.
                    if path.parent().is_some_and(|dir| dir.ends_with("derived")) {
                        let read = read_everything(options(&fs), Path::new(STORE)).unwrap();
                        assert_eq!(read, whole, "{}: bit {bit}", path.display());
                        continue;
                    }
                    let always_checked = path.ends_with("MANIFEST") || bit / 8 >= end;
                    if always_checked || bit % 16 == 0 {
                        let read = read_everything(options(&fs), Path::new(STORE));
                        assert!(read.is_err() || !always_checked, "{}: bit {bit} was read", path.display());
                    }
                }
            });
        }
    });
    println!("damage: {} bits flipped, each reported in its file", bits.len());
}

fn files_of(image: &[Node], at: usize, path: &Path) -> Vec<(PathBuf, usize)> {
    match &image[at] {
        Node::File(_) => vec![(path.to_owned(), at)],
        Node::Dir(names) => {
            names.iter().flat_map(|(name, ino)| files_of(image, *ino, &path.join(name))).collect()
        }
    }
}

/// In a segment of many blocks, a fault names section, block, and the keys whose rows lie in the block.
#[test]
fn a_fault_names_the_block_and_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(1024)).unwrap();
    // A row has 4096 bytes, so that a block of 64 KiB has sixteen. (Smaller files have smaller blocks.)
    let mut batch = store.batch();
    for number in 0..320 {
        batch.push(format!("key {number:02}"), &[number as f32; 1024]).unwrap();
    }
    store.append(&mut batch, OnDuplicate::Skip).unwrap();
    store.close().unwrap();
    let file = segment(&path, 1);
    let mut bytes = fs::read(&file).unwrap();
    bytes[4096 + 2 * 65536 + 5 * 4096 + 17] ^= 1;
    fs::write(&file, bytes).unwrap();
    let report = verify(&path);
    let [fault] = report.faults.as_slice() else { panic!("{:?}", report.faults) };
    assert_eq!((&fault.path, fault.section.as_str(), fault.block), (&file, "ROWS", Some(2)));
    let expected: Vec<Vec<u8>> = (32..48).map(|number| format!("key {number:02}").into_bytes()).collect();
    assert_eq!(fault.keys, expected);
    let text = fault.to_string();
    assert!(text.contains("block 2") && text.contains("key 32"), "{text}");
}

#[test]
fn every_wrong_length_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    let mut tried = 0;
    for file in [segment(&path, 1), segment(&path, 2), path.join("MANIFEST")] {
        let good = fs::read(&file).unwrap();
        // Lengths near an edge of the layout, every 61st other length, and some that are too long.
        let near = |len: usize| {
            len.is_multiple_of(61)
                || [0, 4096, good.len().saturating_sub(layout::FOOTER), good.len()]
                    .iter()
                    .any(|edge| len.abs_diff(*edge) < 9)
        };
        for len in (0..good.len() + 70).filter(|len| *len != good.len() && near(*len)) {
            for filler in [0u8, 0xFF] {
                let mut bytes = good.clone();
                bytes.resize(len, filler);
                fs::write(&file, bytes).unwrap();
                let report = verify(&path);
                assert!(report.faults.iter().any(|fault| fault.path == file), "{}: {len}", file.display());
                let error = read_everything(vecstore::OpenOptions::new(), &path).unwrap_err();
                assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
                assert!(error.to_string().contains("vecstore repair"), "{error}");
                tried += 1;
            }
        }
        fs::write(&file, good).unwrap();
        assert!(verify(&path).is_whole());
    }
    println!("damage: {tried} wrong lengths, each reported");
}

/// Each file is missing, or replaced by a directory, FIFO or link. No call hangs (opening a FIFO would) or
/// follows a link.
#[test]
fn missing_and_non_regular_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    for file in [segment(&path, 1), segment(&path, 2), path.join("MANIFEST")] {
        let aside = dir.path().join("aside");
        for kind in ["missing", "directory", "FIFO", "link to the very file", "dangling link"] {
            fs::rename(&file, &aside).unwrap();
            match kind {
                "missing" => {}
                "directory" => fs::create_dir(&file).unwrap(),
                "FIFO" => {
                    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
                    rustix::fs::mkfifoat(rustix::fs::CWD, &file, mode).unwrap();
                }
                "link to the very file" => std::os::unix::fs::symlink(&aside, &file).unwrap(),
                _ => std::os::unix::fs::symlink("nowhere", &file).unwrap(),
            }
            let report = verify(&path);
            assert!(!report.is_whole(), "{}: {kind}", file.display());
            let error = read_everything(vecstore::OpenOptions::new(), &path).unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{kind}: {error}");
            assert!(error.to_string().contains("vecstore repair"), "{kind}: {error}");
            let error = Store::open(&path).unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{kind}: {error}");
            match kind {
                "missing" => {}
                "directory" => fs::remove_dir(&file).unwrap(),
                _ => fs::remove_file(&file).unwrap(),
            }
            fs::rename(&aside, &file).unwrap();
        }
    }
    assert!(verify(&path).is_whole());

    // Lock files may be missing: a backup has none.
    fs::remove_file(path.join("LOCK")).unwrap();
    fs::remove_file(path.join("LOCK.manifest")).unwrap();
    assert!(verify(&path).is_whole());
    assert!(read_everything(vecstore::OpenOptions::new(), &path).is_ok());
    assert!(!path.join("LOCK").exists(), "reading creates nothing");
    assert!(Store::open(&path).is_ok());
}

#[test]
fn segments_that_do_not_chain_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("s"), dir.path().join("other"));
    drop(small_store(&path));
    drop(small_store(&other));
    let (one, two, three) = (segment(&path, 1), segment(&path, 2), segment(&path, 3));
    let refused = |what: &str, file: &Path| {
        let report = verify(&path);
        assert!(report.faults.iter().any(|fault| fault.path == file), "{what}: {:?}", report.faults);
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, Error::ForeignSegment { .. }), "{what}: {error}");
        error.to_string()
    };

    let swap = || {
        let aside = dir.path().join("aside");
        fs::rename(&one, &aside).unwrap();
        fs::rename(&two, &one).unwrap();
        fs::rename(&aside, &two).unwrap();
    };
    swap();
    refused("two segments swapped", &one);
    swap();
    assert!(verify(&path).is_whole());

    // A segment of another store: under the next name, which its footer contradicts, and under its own
    // number.
    fs::copy(segment(&other, 2), &three).unwrap();
    refused("another store's segment under the next name", &three);
    fs::remove_file(&three).unwrap();
    let keep = fs::read(&two).unwrap();
    fs::copy(segment(&other, 2), &two).unwrap();
    let text = refused("another store's segment in place of ours", &two);
    assert!(text.contains("of another store"), "{text}");
    fs::write(&two, keep).unwrap();
    fs::copy(&two, &three).unwrap();
    refused("a segment twice", &three);
    fs::remove_file(&three).unwrap();
    assert!(verify(&path).is_whole());
}

/// A segment of the same store and commit number, but of another history: written to a copy of the store.
#[test]
fn a_segment_of_another_history_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    drop(small_store(&path));
    fs::create_dir_all(copy.join("segments")).unwrap();
    for file in [
        "MANIFEST".to_owned(),
        "segments/".to_owned() + segment(&path, 1).file_name().unwrap().to_str().unwrap(),
        "segments/".to_owned() + segment(&path, 2).file_name().unwrap().to_str().unwrap(),
    ] {
        fs::copy(path.join(&file), copy.join(&file)).unwrap();
    }
    let add = |path: &Path, keys: &[&str]| {
        let store = Store::open(path).unwrap();
        for key in keys {
            let mut batch = store.batch();
            batch.push(key, &[1.0f32, 1.0]).unwrap();
            store.append(&mut batch, OnDuplicate::Skip).unwrap();
        }
    };
    add(&path, &["ours 3"]);
    add(&copy, &["theirs 3", "theirs 4"]);
    let four = segment(&path, 4);
    fs::copy(segment(&copy, 4), &four).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(&error, Error::ForeignSegment { path, .. } if *path == four), "{error}");
    assert!(verify(&path).faults.iter().any(|fault| fault.path == four));
}

/// Two copies of a store merge the same commits. The outputs have the same name, links and rows, but differ;
/// a manifest lists one of them.
#[test]
fn a_file_that_only_looks_like_the_listed_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("s"), dir.path().join("copy"));
    closed_store(&path);
    fs::create_dir_all(copy.join("segments")).unwrap();
    fs::copy(path.join("MANIFEST"), copy.join("MANIFEST")).unwrap();
    for commit in [1, 2] {
        fs::copy(segment(&path, commit), segment(&copy, commit)).unwrap();
    }
    let merged = |path: &Path| {
        let options = vecstore::OpenOptions::new().merge_policy(vecstore::MergePolicy::OnDemand);
        options.open(path).unwrap().compact_full().unwrap();
        path.join("segments/0000000001-0000000002.0.npy")
    };
    let (ours, theirs) = (merged(&path), merged(&copy));
    assert!(verify(&path).is_whole());
    fs::copy(&theirs, &ours).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(&error, Error::ForeignSegment { path, .. } if *path == ours), "{error}");
    assert!(verify(&path).faults.iter().any(|fault| fault.path == ours));
}

/// Flips each bit of the tables that an opener relies on: the opener reports the damage.
#[test]
fn a_flipped_bit_in_a_small_table_is_noticed_when_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    let file = segment(&path, 2);
    let good = fs::read(&file).unwrap();
    let mut bits = 0;
    for layout::Section { name, offset, len } in layout::sections_of(&good) {
        if name != "RUNS" && name != "SETT" {
            continue;
        }
        assert!(len > 0);
        for bit in offset * 8..(offset + len) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, bad).unwrap();
            let error = Reader::open(&path).unwrap_err();
            let is_here =
                matches!(&error, Error::Damaged { path, section, .. } if *path == file && *section == name);
            assert!(is_here, "bit {bit}: {error}");
            bits += 1;
        }
    }
    println!("small tables: {bits} bits flipped, each noticed when opening");
    assert!(bits > 500, "{bits}");
}

/// An old copy of the manifest does no harm: later commits are in segments that continue it.
#[test]
fn an_old_manifest_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(2)).unwrap();
    let old = fs::read(path.join("MANIFEST")).unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    for key in ["a", "b", "c"] {
        let mut batch = store.batch();
        batch.push(key, &[1.0f32, 2.0]).unwrap();
        store.append(&mut batch, OnDuplicate::Skip).unwrap();
    }
    store.close().unwrap();
    assert_ne!(fs::read(path.join("MANIFEST")).unwrap(), old);
    fs::write(path.join("MANIFEST"), old).unwrap();
    assert!(verify(&path).is_whole());
    let store = Store::open(&path).unwrap();
    assert_eq!(store.snapshot().missing(&["a", "b", "c"]).unwrap(), [0usize; 0]);
    store.checkpoint().unwrap();
    assert!(verify(&path).is_whole());
}

#[test]
fn a_missing_manifest_is_an_error_that_names_the_remedy_and_repair_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    let before = read_everything(vecstore::OpenOptions::new(), &path).unwrap();
    fs::remove_file(path.join("MANIFEST")).unwrap();
    for error in [Store::open(&path).unwrap_err(), Reader::open(&path).unwrap_err()] {
        assert!(matches!(error, Error::ManifestMissing { segments: 2, .. }), "{error}");
        assert!(error.to_string().contains("vecstore repair"), "{error}");
    }
    let error = Store::create(&path, StoreConfig::new(2)).unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "never an empty store in its place: {error}");
    assert!(!verify(&path).is_whole());

    let report = vecstore::repair(&path).unwrap();
    assert!(report.rebuilt && report.quarantined.is_none());
    assert_eq!((report.segments, report.last_commit), (2, 2));
    assert!(verify(&path).is_whole());
    assert_eq!(read_everything(vecstore::OpenOptions::new(), &path).unwrap(), before);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.snapshot().setting("root"), Some("/pictures"));
    let mut batch = store.batch();
    batch.push("after", &[1.0f32, 2.0]).unwrap();
    assert_eq!(store.append(&mut batch, OnDuplicate::Skip).unwrap().commit, Some(3));
    store.close().unwrap();
    assert!(verify(&path).is_whole());
    assert!(!vecstore::repair(&path).unwrap().rebuilt, "a sound manifest is left alone");
}

#[test]
fn a_damaged_manifest_goes_to_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    let mut bytes = fs::read(path.join("MANIFEST")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path.join("MANIFEST"), &bytes).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let report = vecstore::repair(&path).unwrap();
    let quarantined = report.quarantined.unwrap();
    assert_eq!(fs::read(&quarantined).unwrap(), bytes, "kept as it was found");
    assert!(quarantined.starts_with(path.join("quarantine")));
    assert!(verify(&path).is_whole());
    assert!(Store::open(&path).unwrap().snapshot().contains("three").unwrap());
}

/// The error names the later version, and a repair does not touch the store.
#[test]
fn a_later_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    closed_store(&path);
    let mut bytes = fs::read(path.join("MANIFEST")).unwrap();
    bytes[8] = 9;
    layout::seal_manifest(&mut bytes);
    fs::write(path.join("MANIFEST"), &bytes).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::UnsupportedVersion { .. }), "{error}");
    assert!(error.to_string().contains("9.0"), "{error}");
    assert!(vecstore::repair(&path).is_err());
    assert_eq!(fs::read(path.join("MANIFEST")).unwrap(), bytes);
}

#[test]
fn paths_that_are_no_store_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "text").unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let nothing = dir.path().join("nothing");
    for (path, expected) in [(&file, "a file"), (&dir.path().to_owned(), "a directory without a manifest")] {
        let error = Store::open(path).unwrap_err();
        assert!(matches!(&error, Error::NotAStore { found, .. } if found.starts_with(expected)), "{error}");
    }
    for path in [&nothing, &empty] {
        assert!(matches!(Store::open(path).unwrap_err(), Error::NotFound { .. }));
        assert!(matches!(vecstore::verify(path).unwrap_err(), Error::NotFound { .. }));
        assert!(matches!(vecstore::repair(path).unwrap_err(), Error::NotFound { .. }));
    }
    assert!(matches!(Store::create(&file, StoreConfig::new(1)).unwrap_err(), Error::AlreadyExists { .. }));
    assert_eq!(fs::read(&file).unwrap(), b"text");
    assert!(fs::read_dir(&empty).unwrap().next().is_none(), "nothing was put there");
    assert!(!nothing.exists());
}
