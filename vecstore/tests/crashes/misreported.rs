//! Misleading surroundings: operations that report a failure and happened, stores that are replaced while
//! they are open, flags of later formats.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use crate::common::hooked::Hooked;
use crate::common::layout::seal_manifest;
use vecstore::vfs::{LockFile, Mapping, Metadata, RealFs, Vfs, VfsFile};
use vecstore::{Error, Event, MergePolicy, OnDuplicate, OpenOptions, Reader, Store, StoreConfig};

/// The real file system, with faults that a test switches on.
#[derive(Debug, Default)]
struct LyingFs {
    /// The next rename of a segment happens and reports an I/O error.
    rename: AtomicBool,
    /// The next flush of a directory of segments reports an I/O error.
    flush: AtomicBool,
    /// While this is set, replacing the manifest fails.
    manifest: AtomicBool,
    /// After the next replacement of the manifest, one flush of the store's directory reports an I/O error.
    swap: AtomicBool,
    swapped: AtomicBool,
    /// While this is set, a bit of each write to a new segment is wrong.
    garble: AtomicBool,
    /// Work to run before the next segment is created.
    before: BeforeCreate,
}

/// Work to run once.
#[derive(Default)]
struct BeforeCreate(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl fmt::Debug for BeforeCreate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeCreate").finish_non_exhaustive()
    }
}

impl LyingFs {
    fn before_next_create(&self, work: impl FnOnce() + Send + 'static) {
        *self.before.0.lock().unwrap() = Some(Box::new(work));
    }
}

/// Writes the first byte of every write wrong.
struct Garbling(Box<dyn VfsFile>);

impl VfsFile for Garbling {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        let mut data = data.to_vec();
        data[0] ^= 1;
        self.0.write_all(&data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Vfs for LyingFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        let of_segment = path.parent().is_some_and(|dir| dir.ends_with("segments"));
        let before = if of_segment { self.before.0.lock().unwrap().take() } else { None };
        if let Some(work) = before {
            work();
        }
        let file = RealFs.create_new(path)?;
        Ok(if of_segment && self.garble.load(Ordering::SeqCst) { Box::new(Garbling(file)) } else { file })
    }
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        RealFs.read(path, max_len)
    }
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        RealFs.map(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        RealFs.metadata(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        RealFs.list(path)
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.rename_noreplace(from, to)?;
        if self.rename.swap(false, Ordering::SeqCst) { Err(io::Error::other("a lie")) } else { Ok(()) }
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        if to.ends_with("MANIFEST") && self.manifest.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if to.ends_with("MANIFEST") && self.swap.swap(false, Ordering::SeqCst) {
            self.swapped.store(true, Ordering::SeqCst);
        }
        RealFs.replace(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
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
        if path.ends_with("segments") && self.flush.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("a failed flush"));
        }
        let of_segments = path.ends_with("segments") || path.ends_with("derived");
        if !of_segments && self.swapped.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("a failed flush of the manifest's name"));
        }
        RealFs.flush_dir(path)
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        RealFs.open_lock(path, create)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        RealFs.free_space(path)
    }
}

fn put(store: &Store, key: &str) -> vecstore::Result<vecstore::Appended> {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Skip)
}

fn lying(path: &Path) -> (Arc<LyingFs>, Store) {
    let fs = Arc::new(LyingFs::default());
    let store = OpenOptions::new().vfs(fs.clone()).create(path, StoreConfig::new(1)).unwrap();
    (fs, store)
}

fn assert_whole(path: &Path) {
    let report = vecstore::verify(path).unwrap();
    assert!(report.is_whole(), "{:?}", report.faults);
}

#[test]
fn a_rename_that_reports_failure_and_happened_loses_no_commit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (fs, first) = lying(&path);
    let second = Store::open(&path).unwrap();
    put(&first, "a").unwrap();
    put(&second, "b").unwrap();
    fs.rename.store(true, Ordering::SeqCst);
    assert!(matches!(put(&first, "c"), Err(Error::OutcomeUnknown { .. })));
    assert!(matches!(put(&first, "d"), Err(Error::Latched { .. })));
    // The other handle knew the same commits; it must notice the third one.
    let appended = put(&second, "e").unwrap();
    assert_eq!(appended.commit, Some(4));
    drop((first, second));
    let store = Store::open(&path).unwrap();
    assert_eq!(store.snapshot().missing(&["a", "b", "c", "e"]).unwrap(), Vec::<usize>::new());
    assert_whole(&path);
}

