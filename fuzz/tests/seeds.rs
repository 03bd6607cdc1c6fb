//! The seeds, and random changes of them, as ordinary tests: no fuzzer is needed.
//!
//! `VECSTORE_FUZZ_MUTATIONS` is the number of changes per target (3,000 unless set).

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use vecstore::{Fingerprint, OnDuplicate, Store, StoreConfig};

/// Counts what is allocated at any moment, and the most there ever was.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above; the pointer is from System.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Memory is counted for the whole process: one test at a time.
static ONE: Mutex<()> = Mutex::new(());

/// What a check may take beyond the bytes it was given.
const ALLOWED: usize = 64 << 20;

struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }

    /// Changes one to four places: a bit, a byte, an interesting number, a cut, a piece moved elsewhere.
    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            // Half of the changes go to the last 1100 bytes, where the footer is.
            let len = bytes.len().max(1);
            let at = if self.below(2) == 0 { self.below(len) } else { len - 1 - self.below(len.min(1100)) };
            match self.below(8) {
                0..=2 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                3 if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                4 | 5 => {
                    let numbers =
                        [0, 1, 2, 0x7F, 0xFF, 0x1_0000, 1 << 31, u64::from(u32::MAX), 1 << 63, u64::MAX];
                    let number = numbers[self.below(numbers.len())].to_le_bytes();
                    let width = [1, 2, 4, 8][self.below(4)];
                    let at = at & !(width - 1);
                    bytes.iter_mut().skip(at).zip(&number[..width]).for_each(|(to, from)| *to = *from);
                }
                6 => bytes.truncate(at),
                _ => {
                    let from = self.below(len);
                    let piece: Vec<u8> = bytes.iter().skip(from).take(self.below(64)).copied().collect();
                    let at = at.min(bytes.len());
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }
}

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target)
}

fn target(name: &str, check: fn(&[u8])) {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut seeds: Vec<PathBuf> =
        fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    let mutations: usize =
        std::env::var("VECSTORE_FUZZ_MUTATIONS").map_or(3_000, |text| text.parse().expect("a number"));
    let mut most = 0;
    let mut run = |what: &str, bytes: &[u8]| {
        let before = NOW.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        if catch_unwind(AssertUnwindSafe(|| check(bytes))).is_err() {
            let path = std::env::temp_dir().join(format!("vecstore-fuzz-{name}"));
            fs::write(&path, bytes).unwrap();
            panic!("{what}: see above; the input is in {}", path.display());
        }
        let took = MOST.load(Ordering::Relaxed).saturating_sub(before);
        assert!(took <= ALLOWED + bytes.len(), "{what}: took {took} bytes of memory");
        most = most.max(took);
    };
    for seed in &seeds {
        let bytes = fs::read(seed).unwrap();
        run(&seed.display().to_string(), &bytes);
        let mut rng = Rng(1);
        for number in 0..mutations.div_ceil(seeds.len()) {
            run(&format!("{}, change {number}", seed.display()), &rng.mutate(&bytes));
        }
    }
    println!("fuzz {name}: {} seeds, {mutations} changes, at most {most} bytes of memory", seeds.len());
}

#[test]
fn manifest() {
    target("manifest", vecstore_fuzz::manifest);
}

#[test]
fn segment() {
    target("segment", vecstore_fuzz::segment);
}

#[test]
fn store_dir() {
    target("store_dir", vecstore_fuzz::store_dir);
}

/// The store that everything starts from is whole, and putting its checksums right changes nothing.
#[test]
fn the_seed_store_is_whole() {
    let report = vecstore::verify(folder("store"), |_| {}).unwrap();
    assert!(report.is_whole(), "{:?}; make the seeds again, see README.md", report.faults);
    assert_eq!(report.last_commit, 4);
    for (name, bytes) in vecstore_fuzz::files() {
        let fixed = if name == "MANIFEST" {
            vecstore_fuzz::fix_manifest(&bytes)
        } else {
            vecstore_fuzz::fix_segment(&bytes)
        };
        assert_eq!(fixed, bytes, "{name}");
    }
    // A checksum that is wrong is put right.
    let (_, good) = vecstore_fuzz::FILES[1];
    let mut bad = good.to_vec();
    bad[4100] ^= 1;
    let fixed = vecstore_fuzz::fix_segment(&bad);
    assert_eq!(fixed[4100], bad[4100]);
    assert_ne!(fixed[fixed.len() - 4..], good[good.len() - 4..]);
}

