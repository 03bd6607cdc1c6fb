//! Damage by the disk itself: it changes bytes of files, or loses files. And what a repair may save then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vecstore::{Kind, RepairOptions, Snapshot};

use super::check::PIN;
use super::oracle::State;
use super::run::{Do, Run, STORE, options};
use super::world::{Deed, Outcome, Step};
use super::{Node, Op, SimFs};

/// Offset of the rows of a segment.
const ROWS: usize = 4096;
/// An offset in the body of a manifest.
const BODY: usize = 134;

/// The damaged file. Only the store's file is damaged: a backup stands for one on another disk, even if it
/// was made by linking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// A row of the oldest segment that has live rows.
    Oldest,
    /// A row of the newest segment that has live rows.
    Newest,
    /// A byte of the manifest.
    Manifest,
    /// The manifest, which is lost.
    NoManifest,
}

/// Keys that are lost with the rows of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Lost keys of the store.
    pub store: BTreeSet<String>,
    /// Lost keys of each version, by its name.
    pub named: BTreeMap<String, BTreeSet<String>>,
}

impl SimFs {
    /// Changes a byte of a file, durably.
    pub fn rot(&self, path: &Path, at: usize) {
        let mut disk = self.disk();
        let mut bytes = disk.file(path).expect("the file is there").to_vec();
        bytes[at] ^= 4;
        let (dir, name) = disk.place(path).expect("the file is there");
        let ino = disk.now.len();
        disk.now.push(Node::File(Arc::default()));
        disk.record(Op::Rot { dir, name, now: Some((ino, Arc::new(bytes))) });
    }

    /// Removes a file, durably.
    pub fn lose(&self, path: &Path) {
        let mut disk = self.disk();
        let (dir, name) = disk.place(path).expect("the file is there");
        disk.record(Op::Rot { dir, name, now: None });
    }
}

/// Keys of a snapshot's entries in a file: of entries with rows, and of all.
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
    /// Damages a file of the store, and records what a repair may find: lost keys, or no loss because the
    /// file's merge inputs, or the output of its merge, still exist and serve in its place.
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

    /// The file with the row to damage, and the losses that are possible.
    fn losses(&self, what: Hit) -> Option<(PathBuf, Vec<Loss>)> {
        let quiet = options(&self.fs.other_process()).for_reading();
        let store = quiet.clone().open(STORE).ok()?;
        let now = store.snapshot();
        let mut files: Vec<PathBuf> = now.segments().map(|segment| segment.info().path).collect();
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
            // A repaired version may also lack entries that were superseded later: bitmaps or later segments
            // of the store show them as superseded.
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

    /// Repairs the store. Entries that it has afterwards must stay, and lost ones must not come back.
    pub(super) fn repair(&mut self) {
        let started = self.fs.changes();
        let repaired = vecstore::repair_on(&self.fs, Path::new(STORE), RepairOptions::new()).map(drop);
        self.is_hurt &= repaired.is_err();
        let is_done = repaired.is_ok();
        self.note(Do::Repair, Some(Deed::Repair), started, repaired);
        if is_done {
            let store = options(&self.fs.other_process()).for_reading().open(STORE);
            let state =
                store.map_err(|error| error.to_string()).and_then(|store| State::read(&store.snapshot()));
            match state {
                Ok(state) => self.steps.push(Step::Shown { at: self.fs.changes(), state }),
                Err(wrong) => panic!("after a repair: {wrong}"),
            }
        }
    }
}
