//! A store that does not take what it is given, for a while or for good.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vecstore::OpenOptions;
use vecstore::vfs::{LockFile, Mapping, Metadata, RealFs, Vfs, VfsFile};
use vecstore_embed::{Error, Observer, Run};

use crate::command::{json, run_tiny, said};
use crate::common::{Place, RunOn, Strips, assert_same, contents, tiny, tree};
use crate::fed::Fed;

/// The real file system, on which the next writes of segments fail.
#[derive(Debug)]
struct Failing {
    inner: RealFs,
    code: i32,
    /// Writes that succeed before, and then those that fail.
    good: AtomicI64,
    bad: AtomicI64,
}

/// The disk is full; the disk fails.
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

impl Failing {
    fn run(place: &Place, code: i32, bad: i64) -> Run {
        let (good, bad) = (AtomicI64::new(2), AtomicI64::new(bad));
        let vfs = Arc::new(Failing { inner: RealFs, code, good, bad });
        tree(place.photos(40), place.join("photos.vecs")).with_open_options(OpenOptions::new().vfs(vfs))
    }

    fn check(&self, path: &Path) -> io::Result<()> {
        let segment = path.parent().is_some_and(|dir| dir.ends_with("segments"));
        if segment
            && self.good.fetch_sub(1, Ordering::SeqCst) <= 0
            && self.bad.fetch_sub(1, Ordering::SeqCst) > 0
        {
            return Err(io::Error::from_raw_os_error(self.code));
        }
        Ok(())
    }
}

impl Vfs for Failing {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        self.check(path)?;
        self.inner.create_new(path)
    }
    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        self.inner.read(path, max_len)
    }
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        self.inner.map(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.inner.metadata(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(path)
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename_noreplace(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.replace(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.flush_dir(path)
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        self.inner.open_lock(path, create)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_space(path)
    }
}

/// Writes down why the run paused.
#[derive(Default)]
struct Pauses(Mutex<Vec<Option<String>>>);

impl Observer for Pauses {
    fn paused(&self, why: Option<&str>) {
        self.0.lock().unwrap().push(why.map(str::to_owned));
    }
}

#[test]
fn a_full_disk_pauses_the_run_until_there_is_room() {
    let place = Place::new();
    let pauses = Arc::new(Pauses::default());
    let run = Failing::run(&place, ENOSPC, 5)
        .with_save_retries(1, Duration::from_millis(1))
        .with_observer(Arc::clone(&pauses) as Arc<dyn Observer>);
    let summary = run.run_on(&tiny(), Strips::boxed()).unwrap();
    assert_eq!((summary.embedded, summary.is_complete()), (40, true));
    let pauses = pauses.0.lock().unwrap();
    assert!(pauses.len() > 1 && pauses.last().unwrap().is_none(), "it went on: {pauses:?}");
    let why = pauses[0].as_ref().unwrap();
    assert!(why.starts_with("the disk is full") && why.contains("no space left"), "{why}");
    let alone = place.join("alone.vecs");
    let undisturbed = tree(place.join("photos"), &alone);
    undisturbed.run_on(&tiny(), Strips::boxed()).unwrap();
    assert_same(&contents(&place.join("photos.vecs")), &contents(&alone));
}

#[test]
fn saves_that_fail_are_tried_again_and_after_some_times_the_run_ends() {
    let model = tiny();
    let place = Place::new();
    let passing = Failing::run(&place, EIO, 2).with_save_retries(5, Duration::from_millis(1));
    assert_eq!(passing.run_on(&model, Strips::boxed()).unwrap().embedded, 40);

    let place = Place::new();
    let lasting = Failing::run(&place, EIO, i64::MAX).with_save_retries(3, Duration::from_millis(1));
    let error = lasting.run_on(&model, Strips::boxed()).unwrap_err();
    assert!(matches!(error, Error::SaveFailed { failures: 4, .. }), "{error}");
    assert!(error.to_string().contains("saving failed 4 times in a row"), "{error}");
    // What was saved before stays, and a run that can save goes on from there.
    let saved = contents(&place.join("photos.vecs")).len() as u64;
    assert!(saved < 40, "{saved}");
    let again = tree(place.join("photos"), place.join("photos.vecs"));
    assert_eq!(again.run_on(&model, Strips::boxed()).unwrap().embedded, 40 - saved);
}

#[test]
fn the_exit_code_tells_that_saving_failed() {
    let place = Place::new();
    let (photos, store) = (place.photos(12), place.join("photos.vecs"));
    assert_eq!(said(run_tiny(&photos, &store, &["--quiet", "--include=a/000.png"])).code, 0);
    fs::write(photos.join("bad.jpg"), "Dear diary").unwrap();
    let lines = ["a/002.png", "bad.jpg", "b/001.png", "b/003.png", "b/005.png"];
    let command = run_tiny(&photos, &store, &["--commit-rows=1", "--save-retries=1", "--lock-timeout=1"]);
    let mut fed = Fed::start(command, place.join("list"), &lines);
    fed.list.feed(&lines[..2], "a/000.png");
    fed.err.until("bad.jpg: rejected");
    // One more waits for a batch that is full. From now on another process is in the middle of a commit.
    let held = File::open(store.join("LOCK")).unwrap();
    held.lock().unwrap();
    fed.list.feed(&lines[2..], "a/000.png");
    fed.list.close();
    let ended = fed.ended();
    assert_eq!(ended.code, 74, "{}", ended.err);
    for words in ["saving failed 2 times in a row", "goes on from there"] {
        assert!(ended.err.contains(words), "{words:?} is not in {}", ended.err);
    }
    held.unlock().unwrap();
    assert_eq!(contents(&store).len(), 2, "{}", ended.err);
    let again = json(run_tiny(&photos, &store, &["--quiet", "--json"]));
    assert_eq!((again["already"].as_u64(), again["embedded"].as_u64()), (Some(2), Some(11)));
}
