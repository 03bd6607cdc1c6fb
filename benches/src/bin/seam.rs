//! The cost of passing all file access through one seam: `seam WORK COUNT`, to be run under callgrind by
//! `scripts/seam-cost`, which subtracts the cost of the preparation.
//!
//! WORK is one of:
//!
//! * `append`: COUNT commits of one usual batch, through the library
//! * `seam`: the file calls of COUNT such commits alone, through `dyn Vfs` as the library makes them
//! * `direct`: the same calls, made of the operating system directly
//! * `get`, `scan`: COUNT lookups; COUNT times all rows
//! * `calls`: prints which calls pass the seam for a commit, a lookup, a scan and a search
//!
//! The file calls of a commit are recorded from a real one, so that none is forgotten.

use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, RenameFlags};
use vecstore::vfs::{RealFs, Vfs};
use vecstore::{MergePolicy, OnDuplicate, OpenOptions, Store, StoreConfig};
use vecstore_benches::watched::{self, Watched, Watcher};
use vecstore_benches::{DIM, ROWS, batch, folder, key};

/// Batches in a store that is only read.
const STORED: usize = 32;

/// A call that passed the seam.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Create,
    Write(usize),
    Flush,
    Rename,
    FlushDir,
    Map,
    TryLock,
    Unlock,
    ReadRecord(usize),
    WriteRecord(usize),
    IsAt,
    /// A call that a commit is not expected to make.
    Other(&'static str),
}

/// Records the calls that were made.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Call>>>);