#[test]
fn every_batch_of_a_failed_group_gets_the_same_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (fs, store) = lying(&path);
    // Batches that are submitted while a file is being written are the next group, whose flush fails.
    let ((tell, is_held), (go_on, may)) = (channel(), channel::<()>());
    let second = fs.clone();
    fs.before_next_create(move || {
        tell.send(()).unwrap();
        may.recv().unwrap();
        let fails = Arc::clone(&second);
        second.before_next_create(move || fails.flush.store(true, Ordering::SeqCst));
    });
    let one = |key: &str| {
        let mut batch = store.batch();
        batch.push(key, &[1.0f32]).unwrap();
        store.submit(batch, OnDuplicate::Skip).unwrap()
    };
    let first = one("first");
    is_held.recv().unwrap();
    let group = ["0", "1", "2", "3"].map(one);
    go_on.send(()).unwrap();
    assert_eq!(first.wait().unwrap().commit, Some(1));
    for ticket in group {
        let outcome = ticket.wait();
        assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{outcome:?}");
    }
    assert!(matches!(put(&store, "4"), Err(Error::Latched { .. })));
}

#[test]
fn a_refresh_of_a_writer_rewrites_commits_in_doubt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (fs, first) = lying(&path);
    let second = Store::open(&path).unwrap();
    put(&first, "a").unwrap();
    fs.flush.store(true, Ordering::SeqCst);
    assert!(matches!(put(&first, "b"), Err(Error::OutcomeUnknown { .. })));
    // A writer skips keys that it is told are stored, so "b" must have been written anew by now.
    assert_eq!(second.refresh().unwrap().missing(&["a", "b"]).unwrap(), Vec::<usize>::new());
    let names: Vec<_> =
        std::fs::read_dir(path.join("segments")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_string_lossy().ends_with(".1.npy")), "{names:?}");
    assert_whole(&path);
}

/// A disk that reports a flush but stores other bytes than the page cache has.
#[test]
fn a_save_is_verified_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = Hooked::new(|call, path| {
        if call == "forget" {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[4096] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
    });
    let store = OpenOptions::new().verify_saves(true).vfs(fs).create(&path, StoreConfig::new(1)).unwrap();
    let error = put(&store, "a").unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read_dir(path.join("segments")).unwrap().count(), 0, "nothing is left of it");
}

#[test]
fn a_store_that_is_replaced_while_open_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("s"), dir.path().join("old"));
    let store = Store::create(&path, StoreConfig::new(1)).unwrap();
    put(&store, "a").unwrap();
    let reader = Reader::open(&path).unwrap();
    std::fs::rename(&path, &old).unwrap();
    assert!(matches!(reader.refresh(), Err(Error::Moved { .. })), "moved");
    assert!(matches!(put(&store, "b"), Err(Error::Moved { .. })), "moved");
    let other = Store::create(&path, StoreConfig::new(1)).unwrap();
    assert!(matches!(put(&store, "c"), Err(Error::Moved { .. })), "replaced");
    put(&other, "x").unwrap();
    for (looked, known) in [(store.refresh(), store.snapshot()), (reader.refresh(), reader.snapshot())] {
        assert!(matches!(looked, Err(Error::Moved { .. })), "it is seen by looking, too");
        assert_eq!(known.missing(&["a", "x"]).unwrap(), [1], "what was read stays");
    }
    drop((store, reader));
    drop(other);
    for (path, keys) in [(&path, 1), (&old, 1)] {
        assert_whole(path);
        assert_eq!(Store::open(path).unwrap().snapshot().iter().count(), keys);
    }
}

#[test]
fn a_deleted_lock_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(1)).unwrap();
    put(&store, "a").unwrap();
    std::fs::remove_file(path.join("LOCK")).unwrap();
    let second = Store::open(&path).unwrap();
    put(&second, "b").unwrap();
    let error = put(&store, "c").unwrap_err();
    assert!(matches!(error, Error::Moved { .. }), "{error}");
    assert_whole(&path);
}

#[test]
fn the_number_of_a_vanished_commit_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(1)).unwrap();
    let other = Store::open(&path).unwrap();
    put(&store, "a").unwrap();
    put(&store, "b").unwrap();
    assert_eq!(other.refresh().unwrap().last_commit(), 2);
    std::fs::remove_file(path.join("segments/0000000002-0000000002.0.npy")).unwrap();
    std::fs::remove_file(path.join("LOCK")).unwrap();
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.snapshot().last_commit(), 1, "a handle that never saw it cannot know");
    // A handle that has seen commit 2 notices, and never goes back to the state before it.
    let error = other.refresh().unwrap_err();
    assert!(matches!(error, Error::Moved { .. }), "{error}");
    assert_eq!(other.snapshot().missing(&["a", "b"]).unwrap(), [0usize; 0]);
    for (store, key) in [(&other, "c"), (&store, "d")] {
        let error = put(store, key).unwrap_err();
        assert!(matches!(error, Error::Moved { .. }), "{error}");
    }
    assert_eq!(std::fs::read_dir(path.join("segments")).unwrap().count(), 1, "the number is not used again");
}