/// Makes the seeds again, after a change of the format; see README.md.
#[test]
#[ignore = "writes the seeds"]
fn make_seeds() {
    for name in ["store", "manifest", "segment", "store_dir"] {
        let _ = fs::remove_dir_all(folder(name));
        fs::create_dir_all(folder(name)).unwrap();
    }
    let path = folder("store");
    while !make_store(&path) {}
    fs::write(folder("manifest").join("one-segment"), fs::read(path.join("MANIFEST")).unwrap()).unwrap();
    for (number, name) in vecstore_fuzz::FILES.iter().skip(1).map(|(name, _)| name).enumerate() {
        let mut seed = vec![number as u8];
        seed.extend(fs::read(path.join("segments").join(name)).unwrap());
        fs::write(folder("segment").join(name), seed).unwrap();
    }
    // A manifest that lists every segment; the store keeps the one that lists the first only.
    let first = fs::read(path.join("MANIFEST")).unwrap();
    Store::open(&path).unwrap().checkpoint().unwrap();
    fs::copy(path.join("MANIFEST"), folder("manifest").join("all-segments")).unwrap();
    fs::write(path.join("MANIFEST"), first).unwrap();
    for lock in ["LOCK", "LOCK.manifest"] {
        fs::remove_file(path.join(lock)).unwrap();
    }
    let edits: [(&str, &[u8]); 5] = [
        ("nothing", &[]),
        ("overwrite", &[1, 0, 0x84, 0x00, 4, 1, 2, 3, 4, 1, 7, 0, 0, 0]),
        ("without-manifest", &[0, 4, 0, 0, 0]),
        ("renamed", &[3, 5, 0, 0, 2, 3, 3]),
        ("copied-and-cut", &[2, 6, 0, 0, 2, 5, 5, 3, 2, 0x80, 9, 0]),
    ];
    for (name, bytes) in edits {
        fs::write(folder("store_dir").join(name), bytes).unwrap();
    }
}

/// Makes the store; says whether two threads shared a file, as commits 3 and 4 of the seeds do.
fn make_store(path: &Path) -> bool {
    let _ = fs::remove_dir_all(path);
    let store = Store::create(path, StoreConfig::new(2).setting("root", "/pictures")).unwrap();
    let mut batch = store.batch();
    batch.push_with_payload("a", &[1.0f32, 2.0, 3.0, 4.0], b"payload").unwrap();
    batch.push_empty("b", b"").unwrap();
    batch.push_rejected("c", "truncated").unwrap();
    store.append(batch, OnDuplicate::Skip).unwrap();
    store.set_fingerprint(&Fingerprint::new([7; 32], "a model")).unwrap();
    store.checkpoint().unwrap();
    let mut batch = store.batch();
    batch.push("a", &[5.0f32, 6.0]).unwrap();
    batch.delete("b").unwrap();
    store.append(batch, OnDuplicate::Replace).unwrap();
    let manifest = fs::read(path.join("MANIFEST")).unwrap();
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        for key in ["d", "e"] {
            let (store, start) = (&store, &start);
            scope.spawn(move || {
                let mut batch = store.batch();
                batch.push(key, &[7.0f32, 8.0]).unwrap();
                start.wait();
                store.append(batch, OnDuplicate::Skip).unwrap();
            });
        }
    });
    store.close().unwrap();
    fs::write(path.join("MANIFEST"), manifest).unwrap();
    path.join("segments").join(vecstore_fuzz::FILES[3].0).exists()
}
