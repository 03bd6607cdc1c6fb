//! Worlds: a store, its versions, its backups and the stores restored from them. And which worlds are right
//! after a power cut.

use std::collections::{BTreeMap, BTreeSet};

use super::damage::Loss;
use super::oracle::{Change, State};

/// The stores on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct World {
    /// The store; the default state if it does not exist.
    pub store: State,
    /// Its versions.
    pub named: BTreeMap<String, State>,
    /// Its backup.
    pub backup: Option<State>,
    /// Its dated backups, oldest first.
    pub dated: Vec<State>,
    /// Stores that were restored from the backup.
    pub restored: BTreeMap<String, State>,
    /// The store is damaged: the other fields say what it has after a repair.
    pub is_hurt: bool,
}

/// A change of the world that happens as a whole or not at all.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Changes the store.
    Store(Change),
    /// Changes the restored store of this name.
    Restored(String, Change),
    Name(String),
    DropName(String),
    Backup,
    /// Makes a dated backup; this many are kept.
    Dated(usize),
    /// Restores the backup as a store of this name.
    Restore(String),
    /// The disk loses a part of the store.
    Hit(Loss),
    /// The disk loses the manifest; only these settings and this fingerprint remain.
    Forget(BTreeMap<String, String>, Option<u8>),
    Repair,
}

impl World {
    /// The world after a deed.
    pub fn after(&self, deed: &Deed) -> World {
        let mut world = self.clone();
        // Nothing is made from a store that does not exist.
        let exists = self.store.exists;
        match deed {
            Deed::Store(change) => world.store = self.store.after(change),
            Deed::Restored(name, change) => {
                if let Some(state) = world.restored.get_mut(name) {
                    *state = state.after(change);
                }
            }
            Deed::Name(name) if exists => {
                world.named.insert(name.clone(), self.store.clone());
            }
            Deed::DropName(name) => {
                world.named.remove(name);
            }
            Deed::Backup if exists => world.backup = Some(self.store.clone()),
            Deed::Dated(keep) if exists => {
                world.dated.push(self.store.clone());
                world.dated.drain(..world.dated.len().saturating_sub(*keep));
            }
            Deed::Restore(name) => {
                if let Some(backup) = &self.backup {
                    world.restored.insert(name.clone(), backup.clone());
                }
            }
            Deed::Hit(loss) => {
                world.is_hurt = true;
                world.store.entries.retain(|key, _| !loss.store.contains(key));
                for (name, keys) in &loss.named {
                    if let Some(state) = world.named.get_mut(name) {
                        state.entries.retain(|key, _| !keys.contains(key));
                    }
                }
            }
            Deed::Forget(settings, fingerprint) => {
                world.is_hurt = true;
                world.store.settings = settings.clone();
                world.store.fingerprint = *fingerprint;
            }
            Deed::Repair => world.is_hurt = false,
            Deed::Name(_) | Deed::Backup | Deed::Dated(_) => {}
        }
        world
    }

    /// The worlds that a deed may leave if it was interrupted or its outcome is unknown.
    fn in_doubt(&self, deed: &Deed) -> Vec<World> {
        let mut worlds = vec![self.clone(), self.after(deed)];
        if let Deed::Dated(keep) = deed {
            // Older backups are removed one by one, after the new one is made.
            for kept in *keep + 1..=self.dated.len() + 1 {
                worlds.push(self.after(&Deed::Dated(kept)));
            }
        }
        worlds
    }
}

/// The outcome of a deed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The deed was acknowledged when the disk had seen this many changes.
    Acknowledged(usize),
    /// The deed failed, or its process died: it may have happened or not.
    Unknown,
    /// The deed failed with an error that promises that it has not happened.
    Refused,
}

/// A step of a run.
#[derive(Clone, Debug)]
pub enum Step {
    Deed {
        deed: Deed,
        started: usize,
        outcome: Outcome,
    },
    /// A writer has shown this state of the store, so a caller may rely on it.
    Shown {
        at: usize,
        state: State,
    },
    /// Histories of which any may be the right one: for example, the steps of two processes at the same time,
    /// in either order.
    Either(Vec<Vec<Step>>),
}

/// The world that every run begins with.
pub fn nothing() -> BTreeSet<World> {
    BTreeSet::from([World::default()])
}

/// The worlds that are right after the first `prefix` changes of the disk.
pub fn right_worlds(start: &BTreeSet<World>, steps: &[Step], prefix: usize) -> BTreeSet<World> {
    let mut worlds = start.clone();
    for step in steps {
        match step {
            Step::Deed { started, .. } if *started >= prefix => {}
            Step::Deed { deed, outcome, .. } => match outcome {
                Outcome::Acknowledged(at) if *at <= prefix => {
                    worlds = worlds.iter().map(|world| world.after(deed)).collect();
                }
                Outcome::Refused => {}
                Outcome::Acknowledged(_) | Outcome::Unknown => {
                    worlds = worlds.iter().flat_map(|world| world.in_doubt(deed)).collect();
                }
            },
            Step::Shown { at, state } if *at <= prefix => worlds.retain(|world| world.store == *state),
            Step::Shown { .. } => {}
            Step::Either(histories) => {
                worlds =
                    histories.iter().flat_map(|history| right_worlds(&worlds, history, prefix)).collect();
            }
        }
    }
    worlds
}

fn short(state: &State) -> String {
    if !state.exists {
        return "nothing".to_owned();
    }
    format!(
        "{} commits, keys {:?}, settings {:?}, fingerprint {:?}",
        state.commits,
        state.entries.keys().collect::<Vec<_>>(),
        state.settings,
        state.fingerprint
    )
}

fn told(world: &World) -> String {
    let mut text = short(&world.store);
    let named = world.named.iter().map(|(name, state)| (format!("version {name}"), state));
    let backup = world.backup.iter().map(|state| ("backup".to_owned(), state));
    let dated = world.dated.iter().enumerate().map(|(at, state)| (format!("dated backup {at}"), state));
    let restored = world.restored.iter().map(|(name, state)| (format!("restored {name}"), state));
    for (what, state) in named.chain(backup).chain(dated).chain(restored) {
        text.push_str(&format!("\n    {what}: {}", short(state)));
    }
    text
}

/// A message with the world that was read and the right ones.
pub fn difference(found: &World, right: &BTreeSet<World>) -> String {
    let right: Vec<String> = right.iter().map(told).collect();
    format!("found {}\nright would be one of:\n  {}", told(found), right.join("\n  "))
}
