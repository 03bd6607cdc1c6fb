//! Large files: whatever they claim and hold, reading them takes at most 64 MiB more memory than their size.

use std::path::Path;
use std::sync::Mutex;

use vecstore::{OnDuplicate, OpenOptions, StoreConfig};
use vecstore_fuzz::{Files, check, files, fix_manifest, most_beyond};

/// Memory is counted for the whole process, so that tests run one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Length of a manifest's header.
const HEADER: usize = 128;
/// Place in the body where the sequences of the seed store's manifest begin: behind store id, dimension,
/// element type, metric.
const SHAPE: usize = 16 + 4 + 1 + 1;

/// The seed store's manifest with `rest` in place of the body behind its shape.
fn manifest(rest: &[&[u8]]) -> Vec<u8> {
    let seed = &files()["MANIFEST"];
    fix_manifest(&[&seed[..HEADER + SHAPE], &rest.concat()].concat())
}

/// The parts of a manifest's body behind its shape, except two: bitmaps know no kill, and it is no backup.
struct Rest {
    fingerprint: Vec<u8>,
    settings: Vec<u8>,
    epochs: Vec<u8>,
    segments: Vec<u8>,
    derived: Vec<u8>,
    damaged: Vec<u8>,
    extra: Vec<u8>,
}

impl Rest {
    /// One epoch, and nothing else.
    fn new() -> Self {
        let empty = || number(0).to_vec();
        Rest {
            fingerprint: vec![0],
            settings: empty(),
            epochs: epochs(1),
            segments: empty(),
            derived: empty(),
            damaged: empty(),
            extra: empty(),
        }
    }

    fn manifest(&self) -> Vec<u8> {
        let Rest { fingerprint, settings, epochs, segments, derived, damaged, extra } = self;
        manifest(&[fingerprint, settings, epochs, segments, &number(0), derived, damaged, &[0], extra])
    }
}

