//! Directories that change while a reader reads them without a lock: writers name files during a listing, and
//! mergers remove listed files.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::common::on_demand;
use vecstore::vfs::{LockFile, Mapping, Metadata, ReadAt, RealFs, Vfs, VfsFile};
use vecstore::{Error, OnDuplicate, OpenOptions, Progress, Reader, Store, StoreConfig, VerifyReport};

/// Runs before a call, with its kind and path.
type Before = Box<dyn FnMut(&str, &Path) + Send>;
/// Chooses the names that a listing of the segments shows.
type Shown = Box<dyn FnMut(Vec<String>) -> Vec<String> + Send>;

/// The real file system, with other processes at work on it.
struct Moving {
    before: Mutex<Before>,
    shown: Mutex<Shown>,
}

impl fmt::Debug for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moving").finish_non_exhaustive()
    }
}

impl Moving {
    fn before(before: impl FnMut(&str, &Path) + Send + 'static) -> Self {
        Moving { before: Mutex::new(Box::new(before)), shown: Mutex::new(Box::new(|names| names)) }
    }

    fn shown(shown: impl FnMut(Vec<String>) -> Vec<String> + Send + 'static) -> Self {
        Moving { before: Mutex::new(Box::new(|_, _| ())), shown: Mutex::new(Box::new(shown)) }
    }

    fn call(&self, kind: &str, path: &Path) {
        (self.before.lock().unwrap())(kind, path);
    }
}

impl Vfs for Moving {
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        self.call("read", path);
        RealFs.read(path, max_len)
    }
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        self.call("map", path);
        RealFs.map(path)
    }
    fn copy(&self, path: &Path) -> io::Result<Mapping> {
        self.call("map", path);
        RealFs.copy(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        self.call("map", path);
        RealFs.open(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.call("list", path);
        let names = RealFs.list(path)?;
        if !path.ends_with("segments") {
            return Ok(names);
        }
        let mut names: Vec<String> = names.into_iter().map(|name| name.into_string().unwrap()).collect();
        names.sort_unstable();
        Ok((self.shown.lock().unwrap())(names).into_iter().map(OsString::from).collect())
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        RealFs.create_new(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        RealFs.metadata(path)
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.rename_noreplace(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.replace(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call("remove", path);
        RealFs.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir(path)
    }
    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.flush_dir(path)
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        RealFs.open_lock(path, create)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        RealFs.free_space(path)
    }
}

fn put(store: &Store, key: &str) {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

/// A store of `commits` commits, which its manifest does not list.
fn filled(path: &Path, commits: usize) -> Store {
    let store = on_demand().create(path, StoreConfig::new(1)).unwrap();
    (0..commits).for_each(|i| put(&store, &i.to_string()));
    store
}

fn read_only(path: &Path, fs: Moving) -> Result<Reader, Error> {
    OpenOptions::new().vfs(Arc::new(fs)).for_reading().open(path)
}

/// Two commits are named during each listing, which shows only the second of them.
#[test]
fn a_busy_writer_keeps_no_reader_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _writer = filled(&path, 40);
    let mut looks = 0;
    let fs = Moving::shown(move |names| {
        looks += 1;
        let there = looks * 2;
        names
            .into_iter()
            .enumerate()
            .filter(|(at, _)| *at < there || *at == there + 1)
            .map(|(_, name)| name)
            .collect()
    });
    // Files of the first listing existed before the second one began, which therefore has no gap up to 4.
    assert_eq!(read_only(&path, fs).unwrap().snapshot().last_commit(), 4);
}

/// A gap in two equal listings is real. If the listings keep changing, the reader gives up after ten.
#[test]
fn a_gap_in_every_listing_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _writer = filled(&path, 5);
    for (is_still, expected) in [(true, 2), (false, 10)] {
        let looks = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&looks);
        let fs = Moving::shown(move |mut names| {
            let mut looks = counted.lock().unwrap();
            *looks += 1;
            assert!(*looks < 100, "the reader does not give up");
            names.remove(1);
            if !is_still && *looks % 2 == 0 {
                names.remove(2);
            }
            names
        });
        let error = read_only(&path, fs).unwrap_err();
        assert!(matches!(error, Error::MissingSegment { commit: 2, .. }), "{error}");
        assert_eq!(*looks.lock().unwrap(), expected, "listings");
    }
}

/// Damage that no writer or merger can cause is reported at once.
#[test]
fn damage_is_reported_without_a_second_listing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _writer = filled(&path, 3);
    std::fs::write(path.join("segments").join(FIRST), "nothing").unwrap();
    let looks = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&looks);
    let fs = Moving::shown(move |names| {
        *counted.lock().unwrap() += 1;
        names
    });
    let error = read_only(&path, fs).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(*looks.lock().unwrap(), 1);
}

/// Runs `work` before the first call of this kind on a path with this end.
fn once(kind: &'static str, end: &'static str, mut work: impl FnMut() + Send + 'static) -> Moving {
    let mut is_done = false;
    Moving::before(move |called, path| {
        if !is_done && called == kind && path.to_string_lossy().ends_with(end) {
            is_done = true;
            work();
        }
    })
}

