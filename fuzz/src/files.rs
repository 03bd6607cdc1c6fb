//! The seed store, which the targets change, and simulated disks with its files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::sim::{Node, SimFs};

/// Files of a store, by their path in it.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Directories of a store that have files; the targets put files in each of them.
pub const FOLDERS: [&str; 3] = ["segments", "derived", "versions"];

/// Folder of a target's seeds or, for `store`, of the seed store.
pub fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target)
}

/// The unchanged store: `seeds/store`.
pub fn files() -> Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| read(&folder("store"))).clone()
}

/// Reads the files of a store, except lock files.
pub fn read(store: &Path) -> Files {
    let mut files = Files::new();
    for folder in ["", FOLDERS[0], FOLDERS[1], FOLDERS[2]] {
        let Ok(entries) = fs::read_dir(store.join(folder)) else { continue };
        for entry in entries {
            let path = entry.expect("a readable directory").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_file() && !name.starts_with("LOCK") {
                let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                files.insert(name, fs::read(&path).expect("a readable file"));
            }
        }
    }
    files
}

/// A simulated disk with these files.
pub fn disk(files: &Files) -> SimFs {
    // Nodes are numbered: the root, its directory, the store, its folders, then files.
    let first = 3 + FOLDERS.len();
    let mut store: BTreeMap<OsString, usize> =
        (3..).zip(FOLDERS).map(|(number, folder)| (OsString::from(folder), number)).collect();
    let mut folders = [const { BTreeMap::new() }; FOLDERS.len()];
    for (number, path) in (first..).zip(files.keys()) {
        let inside = FOLDERS.iter().position(|folder| path.split('/').next() == Some(folder));
        let name = OsString::from(path.rsplit('/').next().unwrap_or_default());
        match inside {
            Some(folder) => folders[folder].insert(name, number),
            None => store.insert(name, number),
        };
    }
    let mut nodes = vec![
        Node::Dir(BTreeMap::from([(OsString::from("d"), 1)])),
        Node::Dir(BTreeMap::from([(OsString::from("s"), 2)])),
        Node::Dir(store),
    ];
    nodes.extend(folders.into_iter().map(Node::Dir));
    nodes.extend(files.values().map(|bytes| Node::File(Arc::new(bytes.clone()))));
    SimFs::from_image(nodes)
}
