//! Unreadable sectors: `verify` and `repair` name their bytes and continue with the others; backups and
//! restores end with an error that names them.
//!
//! Behind the seam is the real file system with simulated bad sectors. Mapping a file that has one ends the
//! test, as an access would end the process.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vecstore::vfs::{LockFile, Mapping, Metadata, ReadAt, RealFs, Vfs, VfsFile};
use vecstore::{
    BackupOptions, Error, OnDuplicate, OpenOptions, Progress, ReadMode, RepairOptions, Store, StoreConfig,
    VerifyReport,
};

const DIM: usize = 1024;
const EIO: i32 = 5;
const EXDEV: i32 = 18;
const PAGE: u64 = 4096;

/// Unreadable ranges of each file, by inode number: a renamed file keeps them.
type Bad = BTreeMap<u64, Vec<Range<u64>>>;

/// The file system of a disk with bad sectors.
#[derive(Clone, Debug, Default)]
struct Worn {
    bad: Arc<Mutex<Bad>>,
    /// Length of the longest read.
    most: Arc<AtomicU64>,
    /// (inode, byte, reads): after this many reads of the byte, it reads as another value.
    lie: Option<(u64, u64, Arc<AtomicU64>)>,
    /// Hard links fail, as from one file system to another.
    is_far: bool,
}

impl Worn {
    fn wear(&self, path: &Path, range: Range<u64>) {
        self.bad.lock().unwrap().entry(fs::metadata(path).unwrap().ino()).or_default().push(range);
    }

    fn bad(&self, path: &Path) -> Vec<Range<u64>> {
        let Ok(found) = fs::metadata(path) else { return Vec::new() };
        self.bad.lock().unwrap().get(&found.ino()).cloned().unwrap_or_default()
    }

    fn whole(&self, path: &Path) -> io::Result<()> {
        if self.bad(path).is_empty() { Ok(()) } else { Err(io::Error::from_raw_os_error(EIO)) }
    }
}

#[derive(Debug)]
struct Pieces {
    file: Box<dyn ReadAt>,
    number: u64,
    bad: Vec<Range<u64>>,
    worn: Worn,
}

impl ReadAt for Pieces {
    fn byte_len(&self) -> u64 {
        self.file.byte_len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.worn.most.fetch_max(buf.len() as u64, Ordering::Relaxed);
        let end = offset + buf.len() as u64;
        if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.file.read_at(buf, offset)?;
        if let Some((number, byte, left)) = &self.worn.lie
            && *number == self.number
            && (offset..end).contains(byte)
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
        {
            buf[(byte - offset) as usize] ^= 1;
        }
        Ok(())
    }
}

