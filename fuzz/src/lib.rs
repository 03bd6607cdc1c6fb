//! What the fuzz targets check, as plain functions of bytes: files made by an enemy give an error or a right answer,
//! never a panic, and never more memory than the files justify.
//!
//! A file that only fails its checksum teaches little: [`manifest`] and [`segment`] put every checksum right first,
//! so that the bytes reach what lies behind them.

mod checksums;
#[path = "../../vecstore/tests/sim/mod.rs"]
mod sim;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use sim::run::{STORE, options};
use sim::{Node, SimFs};
use vecstore::{Error, OnDuplicate, Store};

pub use checksums::{fix_manifest, fix_segment};

/// The store that the targets change: name and bytes of its files, as `seeds/store` holds them.
pub const FILES: [(&str, &[u8]); 4] = [
    ("MANIFEST", include_bytes!("../seeds/store/MANIFEST")),
    ("0000000001-0000000001.0.npy", include_bytes!("../seeds/store/segments/0000000001-0000000001.0.npy")),
    ("0000000002-0000000002.0.npy", include_bytes!("../seeds/store/segments/0000000002-0000000002.0.npy")),
    ("0000000003-0000000004.0.npy", include_bytes!("../seeds/store/segments/0000000003-0000000004.0.npy")),
];

/// Files of a store by name; all but the manifest lie in `segments/`.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The unchanged store.
pub fn files() -> Files {
    FILES.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect()
}

/// The bytes as a manifest of the store, checksum and length put right.
pub fn manifest(data: &[u8]) {
    let mut files = files();
    files.insert(FILES[0].0.to_owned(), fix_manifest(data));
    check(&files);
}

/// The first byte says which segment of the store the others replace, all checksums put right.
pub fn segment(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    let mut files = files();
    files.insert(FILES[1 + usize::from(*which) % 3].0.to_owned(), fix_segment(bytes));
    check(&files);
}

/// The bytes are edits to the store's directory: files overwritten, cut, extended, removed, renamed, copied.
pub fn store_dir(data: &[u8]) {
    let mut files = files();
    let mut rest = data;
    for _ in 0..16 {
        let Some(([which, action, high, low, len], after)) = rest.split_first_chunk::<5>() else { break };
        let (bytes, after) = after.split_at(after.len().min(usize::from(*len)));
        rest = after;
        let Some(name) = files.keys().nth(usize::from(*which) % files.len().max(1)).cloned() else { break };
        let Some(mut file) = files.remove(&name) else { break };
        // Positions count from the end in the upper half: that is where tables and footer are.
        let at = usize::from(u16::from_be_bytes([*high & 0x7F, *low])).min(file.len());
        let at = if *high & 0x80 == 0 { at } else { file.len() - at };
        match action % 8 {
            0 | 1 => {
                for (to, from) in file.iter_mut().skip(at).zip(bytes) {
                    *to = *from;
                }
            }
            2 => file.truncate(at),
            3 => {
                file.splice(at..at, bytes.iter().copied());
            }
            4 => continue,
            5 | 6 => {
                let other = match bytes.first() {
                    Some(first) => {
                        format!("{first:010}-{:010}.{}.npy", bytes.last().unwrap_or(first), action / 64)
                    }
                    None => "LOCK".to_owned(),
                };
                if action % 8 == 6 {
                    files.insert(name.clone(), file.clone());
                }
                files.insert(other, file);
                continue;
            }
            _ if name == "MANIFEST" => file = fix_manifest(&file),
            _ => file = fix_segment(&file),
        }
        files.insert(name, file);
    }
    check(&files);
}

/// A simulated disk with these files.
fn disk(files: &Files) -> SimFs {
    // Numbers of nodes: the root, its directory, the store, its segments; then files.
    let mut nodes = vec![
        Node::Dir(BTreeMap::from([(OsString::from("d"), 1)])),
        Node::Dir(BTreeMap::from([(OsString::from("s"), 2)])),
    ];
    let mut store = BTreeMap::from([(OsString::from("segments"), 3)]);
    let mut segments = BTreeMap::new();
    for (number, name) in (4..).zip(files.keys()) {
        let place = if name.ends_with(".npy") { &mut segments } else { &mut store };
        place.insert(OsString::from(name), number);
    }
    nodes.extend([Node::Dir(store), Node::Dir(segments)]);
    nodes.extend(files.values().map(|bytes| Node::File(Arc::new(bytes.clone()))));
    SimFs::from_image(nodes)
}

/// Verifies, reads, appends and repairs. What `verify` calls whole must be readable without an error.
pub fn check(files: &Files) {
    let fs = disk(files);
    let whole = vecstore::verify_with(&fs, Path::new(STORE), |_| {}).is_ok_and(|report| report.is_whole());
    let read = options(&fs).read_only(true).open(STORE).and_then(|store| read_everything(&store));
    if let (true, Err(error)) = (whole, &read) {
        panic!("verify calls this whole, and reading it fails: {error}");
    }
    assert_eq!(fs.changes(), 0, "verifying and reading change nothing");

    let appended = options(&fs).open(STORE).and_then(|store| {
        let mut batch = store.batch();
        batch.push_empty("appended by the check", b"")?;
        store.append(batch, OnDuplicate::Replace)
    });
    if whole {
        if let Err(error) = &appended {
            // Flags that forbid writing are valid ones.
            let may = matches!(error, Error::UnsupportedVersion { .. });
            assert!(may, "verify calls this whole, and appending fails: {error}");
        }
        let report = vecstore::verify_with(&fs, Path::new(STORE), |_| {}).expect("it was a store before");
        assert!(report.is_whole(), "after one more append: {:?}", report.faults);
    }

    let fs = disk(files);
    let repaired = vecstore::repair_with(&fs, Path::new(STORE));
    if repaired.is_ok_and(|report| report.rebuilt) {
        let opened = options(&fs).read_only(true).open(STORE);
        assert!(opened.is_ok(), "repaired, and opening fails: {opened:?}");
    }
}

/// Everything that reading can ask for.
fn read_everything(store: &Store) -> Result<(), Error> {
    let snapshot = store.snapshot();
    let mut keys: Vec<Vec<u8>> = vec![b"never stored".to_vec()];
    for entry in snapshot.iter() {
        let entry = entry?;
        entry.to_f32()?;
        let (_payload, _reason) = (entry.payload(), entry.reason());
        snapshot.at(entry.address())?;
        snapshot.get(entry.key())?;
        keys.push(entry.key().to_vec());
    }
    snapshot.missing(&keys)?;
    // A dimension the enemy chose: as long as the store says, at most 65,536.
    snapshot.search(&vec![1.0; snapshot.dim()], 3)?;
    let (_settings, _fingerprint) = (store.settings(), store.fingerprint());
    Ok(())
}