impl Recorder {
    fn note(&self, call: Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    /// The calls recorded since the last time.
    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Watcher for Recorder {
    fn call<T>(&self, call: watched::Call<'_>, make: impl FnOnce() -> T) -> T {
        self.note(match call.what {
            "create" => Call::Create,
            "write" => Call::Write(call.bytes),
            "flush" => Call::Flush,
            "rename" => Call::Rename,
            "flush directory" => Call::FlushDir,
            "map" => Call::Map,
            "lock" => Call::TryLock,
            "unlock" => Call::Unlock,
            "read record" => Call::ReadRecord(call.bytes),
            "write record" => Call::WriteRecord(call.bytes),
            "look at lock" => Call::IsAt,
            // Closing is no call by itself: renaming a file closes it.
            "close" => return make(),
            other => Call::Other(other),
        });
        make()
    }
}

fn options(recorder: &Recorder) -> OpenOptions {
    OpenOptions::new().merge_policy(MergePolicy::OnDemand).vfs(Arc::new(Watched(recorder.clone())))
}

/// The calls of one commit: a handle's third, when nothing is new to the handle any more.
fn calls_of_a_commit(dir: &Path) -> Result<Vec<Call>, Box<dyn Error>> {
    let recorder = Recorder::default();
    let store = options(&recorder).create(dir.join("recorded"), StoreConfig::new(DIM))?;
    for number in 0..3 {
        recorder.take();
        store.append(&mut batch(number, ROWS, DIM)?, OnDuplicate::Error)?;
    }
    Ok(recorder.take())
}

/// Paths with which the calls are repeated.
struct Place {
    tmp: PathBuf,
    dir: PathBuf,
    lock: PathBuf,
    bytes: Vec<u8>,
}

impl Place {
    fn new(dir: &Path, calls: &[Call]) -> io::Result<Self> {
        let longest = calls.iter().map(|call| match call {
            Call::Write(len) | Call::WriteRecord(len) | Call::ReadRecord(len) => *len,
            _ => 0,
        });
        let place = Place {
            tmp: dir.join("again").join("tmp-commit-0123456789abcdef0123456789abcdef"),
            dir: dir.join("again"),
            lock: dir.join("LOCK"),
            bytes: vec![7; longest.max().unwrap_or_default()],
        };
        fs::create_dir(&place.dir)?;
        fs::write(&place.lock, [0; 256])?;
        Ok(place)
    }

    fn name(&self, number: usize) -> PathBuf {
        self.dir.join(format!("{number:010}-{number:010}.0.npy"))
    }

    fn part(&self, len: usize) -> &[u8] {
        self.bytes.get(..len).unwrap_or_default()
    }
}

fn unexpected(call: &Call) -> io::Error {
    io::Error::other(format!("a commit made a call that this benchmark does not know: {call:?}"))
}

/// Makes the calls as the library does: through the seam.
fn through_the_seam(vfs: &dyn Vfs, place: &Place, calls: &[Call], count: usize) -> io::Result<()> {
    let mut lock = vfs.open_lock(&place.lock, true)?;
    for number in 0..count {
        let name = place.name(number);
        let mut file = None;
        let mut buffer = [0; 256];
        for call in calls {
            match (call, &mut file) {
                (Call::Create, _) => file = Some(vfs.create_new(&place.tmp)?),
                (Call::Write(len), Some(file)) => file.write_all(place.part(*len))?,
                (Call::Flush, Some(file)) => file.flush()?,
                (Call::Rename, _) => {
                    file = None;
                    vfs.rename_noreplace(&place.tmp, &name)?;
                }
                (Call::FlushDir, _) => vfs.flush_dir(&place.dir)?,
                (Call::Map, _) => drop(black_box(vfs.map(&name)?)),
                (Call::TryLock, _) => drop(black_box(lock.try_lock()?)),
                (Call::Unlock, _) => lock.unlock()?,
                (Call::ReadRecord(_), _) => drop(black_box(lock.read_record(&mut buffer)?)),
                (Call::WriteRecord(len), _) => lock.write_record(place.part(*len))?,
                (Call::IsAt, _) => drop(black_box(lock.is_at(&place.lock)?)),
                (other, _) => return Err(unexpected(other)),
            }
        }
    }
    Ok(())
}

/// Makes the calls of the operating system directly: what the real file system behind the seam does, written
/// out.
fn directly(place: &Place, calls: &[Call], count: usize) -> io::Result<()> {
    let lock = File::options().read(true).write(true).create(true).truncate(false).open(&place.lock)?;
    for number in 0..count {
        let name = place.name(number);
        let mut file = None;
        let mut buffer = [0; 256];
        for call in calls {
            match (call, &mut file) {
                (Call::Create, _) => {
                    file = Some(File::options().write(true).create_new(true).open(&place.tmp)?);
                }
                (Call::Write(len), Some(file)) => file.write_all(place.part(*len))?,
                (Call::Flush, Some(file)) => file.sync_data()?,
                (Call::Rename, _) => {
                    file = None;
                    let at = rustix::fs::CWD;
                    rustix::fs::renameat_with(at, &place.tmp, at, &name, RenameFlags::NOREPLACE)?;
                }
                (Call::FlushDir, _) => File::open(&place.dir)?.sync_all()?,
                (Call::Map, _) => {
                    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                    let file = File::from(rustix::fs::open(&name, flags, Mode::empty())?);
                    let kind = file.metadata()?;
                    black_box((kind.is_dir(), kind.is_file(), file.metadata()?.len()));
                    // SAFETY: no other process uses the file, and it is not changed while it is mapped.
                    drop(black_box(unsafe { memmap2::Mmap::map(&file) }?));
                }
                (Call::TryLock, _) => drop(black_box(lock.try_lock().is_ok())),
                (Call::Unlock, _) => lock.unlock()?,
                (Call::ReadRecord(_), _) => drop(black_box(lock.read_at(&mut buffer, 0)?)),
                (Call::WriteRecord(len), _) => lock.write_all_at(place.part(*len), 0)?,
                (Call::IsAt, _) => {
                    let (mine, there) = (lock.metadata()?, fs::symlink_metadata(&place.lock)?);
                    black_box((mine.dev(), mine.ino()) == (there.dev(), there.ino()));
                }
                (other, _) => return Err(unexpected(other)),
            }
        }
    }
    Ok(())
}

/// A store to read from.
fn stored(recorder: &Recorder, dir: &Path) -> Result<Store, Box<dyn Error>> {
    let store = options(recorder).create(dir.join("stored"), StoreConfig::new(DIM))?;
    for number in 0..STORED {
        store.append(&mut batch(number, ROWS, DIM)?, OnDuplicate::Error)?;
    }
    Ok(store)
}

fn get(store: &Store, count: usize) -> Result<(), Box<dyn Error>> {
    let snapshot = store.snapshot();
    for number in 0..count {
        let entry = snapshot.get(key(number % (STORED * ROWS)))?.ok_or("a key is missing")?;
        black_box(entry.rows::<f32>()?);
    }
    Ok(())
}

fn scan(store: &Store, count: usize) -> Result<(), Box<dyn Error>> {
    let snapshot = store.snapshot();
    for _ in 0..count {
        for entry in snapshot.iter() {
            black_box(entry?.rows::<f32>()?);
        }
    }
    Ok(())
}

/// Prints which calls pass the seam.
fn tell_calls(dir: &Path, calls: &[Call]) -> Result<(), Box<dyn Error>> {
    println!("a commit: {calls:?}");
    let recorder = Recorder::default();
    let store = stored(&recorder, dir)?;
    recorder.take();
    get(&store, 1000)?;
    scan(&store, 10)?;
    store.snapshot().search(&[1.0; DIM], 10)?;
    store.snapshot().missing(&[key(0), key(1)])?;
    let passed = recorder.take();
    if !passed.is_empty() {
        return Err(format!("reading passes the seam: {passed:?}").into());
    }
    println!("1,000 lookups, 10 scans, a search, a list of missing keys: none");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let wrong = "usage: seam append|seam|direct|get|scan COUNT, or seam calls";
    let mut args = std::env::args().skip(1);
    let work = args.next().ok_or(wrong)?;
    let count: usize = args.next().map_or(Ok(0), |text| text.parse())?;
    let dir = folder()?;
    let dir = dir.path();
    let calls = calls_of_a_commit(dir)?;
    match work.as_str() {
        "append" => {
            let store = OpenOptions::new()
                .merge_policy(MergePolicy::OnDemand)
                .create(dir.join("store"), StoreConfig::new(DIM))?;
            // The same rows each time under other keys, so that making them does not count.
            let rows = vecstore_benches::Numbers::new(1).take(DIM);
            for number in 0..count {
                let mut batch = store.batch();
                for row in 0..ROWS {
                    batch.push(key(number * ROWS + row), &rows)?;
                }
                store.append(&mut batch, OnDuplicate::Error)?;
            }
        }
        "seam" => through_the_seam(black_box(&RealFs), &Place::new(dir, &calls)?, &calls, count)?,
        "direct" => directly(&Place::new(dir, &calls)?, &calls, count)?,
        "get" => get(&stored(&Recorder::default(), dir)?, count)?,
        "scan" => scan(&stored(&Recorder::default(), dir)?, count)?,
        "calls" => tell_calls(dir, &calls)?,
        _ => return Err(wrong.into()),
    }
    Ok(())
}
