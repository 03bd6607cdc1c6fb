//! The seeds and random changes of them, as ordinary tests that need no fuzzer.
//!
//! `VECSTORE_FUZZ_MUTATIONS` is the number of changes per target.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Barrier, Mutex};

use vecstore::{Fingerprint, OnDuplicate, Store, StoreConfig};
use vecstore_fuzz::{Files, TARGETS, fix_derived, fix_manifest, fix_segment, folder, most_beyond};

/// Memory is counted for the whole process, so that tests run one at a time.
static ONE: Mutex<()> = Mutex::new(());

struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }

    /// Changes one to four places: a bit, a byte, a number at a limit, a cut, a piece moved elsewhere.
    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            // Half of the changes are in the last 1700 bytes, where section table and footer are.
            let len = bytes.len().max(1);
            let at = if self.below(2) == 0 { self.below(len) } else { len - 1 - self.below(len.min(1700)) };
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

/// Runs the seeds of a target and `mutations` changes of them, or as many as the environment asks for.
fn target(name: &str, mutations: usize) {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (_, check) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let mut seeds: Vec<PathBuf> =
        fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    let mutations: usize =
        std::env::var("VECSTORE_FUZZ_MUTATIONS").map_or(mutations, |text| text.parse().expect("a number"));
    most_beyond();
    let run = |what: &str, bytes: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| check(bytes))).is_err() {
            let path = std::env::temp_dir().join(format!("vecstore-fuzz-{name}"));
            fs::write(&path, bytes).unwrap();
            panic!("{what}: see above; the input is in {}", path.display());
        }
    };
    for seed in &seeds {
        let bytes = fs::read(seed).unwrap();
        run(&seed.display().to_string(), &bytes);
        let mut rng = Rng(1);
        for number in 0..mutations.div_ceil(seeds.len()) {
            run(&format!("{}, change {number}", seed.display()), &rng.mutate(&bytes));
        }
    }
    println!(
        "fuzz {name}: {} seeds, {mutations} changes, at most {} bytes of memory beyond the files",
        seeds.len(),
        most_beyond()
    );
}

#[test]
fn manifest() {
    target("manifest", 2_000);
}

#[test]
fn segment() {
    target("segment", 2_000);
}

#[test]
fn store_dir() {
    target("store_dir", 2_000);
}

#[test]
fn npy() {
    target("npy", 1_000);
}

#[test]
fn operations() {
    target("operations", 1_000);
}

/// The seed store is whole, and correcting its checksums changes nothing.
#[test]
fn the_seed_store_is_whole() {
    let report = vecstore::verify(folder("store")).unwrap();
    assert!(report.is_whole(), "{:?}; make the seeds again, see README.md", report.faults);
    assert_eq!(report.last_commit, 5);
    let files = vecstore_fuzz::files();
    assert_eq!(files.len(), 7, "{:?}", files.keys());
    for (name, bytes) in &files {
        let fix = match name.rsplit('.').next() {
            Some("npy") => fix_segment,
            Some("live") => fix_derived,
            _ => fix_manifest,
        };
        assert_eq!(fix(bytes), *bytes, "{name}");
        // A changed byte stays, and the checksum is corrected: it is at the end of a segment, and in front in
        // other files.
        let mut bad = bytes.clone();
        let (changed, checksum) = match name.ends_with(".npy") {
            true => (4000, bytes.len() - 4),
            false => (265, if name.ends_with(".live") { 252 } else { 124 }),
        };
        bad[changed] ^= 1;
        let fixed = fix(&bad);
        assert_eq!(fixed[changed], bad[changed], "{name}");
        assert_ne!(fixed[checksum..checksum + 4], bytes[checksum..checksum + 4], "{name}");
    }
}

