//! A full disk that is noticed when a commit is flushed, on the real file system. By then the new file is
//! mapped, and takes room until it is unmapped, with or without a name. Free space must be asked for after
//! that.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vecstore::vfs::{LockFile, Mapping, Metadata, RealFs, Vfs, VfsFile};
use vecstore::{Error, OnDuplicate, OpenOptions, StoreConfig};

/// The real file system, whose flushes fail for lack of room while `full` is set.
#[derive(Debug, Default)]
struct Late {
    full: Arc<AtomicBool>,
    mapped: Arc<AtomicUsize>,
    /// Temporary files that this process held when free space was asked for.
    held: Mutex<Vec<Vec<String>>>,
}

struct LateFile {
    inner: Box<dyn VfsFile>,
    full: Arc<AtomicBool>,
    mapped: Arc<AtomicUsize>,
}

impl VfsFile for LateFile {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.inner.write_all(data)
    }
    fn write_slices(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.inner.write_slices(slices)
    }
    fn flush(&mut self) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.inner.flush(),
        }
    }
    fn map(&mut self, len: u64) -> io::Result<Option<Mapping>> {
        let map = self.inner.map(len)?;
        self.mapped.fetch_add(usize::from(map.is_some()), Ordering::SeqCst);
        Ok(map)
    }
}

/// Temporary files of segments that exist in `dir`, or that this process has mapped or open.
fn temporaries(dir: &Path) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = open.filter_map(|entry| Some(entry.path().read_link().ok()?.display().to_string()));
    let named = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path().display().to_string());
    let of_segments = |line: &String| line.contains(dir.to_str().unwrap()) && !line.contains(".npy");
    let is_file = |line: &String| !line.ends_with("/segments");
    maps.lines().map(str::to_owned).chain(open).chain(named).filter(of_segments).filter(is_file).collect()
}

impl Vfs for Late {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        let (full, mapped) = (Arc::clone(&self.full), Arc::clone(&self.mapped));
        Ok(Box::new(LateFile { inner: RealFs.create_new(path)?, full, mapped }))
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
        RealFs.rename_noreplace(from, to)
    }
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
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
        RealFs.flush_dir(path)
    }
    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        RealFs.open_lock(path, create)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.held.lock().unwrap().push(temporaries(path));
        RealFs.free_space(path)
    }
}

#[test]
fn a_failed_commit_gives_its_room_back_before_free_space_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("photos.vecs");
    let vfs = Arc::new(Late::default());
    let options = OpenOptions::new().vfs(Arc::clone(&vfs) as Arc<dyn Vfs>);
    let store = options.create(&path, StoreConfig::new(64)).unwrap();
    let append = |key: &str| {
        let mut batch = store.batch();
        batch.push_rows(key, vec![[0.5f32; 64]; 100]).unwrap();
        store.append(&mut batch, OnDuplicate::Error)
    };
    append("a").unwrap();
    assert_eq!(vfs.mapped.load(Ordering::SeqCst), 1, "a commit maps what it writes");
    vfs.full.store(true, Ordering::SeqCst);
    let error = append("b").unwrap_err();
    assert!(matches!(error, Error::NoSpace { free: Some(_), .. }), "{error}");
    assert_eq!(vfs.mapped.load(Ordering::SeqCst), 2);
    let held = vfs.held.lock().unwrap().clone();
    assert_eq!(held, [Vec::<String>::new()], "nothing of the attempt is left when room is asked for");
    vfs.full.store(false, Ordering::SeqCst);
    append("b").unwrap();
    store.close().unwrap();
}