/// A store whose commit 4 has "x" and "y", and whose commit 5 replaces "x", as a bitmap records.
fn two_of_one_batch_superseded_in_turn(path: &Path) -> Store {
    let writer = filled(path, 3);
    let mut batch = writer.batch();
    ["x", "y"].iter().for_each(|key| batch.push(key, &[1.0f32]).unwrap());
    writer.append(&mut batch, OnDuplicate::Error).unwrap();
    put(&writer, "x");
    writer.checkpoint().unwrap();
    writer
}

const FIRST: &str = "0000000001-0000000001.0.npy";

/// A merge replaces files after the opener has listed them, or after it has read the manifest and before it
/// lists them.
#[test]
fn an_opener_looks_again_when_a_merge_removes_listed_files() {
    for (kind, end) in [("map", FIRST), ("list", "segments")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let writer = filled(&path, 3);
        writer.checkpoint().unwrap();
        let work = move || assert_eq!(writer.compact_full().unwrap().merges, 1);
        let store = read_only(&path, once(kind, end, work)).unwrap();
        assert_eq!(store.snapshot().totals().entries, 3, "before {kind} of {end}");
        assert!(!path.join("segments").join(FIRST).exists(), "it was merged");
    }
}

/// An opener reads the manifest before a repair and lists the segments after it: new commits are of an epoch
/// that this manifest does not have.
#[test]
fn an_opener_reads_the_manifest_again_for_an_unknown_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(filled(&path, 3));
    std::fs::remove_file(path.join("segments/0000000003-0000000003.0.npy")).unwrap();
    let at = path.clone();
    let fs = once("list", "segments", move || {
        vecstore::repair(&at).unwrap();
        put(&on_demand().open(&at).unwrap(), "after");
    });
    assert!(read_only(&path, fs).unwrap().snapshot().contains("after").unwrap());
}

/// A handle that has seen a commit notices that it is gone, even if it was the newest.
#[test]
fn a_vanished_newest_segment_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _writer = filled(&path, 3);
    // Without LOCK's record a refresh lists the segments.
    std::fs::remove_file(path.join("LOCK")).unwrap();
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.refresh().unwrap().last_commit(), 3);
    std::fs::remove_file(path.join("segments/0000000003-0000000003.0.npy")).unwrap();
    let error = reader.refresh().unwrap_err();
    assert!(matches!(error, Error::MissingSegment { commit: 3, .. }), "{error}");
}

fn assert_whole(report: &VerifyReport, last_commit: u64) {
    assert!(report.is_whole(), "{:?}", report.faults);
    assert_eq!(report.last_commit, last_commit);
}

/// `verify` takes it for no damage if a merge removes its inputs meanwhile, or a checkpoint replaces bitmaps.
#[test]
fn files_replaced_during_a_verification_are_no_damage() {
    for (kind, end) in [("map", FIRST), ("list", "segments")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let writer = filled(&path, 3);
        writer.checkpoint().unwrap();
        let work = move || assert_eq!(writer.compact_full().unwrap().merges, 1);
        assert_whole(&vecstore::verify_on(&once(kind, end, work), &path, &Progress::new()).unwrap(), 3);
        assert!(!path.join("segments").join(FIRST).exists(), "it was merged before {kind} of {end}");
    }
    // Each file is opened twice: to check its bytes, and then to compare its keys with those of others.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = filled(&path, 3);
    writer.checkpoint().unwrap();
    let mut opened = 0;
    let fs = Moving::before(move |kind, path| {
        opened += usize::from(kind == "map" && path.ends_with(FIRST));
        if opened == 2 {
            opened += 1;
            assert_eq!(writer.compact_full().unwrap().merges, 1);
        }
    });
    assert_whole(&vecstore::verify_on(&fs, &path, &Progress::new()).unwrap(), 3);
    assert!(!path.join("segments").join(FIRST).exists(), "it was merged before its keys were compared");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = two_of_one_batch_superseded_in_turn(&path);
    let work = move || {
        put(&writer, "y");
        writer.checkpoint().unwrap();
    };
    let report = vecstore::verify_on(&once("map", ".live", work), &path, &Progress::new()).unwrap();
    assert_whole(&report, 6);
    // The second look finds six segments, a bitmap and the manifest.
    assert_eq!(report.files, 8);
}

/// A verification ends although the manifest is replaced again and again.
#[test]
fn a_verification_beside_checkpoints_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = filled(&path, 3);
    put(&writer, "0");
    writer.checkpoint().unwrap();
    let before = std::fs::read(path.join("MANIFEST")).unwrap();
    let fs = Moving::before(move |called, path| {
        if called == "list" && path.ends_with("segments") {
            writer.checkpoint().unwrap();
        }
    });
    assert_whole(&vecstore::verify_on(&fs, &path, &Progress::new()).unwrap(), 4);
    assert_ne!(std::fs::read(path.join("MANIFEST")).unwrap(), before, "it was replaced meanwhile");
}

