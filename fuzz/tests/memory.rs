//! Large files: what they claim, and what they hold, takes no more memory than their size and 64 MiB.

use std::path::Path;
use std::sync::Mutex;

use vecstore::{OnDuplicate, OpenOptions, StoreConfig};
use vecstore_fuzz::{Files, check, files, fix_manifest, most_beyond};

/// Memory is counted for the whole process: one test at a time.
static ONE: Mutex<()> = Mutex::new(());

const HEADER: usize = 64;
/// Where the sequences of the seed store's manifest begin: store id, dimension, element type, metric.
const SHAPE: usize = 16 + 4 + 1 + 1;

/// A manifest like that of the seed store, with another body after its shape.
fn manifest(rest: &[&[u8]]) -> Vec<u8> {
    let seed = &files()["MANIFEST"];
    fix_manifest(&[&seed[..HEADER + SHAPE], &rest.concat()].concat())
}

fn number(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// So many elements, each made of its number.
fn sequence(count: u64, element: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = number(count).to_vec();
    (0..count).for_each(|at| bytes.extend(element(at)));
    bytes
}

/// As long as a manifest may be, and longer: each claims or holds as much as it can.
fn hostile_manifests() -> Vec<(&'static str, Vec<u8>)> {
    let (none, empty): (&[u8], &[u8]) = (&[0], &[0; 8]);
    let one_epoch = sequence(1, |_| [[1; 16].to_vec(), vec![0; 16], number(1).to_vec()].concat());
    let epochs = sequence(100_000, |at| [[at as u8; 16].to_vec(), vec![0; 16], number(1).to_vec()].concat());
    let segments =
        sequence(85_000, |at| [number(at + 1), number(at + 1)].concat().into_iter().chain([0; 32]).collect());
    let records = sequence(200_000, |at| {
        let name = format!("{at:x}");
        [&number(name.len() as u64)[..], name.as_bytes(), &[0; 8]].concat()
    });
    let text = |claims: u64| [number(claims).to_vec(), vec![b'x'; 1000]].concat();
    let mut all = vec![
        ("epochs", manifest(&[none, empty, &epochs, empty, empty])),
        ("segments", manifest(&[none, empty, &one_epoch, &segments, empty])),
        ("records", manifest(&[none, empty, &one_epoch, empty, &records])),
        ("settings", manifest(&[none, &records, &one_epoch, empty, empty])),
        ("a long description", manifest(&[&[1], &[7; 32], &text(4 << 20)])),
        ("a description that lies", manifest(&[&[1], &[7; 32], &text(1 << 40), &vec![b'x'; 3 << 20]])),
        ("zeros", manifest(&[&vec![0; 3 << 20]])),
        ("ones", manifest(&[&vec![255; 3 << 20]])),
    ];
    // Beyond what is read at all.
    let bytes = [&all[1].1[..], &vec![0; 64 << 20]].concat();
    all.push(("64 MiB more", fix_manifest(&bytes)));
    all.push(("64 MiB that claim 512", manifest(&[&[1], &[7; 32], &text(512 << 20), &vec![b'x'; 64 << 20]])));
    all
}

#[test]
fn manifests_that_claim_or_hold_much() {
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

/// Versions are looked at together.
#[test]
fn many_large_checkpoints() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut store = files();
    for (number, (_, bytes)) in hostile_manifests().into_iter().take(5).cycle().take(15).enumerate() {
        store.insert(format!("versions/large{number}"), bytes);
    }
    most_beyond();
    check(&store);
    println!("fuzz memory, 15 checkpoints: {} bytes beyond the files", most_beyond());
}

/// A store with so many entries that whatever is kept for each of them shows.
#[test]
fn segments_with_many_entries() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (what, store) in [("entries", many(1)), ("replaced entries", many(2))] {
        most_beyond();
        check(&store);
        println!("fuzz memory, {what}: {} bytes beyond the files", most_beyond());
    }
}

/// A million short entries, appended so many times.
fn many(times: usize) -> Files {
    let path = std::env::temp_dir().join(format!("vecstore-fuzz-memory-{}-{times}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let store = OpenOptions::new().create(&path, StoreConfig::new(1)).expect("a new store");
    let manifest = std::fs::read(Path::new(&path).join("MANIFEST")).expect("it was made");
    for _ in 0..times {
        let mut batch = store.batch();
        for key in 0..1_000_000 {
            batch.push_empty(format!("{key:x}"), b"").expect("a good entry");
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