fn files(path: &Path) -> Vec<String> {
    let names = std::fs::read_dir(path.join("segments")).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The manifest's generation.
fn generation(path: &Path) -> u64 {
    flags(path, 48)
}

/// The suspect mark of a lock's record.
fn mark(path: &Path, lock: &str) -> u64 {
    let bytes = std::fs::read(path.join(lock)).unwrap();
    u64::from_le_bytes(bytes[16..24].try_into().unwrap())
}

/// The manifest's new name may not survive after a merge: the inputs stay, the handle is latched, and the
/// next writer writes the manifest anew before anything is built on it.
#[test]
fn a_merge_whose_manifest_may_not_be_durable_keeps_its_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = Arc::new(LyingFs::default());
    let options = OpenOptions::new().vfs(fs.clone()).merge_policy(MergePolicy::OnDemand);
    let store = options.create(&path, StoreConfig::new(1)).unwrap();
    let other = options.open(&path).unwrap();
    for key in ["a", "b", "c"] {
        put(&store, key).unwrap();
    }
    store.checkpoint().unwrap();
    let inputs = files(&path);
    fs.swap.store(true, Ordering::SeqCst);
    let error = store.compact_full().unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert!(matches!(put(&store, "d"), Err(Error::Latched { .. })));
    let left = files(&path);
    assert!(inputs.iter().all(|input| left.contains(input)) && left.len() == 4, "{left:?}");
    assert!(mark(&path, "LOCK") != 0 && mark(&path, "LOCK.manifest") != 0, "both say so");

    // An operation that does not take the commit lock finds the mark in LOCK.manifest.
    let visible = generation(&path);
    other.create_version("x").unwrap();
    assert!(generation(&path) > visible, "written anew");
    assert_eq!((mark(&path, "LOCK"), mark(&path, "LOCK.manifest")), (0, 0), "and no longer in doubt");
    put(&other, "d").unwrap();
    other.remove_version("x").unwrap();
    assert_eq!(files(&path).len(), 2, "the output and what came after: {:?}", files(&path));
    assert_eq!(other.snapshot().missing(&["a", "b", "c", "d"]).unwrap(), Vec::<usize>::new());
    assert_whole(&path);
}

/// The first manifest that lists segments is in doubt: its predecessor lists none, so every commit is, too.
#[test]
fn a_failed_first_checkpoint_leaves_the_suspect_mark() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (fs, store) = lying(&path);
    put(&store, "a").unwrap();
    fs.swap.store(true, Ordering::SeqCst);
    let error = store.checkpoint().unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!((mark(&path, "LOCK"), mark(&path, "LOCK.manifest")), (1, 1));
}

/// The removal of leftovers rests on the manifest alone. While the manifest's name is in doubt, the manifest
/// is written anew first.
#[test]
fn leftovers_stay_until_the_manifest_without_them_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = Arc::new(LyingFs::default());
    let options = OpenOptions::new().vfs(fs.clone()).merge_policy(MergePolicy::OnDemand);
    let store = options.create(&path, StoreConfig::new(1)).unwrap();
    for key in ["a", "b", "c"] {
        put(&store, key).unwrap();
    }
    store.create_version("x").unwrap();
    let other = options.open(&path).unwrap();
    // The commit lock's mark is lost, as if the process had died before it could leave the mark.
    fs.swap.store(true, Ordering::SeqCst);
    assert!(store.compact_full().is_err());
    drop(store);
    let mut lock = std::fs::read(path.join("LOCK")).unwrap();
    lock[16..24].fill(0);
    let crc = crc32fast::hash(&lock[..252]).to_le_bytes();
    lock[252..256].copy_from_slice(&crc);
    std::fs::write(path.join("LOCK"), lock).unwrap();
    let visible = generation(&path);
    other.remove_version("x").unwrap();
    assert!(generation(&path) > visible, "written anew before the inputs went");
    assert_eq!(files(&path).len(), 1);
    assert_eq!(mark(&path, "LOCK.manifest"), 0);
    assert_whole(&path);
}