impl Vfs for Worn {
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        assert!(self.bad(path).is_empty(), "{} was mapped: SIGBUS", path.display());
        RealFs.map(path)
    }
    fn copy(&self, path: &Path) -> io::Result<Mapping> {
        self.whole(path)?;
        RealFs.copy(path)
    }
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        self.whole(path)?;
        RealFs.read(path, max_len)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(Pieces {
            file: RealFs.open(path)?,
            number: fs::metadata(path)?.ino(),
            bad: self.bad(path),
            worn: self.clone(),
        }))
    }
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        RealFs.create_new(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        RealFs.metadata(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        RealFs.list(path)
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.rename_noreplace(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.replace(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.is_far {
            return Err(io::Error::from_raw_os_error(EXDEV));
        }
        RealFs.link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
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

/// A store of two segments. Each has forty entries of 4 KiB, some with payloads, and thus three blocks of
/// rows.
fn filled(path: &Path) {
    let store = Store::create(path, StoreConfig::new(DIM)).unwrap();
    for segment in 0..2 {
        let mut batch = store.batch();
        for number in (0..40).map(|number| segment * 40 + number) {
            let payload = vec![number as u8; if number % 8 == 0 { 700 } else { 0 }];
            batch.entry(key(number)).row(&row(number)).payload(&payload).push().unwrap();
        }
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    store.close().unwrap();
}

fn key(number: usize) -> String {
    format!("key {number:03}")
}

fn row(number: usize) -> Vec<f32> {
    (0..DIM).map(|at| (number * DIM + at) as f32).collect()
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(path.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn verify(worn: &Worn, path: &Path) -> VerifyReport {
    vecstore::verify_on(worn, path, &Progress::new()).unwrap()
}

/// Copies a store, so that each case has its own.
fn copied(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copied(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Makes each page of each segment unreadable in turn. `verify` reports path, place and reason; the repaired
/// store has every other entry, and the report tells the lost ones.
#[test]
fn each_unreadable_page_is_reported_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let original = dir.path().join("original");
    filled(&original);
    let (mut pages, mut kept, mut lost) = (0, 0, 0);
    for number in 0..2 {
        let len = fs::metadata(&segments(&original)[number]).unwrap().len();
        for page in 0..len.div_ceil(PAGE) {
            let range = page * PAGE..((page + 1) * PAGE).min(len);
            let path = dir.path().join(format!("{number}-{page}"));
            copied(&original, &path);
            let worn = Worn::default();
            let hit = segments(&path)[number].clone();
            worn.wear(&hit, range.clone());

            let report = verify(&worn, &path);
            assert!(!report.is_whole(), "page {page} of segment {number}");
            let place = format!("bytes {} to {} of the file cannot be read", range.start, range.end - 1);
            let told: Vec<_> =
                report.faults.iter().filter(|fault| fault.detail.contains("cannot be read")).collect();
            assert!(!told.is_empty(), "{:?}", report.faults);
            for fault in &told {
                assert_eq!(fault.path, hit);
                assert!(fault.detail.contains("Input/output error"), "{}", fault.detail);
            }
            let within = |text: &str| {
                let numbers: Vec<u64> =
                    text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
                numbers[0] >= range.start && numbers[1] < range.end
            };
            assert!(told.iter().all(|fault| within(&fault.detail)), "{place}: {told:?}");
            // An unreadable page of rows is one fault with exactly this place and the keys of its block.
            let of_rows = (1..=40).contains(&page);
            if of_rows {
                assert_eq!((told.len(), told[0].section.as_str()), (1, "ROWS"));
                assert!(told[0].detail.contains(&place), "{place}: {}", told[0].detail);
                assert!(
                    told[0].keys.contains(&key(number * 40 + page as usize - 1).into_bytes()),
                    "{told:?}"
                );
            }

            let dry = vecstore::repair_on(&worn, &path, RepairOptions::new().dry_run(true)).unwrap();
            let repaired = vecstore::repair_on(&worn, &path, RepairOptions::new()).unwrap();
            let keys: BTreeSet<Vec<u8>> = repaired.lost_keys().map(<[u8]>::to_vec).collect();
            assert_eq!(keys, dry.lost_keys().map(<[u8]>::to_vec).collect(), "what was foretold");
            assert!(verify(&worn, &path).is_whole(), "page {page} of segment {number}");
            assert!(!segments(&path).contains(&hit), "it lies in quarantine");
            let store = Store::open(&path).unwrap();
            let snapshot = store.snapshot();
            let (mut here, mut missing) = (0, 0);
            for entry in 0..80 {
                let found = snapshot.get(key(entry)).unwrap();
                // A lost entry is named by its key or, if keys are unreadable, counted.
                let told = keys.contains(key(entry).as_bytes());
                assert!(!(found.is_some() && told), "{} is there, and told lost", key(entry));
                missing += usize::from(found.is_none());
                let Some(found) = found else { continue };
                assert_eq!(found.rows::<f32>().unwrap(), row(entry));
                assert_eq!(found.payload().len(), if entry % 8 == 0 { 700 } else { 0 });
                here += 1;
            }
            let finding = &repaired.findings[0];
            let unnamed = finding.lost_unnamed as usize;
            assert!(
                finding.lost_unknown || missing == keys.len() + unnamed,
                "{missing} are missing: {finding:?}"
            );
            // The other segment loses no entry. This one loses at most the entries with bytes in the block
            // or, if tables or footer are hit, all entries.
            let least = if of_rows { 80 - 16 } else { 40 };
            assert!(here >= least, "page {page}: {here} of 80 are left");
            (pages, kept, lost) = (pages + 1, kept + here, lost + 80 - here);
            assert!(
                vecstore::repair_on(&worn, &path, RepairOptions::new()).unwrap().was_whole(),
                "a second repair finds nothing"
            );
            fs::remove_dir_all(&path).unwrap();
        }
    }
    println!("{pages} unreadable pages: {kept} entries kept, {lost} lost and told");
}

/// `verify` and `repair` read small pieces, however large the files are.
#[test]
fn files_are_read_in_small_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(DIM)).unwrap();
    let mut batch = store.batch();
    (0..4000).for_each(|number| batch.push(key(number), &row(number)).unwrap());
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    store.close().unwrap();
    let file = &segments(&path)[0];
    assert!(fs::metadata(file).unwrap().len() > 15 << 20);
    let worn = Worn::default();
    worn.wear(file, 5 << 20..(5 << 20) + 512);
    assert_eq!(verify(&worn, &path).faults.len(), 1);
    let report = vecstore::repair_on(&worn, &path, RepairOptions::new()).unwrap();
    assert_eq!(report.lost_keys().count(), 16);
    assert_eq!(worn.most.load(Ordering::Relaxed), 64 << 10);
    assert!(verify(&worn, &path).is_whole());
}

/// A block that is intact when checked and wrong when copied must not get a new checksum.
#[test]
fn a_block_that_changes_during_a_rescue_gets_no_new_checksum() {
    let dir = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for reads in 0..6 {
        let path = dir.path().join(format!("{reads}"));
        filled(&path);
        // One block of rows is damaged; another one reads correctly `reads` times, and wrongly from then on.
        let number = fs::metadata(&segments(&path)[0]).unwrap().ino();
        let lie = Some((number, 100_000, Arc::new(AtomicU64::new(reads))));
        let worn = Worn { lie, ..Worn::default() };
        worn.wear(&segments(&path)[0], 5000..5001);
        let before = segments(&path);
        match vecstore::repair_on(&worn, &path, RepairOptions::new()) {
            Ok(_) => {}
            Err(error) => {
                assert!(error.to_string().contains("not what they were a moment ago"), "{error}");
                assert_eq!(segments(&path), before, "nothing is left behind");
                refused += 1;
            }
        }
        let store = Store::open(&path).unwrap();
        let mut found = 0;
        for number in 0..80 {
            if let Some(entry) = store.snapshot().get(key(number)).unwrap() {
                assert_eq!(entry.rows::<f32>().unwrap(), row(number), "after {reads} reads");
                found += 1;
            }
        }
        assert!(found >= 80 - 2 * 16, "{found} of 80 after {reads} reads, of which two blocks were bad");
    }
    assert!(refused > 0);
}

/// A drive that vanished tells nothing about its contents: no entry may be given up as lost.
#[test]
fn a_disk_that_is_gone_is_not_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path);
    let worn = Worn::default();
    segments(&path).iter().for_each(|segment| worn.wear(segment, 0..1 << 40));
    let report = verify(&worn, &path);
    assert_eq!(report.faults.iter().filter(|fault| fault.detail.contains("cannot be read")).count(), 2);
    let before = segments(&path);
    for result in [
        vecstore::repair_on(&worn, &path, RepairOptions::new().dry_run(true)),
        vecstore::repair_on(&worn, &path, RepairOptions::new()),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains("Input/output error"), "{error}");
    }
    assert_eq!(segments(&path), before);
    assert!(!path.join("quarantine").exists());
    // The manifest alone is unreadable: the segments it lists are unknown.
    let worn = Worn::default();
    worn.wear(&path.join("MANIFEST"), 0..10);
    assert!(verify(&worn, &path).faults.iter().any(|fault| fault.path.ends_with("MANIFEST")));
    let error = vecstore::repair_on(&worn, &path, RepairOptions::new()).unwrap_err();
    assert!(error.to_string().contains("MANIFEST"), "{error}");
}

/// `verify` reports an unreadable bitmap, and openers do without it.
#[test]
fn an_unreadable_bitmap_is_reported_and_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path);
    let store = Store::open(&path).unwrap();
    store.delete(&[key(3)]).unwrap();
    store.close().unwrap();
    let bitmap = fs::read_dir(path.join("derived")).unwrap().next().unwrap().unwrap().path();
    let worn = Worn::default();
    worn.wear(&bitmap, 0..1);
    let report = verify(&worn, &path);
    assert!(
        report.faults.iter().any(|fault| fault.path == bitmap && fault.detail.contains("Input/output error"))
    );
    let options = OpenOptions::new().vfs(Arc::new(worn.clone())).read_mode(ReadMode::Copied).for_reading();
    assert!(!options.open(&path).unwrap().snapshot().contains(key(3)).unwrap());
    let repaired = vecstore::repair_on(&worn, &path, RepairOptions::new()).unwrap();
    assert_eq!((repaired.findings.len(), &repaired.findings[0].path), (1, &bitmap));
    assert!(verify(&worn, &path).is_whole());
    assert!(!Store::open(&path).unwrap().snapshot().contains(key(3)).unwrap());
}

/// With `ReadMode::Copied`, an unreadable segment is an error that names it, on opening and on refreshing.
/// Segments already in memory keep answering.
#[test]
fn an_unreadable_segment_is_an_error_for_copying_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path);
    let worn = Worn::default();
    let options = OpenOptions::new().vfs(Arc::new(worn.clone())).read_mode(ReadMode::Copied);
    let reader = options.for_reading().open(&path).unwrap();
    let old = segments(&path)[1].clone();
    worn.wear(&old, 9000..9001);
    let error = options.open(&path).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == old), "{error}");
    assert!(error.to_string().contains("Input/output error"), "{error}");

    let writer = Store::open(&path).unwrap();
    let mut batch = writer.batch();
    batch.push(key(80), &row(80)).unwrap();
    writer.append(&mut batch, OnDuplicate::Error).unwrap();
    let new = segments(&path)[2].clone();
    worn.wear(&new, 0..1);
    let error = reader.refresh().unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == new), "{error}");
    let snapshot = reader.snapshot();
    assert_eq!(snapshot.get(key(79)).unwrap().unwrap().rows::<f32>().unwrap(), row(79));
    assert_eq!(snapshot.search(&row(5), 1).unwrap().len(), 1);
    assert!(!snapshot.contains(key(80)).unwrap());
}