fn number(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// A sequence of `count` elements, each made from its number.
fn sequence(count: u64, element: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = number(count).to_vec();
    (0..count).for_each(|at| bytes.extend(element(at)));
    bytes
}

/// Epochs that follow each other. None has a commit but the last.
fn epochs(count: u64) -> Vec<u8> {
    let id = |number: u64| u128::from(number).to_le_bytes();
    sequence(count, |at| [&id(at + 1)[..], &id(at), &number(1)].concat())
}

/// First and last commit of segment `at`, and its generation.
fn range(at: u64) -> Vec<u8> {
    [&number(at + 1)[..], &number(at + 1), &[0; 4]].concat()
}

/// Segments of one commit each.
fn segments(count: u64) -> Vec<u8> {
    sequence(count, |at| [&range(at)[..], &[0; 4 + 8 + 16 + 8 + 8]].concat())
}

/// A key filter of each of `count` segments.
fn derived(count: u64) -> Vec<u8> {
    sequence(count, |at| [&range(at)[..], b"KEYF", &[0; 4 + 4 + 8 + 8 + 8]].concat())
}

/// Records by name, each with `len` bytes. Settings are encoded in the same way.
fn records(count: u64, len: usize) -> Vec<u8> {
    sequence(count, |at| {
        let name = format!("{at:06x}");
        [&number(name.len() as u64)[..], name.as_bytes(), &number(len as u64), &vec![b'x'; len]].concat()
    })
}

/// Valid manifests of about the greatest length.
fn longest_manifests() -> Vec<(&'static str, Rest)> {
    vec![
        ("epochs", Rest { epochs: epochs(100_000), ..Rest::new() }),
        ("segments", Rest { segments: segments(65_000), ..Rest::new() }),
        ("derived files", Rest { segments: segments(34_000), derived: derived(34_000), ..Rest::new() }),
        (
            "damaged segments",
            Rest { segments: segments(49_000), damaged: sequence(49_000, range), ..Rest::new() },
        ),
        ("the most records", Rest { extra: records(1_024, 4_000), ..Rest::new() }),
    ]
}

/// Manifests of the greatest length, and longer ones, that claim or hold as much as they can.
fn hostile_manifests() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<(&'static str, Vec<u8>)> =
        longest_manifests().into_iter().map(|(what, rest)| (what, rest.manifest())).collect();
    // Longer than what is read at all.
    let long = [&all[1].1[..], &vec![0; 64 << 20]].concat();
    let text = |claims: u64| [number(claims).to_vec(), vec![b'x'; 1000]].concat();
    all.extend([
        ("records", Rest { extra: records(190_000, 0), ..Rest::new() }.manifest()),
        ("settings", Rest { settings: records(190_000, 0), ..Rest::new() }.manifest()),
        ("a long description", manifest(&[&[1], &[7; 32], &text(4 << 20)])),
        ("a description that lies", manifest(&[&[1], &[7; 32], &text(1 << 40), &vec![b'x'; 3 << 20]])),
        ("zeros", manifest(&[&vec![0; 3 << 20]])),
        ("ones", manifest(&[&vec![255; 3 << 20]])),
        ("64 MiB more", fix_manifest(&long)),
        ("64 MiB that claim 512", manifest(&[&[1], &[7; 32], &text(512 << 20), &vec![b'x'; 64 << 20]])),
    ]);
    all
}

/// The faults that `verify` finds in this manifest itself.
fn faults(manifest: &[u8]) -> Vec<String> {
    let path = std::env::temp_dir().join(format!("vecstore-fuzz-manifest-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(path.join("segments")).expect("a new directory");
    std::fs::write(path.join("MANIFEST"), manifest).expect("there is room");
    let report = vecstore::verify(&path).expect("it is a store");
    std::fs::remove_dir_all(&path).expect("it is ours");
    let of_manifest = report.faults.into_iter().filter(|fault| fault.section == "manifest");
    of_manifest.map(|fault| fault.detail).collect()
}

/// The manifests are laid out as `docs/FORMAT.md` says: they reach the code behind the checksum.
#[test]
fn the_longest_manifests_are_decoded() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (what, rest) in longest_manifests() {
        let manifest = rest.manifest();
        assert!((4_000_000..4 << 20).contains(&manifest.len()), "{what}: {} bytes", manifest.len());
        assert_eq!(faults(&manifest), [] as [&str; 0], "{what}");
    }
    for (what, manifest) in hostile_manifests().split_off(longest_manifests().len()) {
        let faults = faults(&manifest);
        let [fault] = &faults[..] else { panic!("{what}: {faults:?}") };
        assert!(!fault.contains("checksum"), "{what}: {fault}");
    }
}

#[test]
fn hostile_manifests_take_little_memory() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (what, bytes) in hostile_manifests() {
        assert!(bytes.len() > 1000);
        let mut store = files();
        store.insert("MANIFEST".to_owned(), bytes);
        most_beyond();
        check(&store);
        println!("fuzz memory, {what}: {} bytes beyond the files", most_beyond());
    }
}

/// Versions are read together, so that their memory adds up.
#[test]
fn many_large_versions_take_little_memory() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut store = files();
    for (number, (_, bytes)) in hostile_manifests().into_iter().take(5).cycle().take(15).enumerate() {
        store.insert(format!("versions/large{number}"), bytes);
    }
    most_beyond();
    check(&store);
    println!("fuzz memory, 15 versions: {} bytes beyond the files", most_beyond());
}

/// The number of entries is large enough for memory kept per entry to show.
#[test]
fn segments_with_many_entries_take_little_memory() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (what, store) in [("entries", many(1)), ("replaced entries", many(2))] {
        most_beyond();
        check(&store);
        println!("fuzz memory, {what}: {} bytes beyond the files", most_beyond());
    }
}

/// A store with a million short entries, appended `times` times.
fn many(times: usize) -> Files {
    let path = std::env::temp_dir().join(format!("vecstore-fuzz-memory-{}-{times}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let store = OpenOptions::new().create(&path, StoreConfig::new(1)).expect("a new store");
    let manifest = std::fs::read(Path::new(&path).join("MANIFEST")).expect("it was made");
    for _ in 0..times {
        let mut batch = store.batch();
        for key in 0..1_000_000 {
            batch.push_empty(format!("{key:x}")).expect("a good entry");
        }
        store.append(&mut batch, OnDuplicate::Replace).expect("there is room");
    }
    drop(store);
    let mut files = vecstore_fuzz::read(&path);
    files.retain(|name, _| name.starts_with("segments/"));
    files.insert("MANIFEST".to_owned(), manifest);
    std::fs::remove_dir_all(&path).expect("it is ours");
    files
}