/// Until the manifest that lists new bitmaps is durable, a power cut may bring back its predecessor, which
/// lists the former bitmaps.
#[test]
fn a_failed_checkpoint_keeps_the_former_bitmaps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = Arc::new(LyingFs::default());
    let options = OpenOptions::new().vfs(fs.clone()).merge_policy(MergePolicy::OnDemand);
    let store = options.create(&path, StoreConfig::new(1)).unwrap();
    let mut batch = store.batch();
    ["a", "b", "c"].iter().for_each(|key| batch.push(key, &[1.0f32]).unwrap());
    store.append(&mut batch, OnDuplicate::Skip).unwrap();
    store.delete(&["a"]).unwrap();
    store.checkpoint().unwrap();
    let bitmaps = || {
        let mut names: Vec<_> = std::fs::read_dir(path.join("derived"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let former = bitmaps();
    assert_eq!(former.len(), 1);
    store.delete(&["b"]).unwrap();
    fs.manifest.store(true, Ordering::SeqCst);
    assert!(store.checkpoint().is_err());
    assert_eq!(bitmaps(), former, "what was written for it is gone again");
    fs.manifest.store(false, Ordering::SeqCst);
    fs.swap.store(true, Ordering::SeqCst);
    assert!(matches!(store.checkpoint(), Err(Error::OutcomeUnknown { .. })));
    let both = bitmaps();
    assert!(both.len() == 2 && both.contains(&former[0]), "{both:?}");
    assert!(mark(&path, "LOCK.manifest") != 0);
    drop(store);
    let store = options.open(&path).unwrap();
    assert_eq!(store.snapshot().missing(&["a", "b", "c"]).unwrap(), [0, 1]);
    assert_eq!(mark(&path, "LOCK.manifest"), 0);
    assert_whole(&path);
}

/// Sets a flags word of MANIFEST and repairs its checksum.
fn set_flags(path: &Path, offset: usize, flags: u64) {
    let mut bytes = std::fs::read(path.join("MANIFEST")).unwrap();
    bytes[offset..offset + 8].copy_from_slice(&flags.to_le_bytes());
    seal_manifest(&mut bytes);
    std::fs::write(path.join("MANIFEST"), bytes).unwrap();
}

fn flags(path: &Path, offset: usize) -> u64 {
    let bytes = std::fs::read(path.join("MANIFEST")).unwrap();
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn flags_of_later_formats_are_honoured_and_kept() {
    const INCOMPAT: usize = 24;
    const RO_COMPAT: usize = 32;
    const COMPAT: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    Store::create(&path, StoreConfig::new(1)).unwrap().close().unwrap();

    set_flags(&path, COMPAT, 4);
    let store = OpenOptions::new().merge_policy(MergePolicy::OnDemand).open(&path).unwrap();
    put(&store, "a").unwrap();
    store.close().unwrap();
    assert_eq!(flags(&path, COMPAT), 4, "what is for information is kept");

    set_flags(&path, RO_COMPAT, 2);
    assert!(matches!(Store::open(&path), Err(Error::UnsupportedVersion { .. })));
    assert!(Reader::open(&path).unwrap().snapshot().contains("a").unwrap());

    set_flags(&path, INCOMPAT, 1);
    assert!(matches!(Reader::open(&path), Err(Error::UnsupportedVersion { .. })));
}

#[test]
fn every_failed_checkpoint_is_reported_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = Arc::new(LyingFs::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let store = OpenOptions::new()
        .vfs(fs.clone())
        .merge_policy(MergePolicy::OnDemand)
        .on_event(move |event| listener.lock().unwrap().push(event.clone()))
        .create(&path, StoreConfig::new(1))
        .unwrap();
    fs.manifest.store(true, Ordering::SeqCst);
    for i in 0..66 {
        put(&store, &i.to_string()).unwrap();
    }
    let attempts: Vec<u32> = told
        .lock()
        .unwrap()
        .drain(..)
        .map(|event| match event {
            Event::CheckpointFailed { attempts, error, .. } => {
                assert!(error.to_string().contains("MANIFEST"), "{error}");
                attempts
            }
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(attempts, [1, 2, 3], "after the 64th commit and each one that follows");
    fs.manifest.store(false, Ordering::SeqCst);
    put(&store, "66").unwrap();
    let events = told.lock().unwrap().clone();
    assert!(matches!(&events[..], [Event::Checkpoint { first: 1, last: 67, rows: 67, .. }]), "{events:?}");
}

/// The disk stores wrong bytes. A handle with `verify_saves` notices when it reads a save back; every merge
/// reads its output back before it removes its inputs.
#[test]
fn wrongly_written_bytes_are_noticed_before_the_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = Arc::new(LyingFs::default());
    let options = OpenOptions::new().vfs(fs.clone()).merge_policy(MergePolicy::OnDemand).verify_saves(true);
    let store = options.create(&path, StoreConfig::new(1)).unwrap();
    put(&store, "a").unwrap();
    put(&store, "b").unwrap();
    let before = files(&path);
    let read_back = |error: Error| {
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("read back after writing"), "{error}");
        assert_eq!(files(&path), before, "nothing of it is left");
    };
    fs.garble.store(true, Ordering::SeqCst);
    read_back(put(&store, "c").unwrap_err());
    read_back(store.compact_full().unwrap_err());
    fs.garble.store(false, Ordering::SeqCst);
    put(&store, "c").unwrap();
    store.compact_full().unwrap();
    assert_eq!(files(&path).len(), 1);
    assert_eq!(store.snapshot().missing(&["a", "b", "c"]).unwrap(), Vec::<usize>::new());
    assert_whole(&path);
}