/// The pages of all segments of a store, as ranges of bytes.
fn pages(path: &Path) -> Vec<(PathBuf, Range<u64>)> {
    let page = |segment: &PathBuf, number: u64, len: u64| {
        (segment.clone(), number * PAGE..((number + 1) * PAGE).min(len))
    };
    let all = segments(path).into_iter().flat_map(|segment| {
        let len = fs::metadata(&segment).unwrap().len();
        (0..len.div_ceil(PAGE)).map(move |number| page(&segment, number, len))
    });
    all.collect()
}

/// A backup to another disk reads the segments it copies. For each unreadable page, the error names file,
/// bytes and reason, and no file is left; once the page is readable, the backup succeeds.
#[test]
fn a_backup_of_an_unreadable_segment_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    filled(&path);
    let worn = Worn { is_far: true, ..Worn::default() };
    let store = OpenOptions::new().vfs(Arc::new(worn.clone())).open(&path).unwrap();
    let backup = || store.backup_with(&dest, BackupOptions::new().link(true));
    for (segment, page) in pages(&path) {
        worn.wear(&segment, page.clone());
        let error = backup().unwrap_err();
        worn.bad.lock().unwrap().clear();
        let place = format!("cannot read the segment: bytes {} to {} of the file", page.start, page.end - 1);
        assert!(matches!(&error, Error::Io { path, .. } if *path == segment), "{error}");
        let text = error.to_string();
        assert!(text.contains(&place) && text.contains("Input/output error"), "{place}: {text}");
        assert!(text.contains("`vecstore repair` saves"), "{text}");
        assert!(!dest.exists());
    }
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["s"], "what was begun is gone");
    assert_eq!(backup().unwrap().copied, 2);
    // A later backup checks the segments that the destination has already.
    let there = segments(&dest)[1].clone();
    worn.wear(&there, fs::metadata(&there).unwrap().len() - 1..1 << 40);
    let error = backup().unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == there), "{error}");
    worn.bad.lock().unwrap().clear();
    assert!(verify(&worn, &dest).is_whole());
}