/// Makes the seeds again, after a change of the format; see README.md.
#[test]
#[ignore = "writes the seeds"]
fn make_seeds() {
    for (name, _) in TARGETS {
        fs::create_dir_all(folder(name)).unwrap();
    }
    let path = std::env::temp_dir().join(format!("vecstore-fuzz-seeds-{}", std::process::id()));
    let files = loop {
        if let Some(files) = make_store(&path) {
            break files;
        }
    };
    let _ = fs::remove_dir_all(folder("store"));
    write(&files, &folder("store"));
    let seed = |target: &str, name: &str, bytes: &[u8]| fs::write(folder(target).join(name), bytes).unwrap();
    seed("manifest", "two-segments", &files["MANIFEST"]);
    seed("manifest", "one-segment", &files["versions/v1"]);
    // A manifest that lists every segment; the seed store's own lists only the first two.
    Store::open(&path).unwrap().close().unwrap();
    let all = &vecstore_fuzz::read(&path)["MANIFEST"];
    seed("manifest", "all-segments", all);
    // Lists another generation of the third segment: the file is missing, and that of generation 0 stands in
    // for it.
    let mut missing = all.clone();
    let record = [3u64.to_le_bytes(), 3u64.to_le_bytes()].concat();
    let at = all.windows(16).position(|bytes| bytes == record).expect("it is listed");
    missing[at + 16] = 7;
    seed("manifest", "listed-and-missing", &fix_manifest(&missing));
    fs::remove_dir_all(&path).unwrap();
    for (number, name) in files.keys().filter(|name| name.starts_with("segments/")).enumerate() {
        seed("segment", name.rsplit('/').next().unwrap(), &[&[number as u8][..], &files[name]].concat());
    }
    // Faults first found in files of an older format, and faults in short tables.
    let first = |tag: &[u8; 4], file: &[u8]| {
        let line = file.windows(4).rposition(|four| four == tag).expect("a line of the section table");
        let mut offset = [0; 8];
        offset.copy_from_slice(&file[line + 8..line + 16]);
        (line, usize::try_from(u64::from_le_bytes(offset)).expect("a small file"))
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let changes: [(&str, Change<'_>); 6] = [
        ("kill-of-another-row", &|file| {
            let (_, kills) = first(b"KILL", file);
            file[kills + 24] = 1;
        }),
        ("kill-of-another-row-and-runs-outside", &|file| {
            let (_, kills) = first(b"KILL", file);
            let (_, runs) = first(b"RUNS", file);
            file[kills + 24] = 1;
            file[runs + 16] = 0xFF;
        }),
        ("kill-of-another-row-and-sections-outside", &|file| {
            let (_, kills) = first(b"KILL", file);
            let (line, _) = first(b"HENT", file);
            file[kills + 24] = 1;
            file[line + 20] = 1;
        }),
        ("kill-of-commits-to-come", &|file| {
            let (_, kills) = first(b"KILL", file);
            file[kills + 8] = 9;
        }),
        ("attributes-of-another-type", &|file| {
            let (_, attributes) = first(b"ATTR", file);
            file[attributes + 8 + 8] = 4;
        }),
        ("a-section-that-merges-refuse", &|file| {
            let (line, _) = first(b"NORM", file);
            file[line..line + 8].copy_from_slice(b"LATE\x02\x00\x00\x06");
        }),
    ];
    for (name, change) in changes {
        let mut file = files["segments/0000000003-0000000003.0.npy"].clone();
        change(&mut file);
        seed("segment", name, &[&[2][..], &fix_segment(&file)].concat());
    }
    // Edits name files by their place in ascending order: MANIFEST, bitmap, four segments, version.
    let edits: [(&str, &[u8]); 10] = [
        ("nothing", &[]),
        ("overwrite", &[2, 0, 0x86, 0x00, 4, 1, 2, 3, 4, 2, 7, 0, 0, 0]),
        ("without-manifest", &[0, 4, 0, 0, 0]),
        ("renamed", &[5, 5, 0, 0, 2, 3, 3]),
        ("copied-and-cut", &[4, 6, 0, 0, 2, 6, 6, 5, 2, 0x80, 9, 0]),
        ("bitmap", &[1, 0, 1, 0, 1, 255, 1, 7, 0, 0, 0]),
        ("old-manifest", &[6, 6, 0, 0, 3, 1, 1, 0]),
        ("version", &[6, 0, 0, 134, 2, 1, 1, 6, 7, 0, 0, 0]),
        ("manifest-and-a-versions-bitmap-gone", &[0, 4, 0, 0, 0, 0, 4, 0, 0, 0]),
        (
            "version-beyond-segments",
            &[0, 4, 0, 0, 0, 1, 4, 0, 0, 0, 1, 4, 0, 0, 0, 1, 4, 0, 0, 0, 1, 4, 0, 0, 0],
        ),
    ];
    edits.iter().for_each(|(name, bytes)| seed("store_dir", name, bytes));
    let headers: [(&str, &[u8]); 6] = [
        ("unchanged", &[0, 3, 4, 2]),
        (
            "other-shape",
            b"\x00\x03\x04\x02\x93NUMPY\x01\x00\xf6\x0f\
              {'descr': '<f4', 'fortran_order': False, 'shape': (9, 5), }",
        ),
        (
            "fortran",
            b"\x01\x03\x04\x02\x93NUMPY\x01\x00\xf6\x0f\
              {'descr': '<f2', 'fortran_order': True, 'shape': (3, 5), }",
        ),
        (
            "version-2",
            b"\x02\x03\x04\x02\x93NUMPY\x02\x00\xf4\x0f\x00\x00\
              {'descr': '<u2', 'fortran_order': False, 'shape': (3, 5), }",
        ),
        ("a-byte", &[3, 39, 23, 3, 0, 20, b'8']),
        ("checksum", &[3, 0, 0, 1, 0, 20, b'8']),
    ];
    headers.iter().for_each(|(name, bytes)| seed("npy", name, bytes));
    trials().iter().for_each(|(name, acts)| seed("operations", name, &acts.concat()));
}

/// Seeds of operations: each act has eight bytes, see `vecstore/tests/sim/act.rs`.
fn trials() -> Vec<(&'static str, Vec<[u8; 8]>)> {
    let write = |handle: u8, policy: u8, keys: [u8; 4]| {
        [0, handle, policy, 3, 0x30 | keys[0], 0x50 | keys[1], 0x60 | keys[2], 0x70 | keys[3]]
    };
    let delete = |handle: u8, key: u8| [0, handle, 0, 0, key, 0, 0, 0];
    let operation = |handle: u8, number: u8| [10, handle, number, 0, 0, 0, 0, 0];
    let restored = |number: u8| [17, 0, number, 0, 0, 0, 0, 0];
    let fault = |handle: u8, after: u8, errno: u8, lasting: u8| [23, handle, after, errno, lasting, 0, 0, 0];
    let kill = |handle: u8, after: u8| [28, handle, after, 0, 0, 0, 0, 0];
    let cut = |back: u8, fates: u8| [31, back, fates, 7, 0, 0, 0, 0];
    let meanwhile = |handle: u8, outer: u8, inner: u8, after: u8| [19, handle, outer, inner, after, 0, 0, 0];
    let (merge, full_merge, name, drop_name, backup, dated, close) = (8, 9, 10, 11, 12, 13, 14);
    let begin =
        [write(0, 1, [0, 1, 2, 3]), write(2, 0, [3, 4, 5, 6]), delete(1, 2), write(3, 2, [7, 8, 9, 10])];
    let then = |rest: &[[u8; 8]]| [&begin[..], rest].concat();
    vec![
        (
            "plain",
            then(&[
                [21, 0, 0, 0, 0, 0, 0, 0],
                operation(0, close),
                operation(0, 15),
                [22; 8],
                write(0, 2, [0; 4]),
            ]),
        ),
        (
            "merges",
            then(&[operation(0, merge), write(2, 1, [0, 1, 2, 3]), operation(3, full_merge), delete(0, 0)]),
        ),
        (
            "versions",
            then(&[
                operation(0, name),
                operation(1, backup),
                delete(2, 1),
                operation(2, dated),
                operation(3, full_merge),
                operation(0, drop_name),
                operation(0, backup),
                restored(0),
                restored(1),
                restored(6),
            ]),
        ),
        (
            "fault-once",
            then(&[fault(0, 9, 0, 0), write(0, 1, [0, 1, 2, 3]), write(1, 1, [4, 5, 6, 7]), cut(3, 2)]),
        ),
        (
            "fault-lasting",
            then(&[
                fault(2, 30, 1, 1),
                operation(2, full_merge),
                operation(2, backup),
                write(2, 1, [0; 4]),
                [26; 8],
            ]),
        ),
        (
            "full",
            then(&[
                [27, 0, 100, 0, 0, 0, 0, 0],
                write(0, 1, [0, 1, 2, 3]),
                operation(1, backup),
                delete(2, 0),
            ]),
        ),
        (
            "kill",
            then(&[
                kill(0, 12),
                write(0, 1, [0, 1, 2, 3]),
                write(2, 0, [4, 5, 6, 7]),
                kill(2, 20),
                operation(2, merge),
                write(0, 1, [1; 4]),
            ]),
        ),
        (
            "power-cuts",
            then(&[
                cut(9, 3),
                write(0, 1, [0, 1, 2, 3]),
                operation(0, name),
                cut(30, 5),
                operation(0, full_merge),
                cut(2, 1),
            ]),
        ),
        (
            "interleaved",
            then(&[
                meanwhile(0, 0, 1, 9),
                meanwhile(2, full_merge, 0, 40),
                meanwhile(1, backup, 3, 30),
                cut(5, 4),
            ]),
        ),
        (
            "on-top-of-each-other",
            then(&[
                fault(0, 14, 0, 0),
                write(0, 1, [0, 1, 2, 3]),
                kill(2, 3),
                write(2, 1, [0; 4]),
                cut(4, 6),
                fault(0, 4, 0, 0),
                write(0, 1, [9; 4]),
                cut(1, 0),
            ]),
        ),
    ]
}

fn write(files: &Files, to: &Path) {
    for (name, bytes) in files {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Makes the seed store and reads its files. `None` unless two threads shared a segment, as commits 4 and 5
/// of the seeds do.
fn make_store(path: &Path) -> Option<Files> {
    let _ = fs::remove_dir_all(path);
    let store = Store::create(path, StoreConfig::new(2).setting("root", "/pictures")).unwrap();
    let mut batch = store.batch();
    batch.entry("a").rows([[1.0f32, 2.0], [3.0, 4.0]]).payload(b"payload").push().unwrap();
    batch.push_empty("b").unwrap();
    batch.push_rejected("c", "truncated").unwrap();
    store.append(&mut batch, OnDuplicate::Skip).unwrap();
    store.set_fingerprint(&Fingerprint::new([7; 32], "a model")).unwrap();
    store.create_version("v1").unwrap();
    let replace = |rows: &[[f32; 2]], key: &str| {
        let mut batch = store.batch();
        let entry = batch.entry("a").rows(rows).attribute("year", 2024).attribute("tags", vec!["x", "yy"]);
        entry.attribute("place", "here").attribute("sharp", true).push().unwrap();
        batch.delete(key).unwrap();
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    };
    replace(&[[5.0, 6.0]], "b");
    // The checkpoint writes a bitmap of the entries that the second segment supersedes.
    store.checkpoint().unwrap();
    let checkpointed = vecstore_fuzz::read(path);
    replace(&[[7.0, 8.0], [9.0, 10.0]], "c");
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        for key in ["d", "e"] {
            let (store, start) = (&store, &start);
            scope.spawn(move || {
                let mut batch = store.batch();
                batch.push(key, &[7.0f32, 8.0]).unwrap();
                start.wait();
                store.append(&mut batch, OnDuplicate::Skip).unwrap();
            });
        }
    });
    store.close().unwrap();
    let mut files = vecstore_fuzz::read(path);
    files.retain(|name, _| !name.starts_with("derived/"));
    files.extend(checkpointed);
    files.contains_key("segments/0000000004-0000000005.0.npy").then_some(files)
}
