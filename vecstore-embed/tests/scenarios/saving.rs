//! A store that does not take what it is given, for a while or for good.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use vecstore::vfs::{LockFile, Mapping, Metadata, RealFs, Vfs, VfsFile};
use vecstore::{OpenOptions, Store};
use vecstore_embed::{Error, Model, Observer, Run};

use crate::command::{json, run};
use crate::common::{Place, Strips, assert_same, contents};

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
        Run::new(place.photos(40), place.join("photos.vecs"))
            .with_recursive(true)
            .with_batch_size(4)
            .with_open_options(OpenOptions::new().vfs(vfs))
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
    let summary = run.run_on(&Model::builtin().unwrap(), Strips::boxed()).unwrap();
    assert_eq!((summary.embedded, summary.is_complete()), (40, true));
    let pauses = pauses.0.lock().unwrap();
    assert!(pauses.len() > 1 && pauses.last().unwrap().is_none(), "it went on: {pauses:?}");
    let why = pauses[0].as_ref().unwrap();
    assert!(why.starts_with("the disk is full") && why.contains("no space left"), "{why}");
    let alone = place.join("alone.vecs");
    let undisturbed = Run::new(place.join("photos"), &alone).with_recursive(true);
    undisturbed.run_on(&Model::builtin().unwrap(), Strips::boxed()).unwrap();
    assert_same(&contents(&place.join("photos.vecs")), &contents(&alone));
}

#[test]
fn saves_that_fail_are_tried_again_and_after_some_times_the_run_ends() {
    let model = Model::builtin().unwrap();
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
    let again = Run::new(place.join("photos"), place.join("photos.vecs")).with_recursive(true);
    assert_eq!(again.run_on(&model, Strips::boxed()).unwrap().embedded, 40 - saved);
}

#[test]
fn the_exit_code_tells_that_saving_failed() {
    let place = Place::new();
    let (photos, store, aside) = (place.photos(120), place.join("photos.vecs"), place.join("aside"));
    let slowly = ["--quiet", "--batch-size=2", "--workers=1", "--commit-rows=2", "--save-retries=1"];
    let child = run(&photos, &store, &slowly).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let done = || Store::open_read_only(&store).is_ok_and(|store| store.snapshot().totals().entries > 0);
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "nothing is saved");
        thread::sleep(Duration::from_millis(5));
    }
    fs::rename(store.join("segments"), &aside).unwrap();
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(74), "{told}");
    assert!(told.contains("saving failed 2 times in a row") && told.contains("goes on from there"), "{told}");
    fs::rename(&aside, store.join("segments")).unwrap();
    let saved = contents(&store).len() as u64;
    let again = json(run(&photos, &store, &["--quiet", "--json"]));
    assert_eq!((again["already"].as_u64(), again["embedded"].as_u64()), (Some(saved), Some(120 - saved)));
}