/// A restore reads every byte of the backup and maps no file: each unreadable page is an error that names it.
#[test]
fn a_restore_of_an_unreadable_backup_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup, restored) = (dir.path().join("s"), dir.path().join("b"), dir.path().join("r"));
    filled(&path);
    Store::open(&path).unwrap().backup(&backup).unwrap();
    let worn = Worn::default();
    for (segment, page) in pages(&backup) {
        worn.wear(&segment, page.clone());
        let error = vecstore::restore_on(&worn, &backup, &restored, &Progress::new()).unwrap_err();
        worn.bad.lock().unwrap().clear();
        let text = error.to_string();
        assert!(matches!(&error, Error::Io { path, .. } if *path == segment), "{text}");
        assert!(text.contains("cannot be read: Input/output error"), "{text}");
        assert!(text.contains("`vecstore repair`"), "{text}");
        let told: Vec<u64> =
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        assert!(
            told.windows(2).any(|pair| pair[0] >= page.start && pair[0] <= pair[1] && pair[1] < page.end),
            "{page:?}: {text}"
        );
        assert!(!restored.exists());
    }
    let report = vecstore::restore_on(&worn, &backup, &restored, &Progress::new()).unwrap();
    assert_eq!(report.copied, 2);
    assert!(worn.most.load(Ordering::Relaxed) <= 1 << 20);
    let store = Store::open(&restored).unwrap();
    assert_eq!(store.snapshot().get(key(79)).unwrap().unwrap().rows::<f32>().unwrap(), row(79));
}
