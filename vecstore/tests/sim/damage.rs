//! What a disk does to files by itself: it changes their bytes, or loses them. And what of the store a repair
//! can save then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vecstore::{Kind, Snapshot};

use super::check::PIN;
use super::oracle::State;
use super::run::{Do, Run, STORE, options};
use super::world::{Deed, Outcome, Step};
use super::{Node, Op, SimFs};

/// Where the rows of a segment begin.
const ROWS: usize = 4096;
/// Somewhere in the body of a manifest.
const BODY: usize = 70;

/// What is hit. Only the store's own file is: a backup is on another disk, even where it was made by linking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// A row of the oldest segment that has live ones.
    Oldest,
    /// A row of the newest one.
    Newest,
    /// The manifest.
    Manifest,
    /// The manifest is gone.
    NoManifest,
}

/// What is lost with the rows of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Keys of the store.
    pub store: BTreeSet<String>,
    /// Keys of its versions.
    pub named: BTreeMap<String, BTreeSet<String>>,
}

impl SimFs {
    /// A byte of a file is another one from now on, and durably so.
    pub fn rot(&self, path: &Path, at: usize) {
        let mut disk = self.disk();
        let mut bytes = disk.file(path).expect("the file is there").to_vec();
        bytes[at] ^= 4;
        let (dir, name) = disk.place(path).expect("the file is there");
        let ino = disk.now.len();
        disk.now.push(Node::File(Arc::default()));
        disk.record(Op::Rot { dir, name, now: Some((ino, Arc::new(bytes))) });
    }

    /// A file is gone from now on, and durably so.
    pub fn lose(&self, path: &Path) {
        let mut disk = self.disk();
        let (dir, name) = disk.place(path).expect("the file is there");
        disk.record(Op::Rot { dir, name, now: None });
    }
}

/// Keys of the entries that have rows in a file, and of those that are in it at all.
fn keys_in(snapshot: &Snapshot, file: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut with_rows, mut all) = (BTreeSet::new(), BTreeSet::new());
    for entry in snapshot.iter().map(|entry| entry.expect("it was whole")) {
        if entry.location().0 == file {
            let key = String::from_utf8_lossy(entry.key()).into_owned();
            if entry.kind() == Kind::Rows {
                with_rows.insert(key.clone());
            }
            all.insert(key);
        }
    }
    (with_rows, all)
}

impl Run {
    /// Hits a file of the store, and writes down what a repair may find: what is lost, or that nothing is,
    /// because files that were merged, or the merge of this one, are still there and serve in its place.
    pub(super) fn hit(&mut self, what: Hit) {
        let started = self.fs.changes();
        let outcomes = match what {
            Hit::Manifest | Hit::NoManifest => {
                let manifest = Path::new(STORE).join("MANIFEST");
                match what {
                    Hit::Manifest => self.fs.rot(&manifest, BODY),
                    _ => self.fs.lose(&manifest),
                }
                // Settings since the last commit are only in the manifest.
                let (settings, fingerprint) = self.told.clone();
                vec![Deed::Hit(Loss::default()), Deed::Forget(settings, fingerprint)]
            }
            Hit::Oldest | Hit::Newest => {
                let Some((path, losses)) = self.losses(what) else { return };
                self.fs.rot(&path, ROWS);
                losses.into_iter().map(Deed::Hit).collect()
            }
        };
        self.is_hurt = true;
        let outcome = Outcome::Acknowledged(self.fs.changes());
        let step = |deed| vec![Step::Deed { deed, started, outcome }];
        self.steps.push(Step::Either(outcomes.into_iter().map(step).collect()));
    }

    /// The file with the rows to be hit, and what may be lost with it.
    fn losses(&self, what: Hit) -> Option<(PathBuf, Vec<Loss>)> {
        let quiet = options(&self.fs.other_process()).read_only(true);
        let store = quiet.clone().open(STORE).ok()?;
        let now = store.snapshot();
        let mut files: Vec<PathBuf> = now.segments().map(|segment| segment.path).collect();
        if what == Hit::Newest {
            files.reverse();
        }
        let path = files.into_iter().find(|path| !keys_in(&now, path).0.is_empty())?;
        let (lost, live) = keys_in(&now, &path);
        let (mut rows, mut all) = (BTreeMap::new(), BTreeMap::new());
        for name in store.versions().expect("they can be read").into_iter().map(|named| named.name) {
            if name.starts_with(PIN) {
                continue;
            }
            let then = quiet.clone().at_version(&name).open(STORE).expect("it can be read").snapshot();
            let (with_rows, entries) = keys_in(&then, &path);
            // What of it was replaced later is left out too, where bitmaps or later segments tell.
            all.insert(name.clone(), with_rows.union(&(&entries - &live)).cloned().collect());
            rows.insert(name, with_rows);
        }
        let mut losses = vec![Loss::default()];
        for store in [BTreeSet::new(), lost] {
            for named in [&BTreeMap::new(), &rows, &all] {
                let loss = Loss { store: store.clone(), named: named.clone() };
                if !losses.contains(&loss) {
                    losses.push(loss);
                }
            }
        }
        Some((path, losses))
    }

    /// Makes the store whole again. What is there afterwards is there to stay, and what is lost does not come
    /// back.
    pub(super) fn repair(&mut self) {
        let started = self.fs.changes();
        let repaired = vecstore::repair_with(&self.fs, Path::new(STORE)).map(drop);
        self.is_hurt &= repaired.is_err();
        let is_done = repaired.is_ok();
        self.note(Do::Repair, Some(Deed::Repair), started, repaired);
        if is_done {
            let store = options(&self.fs.other_process()).read_only(true).open(STORE);
            let state = store.map_err(|error| error.to_string()).and_then(|store| State::read(&store));
            match state {
                Ok(state) => self.steps.push(Step::Shown { at: self.fs.changes(), state }),
                Err(wrong) => panic!("after a repair: {wrong}"),
            }
        }
    }
}