/// If merges remove listed files at each look, the chain cannot be checked: the store is not called whole.
#[test]
fn a_store_that_changes_at_every_look_is_not_called_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = filled(&path, 3);
    let mut number = 3;
    let fs = Moving::before(move |called, path| {
        // After a listing, and before its files are read.
        if called == "map" && path.extension().is_some_and(|end| end == "npy") && path.exists() {
            put(&writer, &number.to_string());
            writer.compact_full().unwrap();
            number += 1;
        }
    });
    let report = vecstore::verify_on(&fs, &path, &Progress::new()).unwrap();
    assert!(!report.is_whole());
    let told: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    assert!(matches!(&told[..], [only] if only.contains("verify again")), "{told:?}");
}

/// An opener whose bitmaps a checkpoint replaces looks again, and sees the commits made meanwhile.
#[test]
fn an_opener_looks_again_when_a_checkpoint_replaces_bitmaps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = two_of_one_batch_superseded_in_turn(&path);
    let work = move || {
        put(&writer, "y");
        writer.checkpoint().unwrap();
    };
    let store = read_only(&path, once("map", ".live", work)).unwrap();
    assert_eq!((store.snapshot().last_commit(), store.snapshot().totals().entries), (6, 5));
}

/// `verify` takes it for no damage if another process meanwhile removes a version, and with it the bitmap
/// that only the version needed.
#[test]
fn a_version_removed_during_a_verification_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = two_of_one_batch_superseded_in_turn(&path);
    writer.create_version("x").unwrap();
    let of_checkpoint = std::fs::read_dir(path.join("derived")).unwrap().next().unwrap().unwrap().path();
    put(&writer, "y");
    writer.checkpoint().unwrap();
    let looked_for = of_checkpoint.clone();
    let fs = Moving::before(move |called, path| {
        if called == "map" && path == looked_for {
            let _ = writer.remove_version("x");
        }
    });
    assert_whole(&vecstore::verify_on(&fs, &path, &Progress::new()).unwrap(), 6);
    assert!(!of_checkpoint.exists(), "it was dropped");
}

/// Every file is counted once, with all its bytes; progress counts the bytes of segments.
#[test]
fn a_verification_counts_the_files_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = filled(&path, 3);
    put(&writer, "0");
    writer.close().unwrap();
    let mut files = vec![path.join("MANIFEST")];
    for folder in ["segments", "derived"] {
        let names = std::fs::read_dir(path.join(folder)).unwrap();
        files.extend(names.map(|entry| entry.unwrap().path()));
    }
    let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    let progress = Progress::new();
    let report = vecstore::verify_with(&path, &progress).unwrap();
    assert_whole(&report, 4);
    assert_eq!((report.files, report.bytes), (files.len() as u64, bytes));
    assert_eq!(files.len(), 6, "a manifest, four segments, a bitmap");
    let segments: u64 = files[1..5].iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!((progress.done(), progress.total()), (segments, segments));
}

/// A file whose range overlaps that of another one is a fault, although no reader would choose it.
#[test]
fn overlapping_ranges_are_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let writer = filled(&path, 5);
    let segments = path.join("segments");
    std::fs::copy(segments.join("0000000005-0000000005.0.npy"), segments.join("0000000003-0000000004.0.npy"))
        .unwrap();
    assert_eq!(overlaps(&path), 0, "nested");
    std::fs::copy(segments.join("0000000005-0000000005.0.npy"), segments.join("0000000004-0000000005.0.npy"))
        .unwrap();
    assert_eq!(overlaps(&path), 1, "they share a commit");
    drop(writer);
}

/// Number of faults that report overlapping ranges.
fn overlaps(path: &Path) -> usize {
    let report = vecstore::verify(path).unwrap();
    let overlap = report
        .faults
        .iter()
        .filter(|fault| fault.section == "chain" && fault.detail.contains("overlaps that of"));
    overlap.count()
}

/// A version is removed, and files that only it needed are, too, without a new manifest.
#[test]
fn files_of_a_version_removed_meanwhile_are_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path, 5);
    store.create_version("before").unwrap();
    store.compact_full().unwrap();
    let mut store = Some(store);
    let fs = Moving::before(move |kind, path| {
        if kind == "map"
            && path.parent().is_some_and(|dir| dir.ends_with("segments"))
            && let Some(store) = store.take()
        {
            store.remove_version("before").unwrap();
        }
    });
    let report = vecstore::verify_on(&fs, &path, &Progress::new()).unwrap();
    assert!(report.is_whole() && report.last_commit == 5, "{:?}", report.faults);
}

/// The last segment vanishes while the store is verified: no other file shows that it was there.
#[test]
fn a_last_segment_that_vanishes_during_a_verification_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = filled(&path, 3);
    let last = path.join("segments/0000000003-0000000003.0.npy");
    let fs = Moving::before(move |kind, path| {
        if kind == "map" && path == last {
            let _ = std::fs::remove_file(&last);
        }
    });
    let report = vecstore::verify_on(&fs, &path, &Progress::new()).unwrap();
    let told: Vec<&str> = report.faults.iter().map(|fault| &*fault.detail).collect();
    assert_eq!(told, ["commit 3 was there when this began, and is not any more"]);
}
