//! Looks at every segment file: which are sound, which belong to the store, and what is left of the others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::remains::Remains;
use crate::base::{Error, IoContext, Result};
use crate::format::footer::Footer;
use crate::format::{Id, KNOWN_RO_COMPAT};
use crate::segment::{Pieces, Segment, SegmentName, check_pieces};
use crate::state::{Body, EpochRecord, SEGMENTS, SegmentRecord, load};
use crate::vfs::{FileKind, Vfs};

/// A file under a segment's name.
#[derive(Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    /// What the file is called.
    pub called: SegmentName,
    /// What it is: the same, unless files were swapped.
    pub name: SegmentName,
    pub state: State,
    /// Why it cannot stay; empty for a sound file that belongs to the store.
    pub problem: String,
    /// The manifest (or a named checkpoint) lists this very file.
    pub listed: bool,
    /// Its bytes are not what was written, as opposed to a file of somebody else.
    pub damaged: bool,
}

/// What of a file can be used.
#[derive(Debug)]
pub(super) enum State {
    Sound(Arc<Segment>),
    Remains(Box<Remains>),
    /// Damaged so badly that nothing of it can be used; or not of this store.
    Nothing,
}

impl Found {
    pub fn footer(&self) -> Option<&Footer> {
        match &self.state {
            State::Sound(segment) => Some(segment.footer()),
            State::Remains(remains) => Some(&remains.footer),
            State::Nothing => None,
        }
    }

    /// It can serve as it is, under the name it has.
    pub fn is_whole(&self) -> bool {
        self.problem.is_empty()
    }

    /// Its name is not its own: files were swapped.
    pub fn is_misplaced(&self) -> bool {
        self.called != self.name
    }
}

/// What files must agree with to belong to the store.
#[derive(Debug)]
pub(super) struct Identity {
    pub store_id: Id,
    pub dim: u32,
    pub dtype: u8,
    pub metric: u8,
    /// Without a manifest only links say which history a file is of.
    pub epochs: Option<Vec<EpochRecord>>,
}

impl Identity {
    pub fn of(body: &Body) -> Self {
        Identity {
            store_id: body.store_id,
            dim: body.dim,
            dtype: body.dtype,
            metric: body.metric,
            epochs: Some(body.epochs.clone()),
        }
    }

    /// The store that most files are of.
    pub fn of_most(found: &[Found]) -> Option<Self> {
        let footers: Vec<&Footer> = found.iter().filter_map(Found::footer).collect();
        let count =
            |footer: &&Footer| footers.iter().filter(|other| other.store_id == footer.store_id).count();
        // The first of several that are as many.
        let most = footers.iter().copied().rev().max_by_key(count)?;
        Some(Identity {
            store_id: most.store_id,
            dim: most.dim,
            dtype: most.dtype,
            metric: most.metric,
            epochs: None,
        })
    }

    /// The epoch that commits of this number carry.
    pub fn epoch_at(&self, commit: u64) -> Option<Id> {
        let epochs = self.epochs.as_ref()?;
        epochs.iter().rev().find(|epoch| epoch.first <= commit).map(|epoch| epoch.id)
    }

    /// Why a file does not belong here.
    fn refuses(&self, footer: &Footer) -> Option<&'static str> {
        let shape = (footer.dim, footer.dtype, footer.metric);
        self.differs(&footer.store_id, shape).or_else(|| match self.epoch_at(footer.last) {
            Some(epoch) if epoch != footer.epoch => {
                Some("it was written in another epoch (before a restore, say)")
            }
            _ => None,
        })
    }

    /// Why a named checkpoint does not belong here. `manifest` is the store's, if it can be read.
    pub fn refuses_version(&self, version: &Body, manifest: Option<&Body>) -> Option<&'static str> {
        let shape = (version.dim, version.dtype, version.metric);
        if let Some(why) = self.differs(&version.store_id, shape) {
            return Some(why);
        }
        // The manifest lists what a named checkpoint does, unless an older one was put back.
        let last = version.last_commit();
        let manifest = manifest.filter(|manifest| manifest.last_commit() < last)?;
        if manifest.is_backup() {
            return Some("it lists commits that this backup does not have");
        }
        (self.epoch_at(last) != Identity::of(version).epoch_at(last))
            .then_some("it was made in another epoch (before a restore, say)")
    }

    fn differs(&self, store_id: &Id, shape: (u32, u8, u8)) -> Option<&'static str> {
        if *store_id != self.store_id {
            return Some("it is of another store");
        }
        let differs = shape != (self.dim, self.dtype, self.metric);
        differs.then_some("its dimension, element type or metric is not the store's")
    }
}

/// Reads every byte of every segment. `records` are those of the manifest and of the named checkpoints.
///
/// # Errors
/// Files that a later version wrote, and files of which nothing can be read.
pub(super) fn survey(vfs: &dyn Vfs, dir: &Path, records: &[SegmentRecord]) -> Result<Vec<Found>> {
    let names = load::list_segments(vfs, dir)?;
    names.into_iter().map(|name| look(vfs, dir, name, records)).collect()
}

fn look(vfs: &dyn Vfs, dir: &Path, called: SegmentName, records: &[SegmentRecord]) -> Result<Found> {
    let path = dir.join(SEGMENTS).join(called.to_string());
    let record = records.iter().find(|record| record.name() == called);
    let nothing = |problem: String| Found {
        path: path.clone(),
        called,
        name: called,
        state: State::Nothing,
        problem,
        listed: false,
        damaged: true,
    };
    match vfs.metadata(&path).at(&path, "look at the segment")?.kind {
        FileKind::File => {}
        FileKind::Dir => return Ok(nothing("expected a regular file, found a directory".to_owned())),
        FileKind::Other => return Ok(nothing("expected a regular file, found something else".to_owned())),
    }
    let open = || Pieces::open(vfs, &path).at(&path, "open the segment");
    let mut pieces = open()?;
    let unreadable = pieces.load_footer().err();
    let name = match Footer::parse(&path, pieces.kept()) {
        Ok(footer) => {
            check_flags(&path, footer.ro_compat)?;
            SegmentName { first: footer.first, last: footer.last, generation: footer.generation }
        }
        Err(error @ Error::UnsupportedVersion { .. }) => return Err(error),
        Err(_) => called,
    };
    let (segment, faults) = check_pieces(&path, name, pieces);
    let problem = faults.first().map(|fault| {
        let block = fault.block.map_or_else(String::new, |block| format!(", block {block}"));
        let more = if faults.len() > 1 { format!(" (and {} more)", faults.len() - 1) } else { String::new() };
        format!("section {}{block}: {}{more}", fault.section, fault.detail)
    });
    let Some(problem) = problem else {
        let Some(segment) = segment else { return Ok(nothing("it cannot be opened".to_owned())) };
        let listed = record.is_some_and(|record| *record == SegmentRecord::of(&segment));
        let problem = match (name == called, record.is_some() && !listed) {
            (false, _) => format!("its footer says that it is {name}"),
            (true, true) => "it is not the file that the manifest lists under this name".to_owned(),
            (true, false) => String::new(),
        };
        let state = State::Sound(Arc::new(segment));
        return Ok(Found { path, called, name, state, problem, listed, damaged: false });
    };
    let mut pieces = open()?;
    // A drive that vanished is no damage of this file.
    if let Some(unreadable) = unreadable.filter(|_| pieces.is_lost()) {
        return Err(Error::io(&path, "read the segment", unreadable.error));
    }
    let remains = Remains::read(&path, called, pieces, record);
    Ok(match remains {
        Some(remains) => Found {
            path,
            called,
            name: called,
            listed: record.is_some(),
            state: State::Remains(Box::new(remains)),
            problem,
            damaged: true,
        },
        None => nothing(problem),
    })
}

/// Refuses to repair what this program may not write.
pub(super) fn check_flags(path: &Path, ro_compat: u64) -> Result<()> {
    if ro_compat & !KNOWN_RO_COMPAT == 0 {
        return Ok(());
    }
    Err(Error::UnsupportedVersion {
        path: path.to_owned(),
        expected: format!("ro-compat flags {KNOWN_RO_COMPAT:#x} to write"),
        found: format!("ro-compat flags {ro_compat:#x}"),
    })
}

/// Marks what does not belong to the store.
pub(super) fn refuse_foreign(found: &mut [Found], identity: &Identity, records: &[SegmentRecord]) {
    for file in found {
        let refused = file.footer().and_then(|footer| identity.refuses(footer));
        // What takes the name of a listed file, and is another one, is of another history.
        let replaced = match &file.state {
            State::Sound(segment) => {
                !file.listed
                    && records
                        .iter()
                        .any(|record| record.name() == file.name && *record != SegmentRecord::of(segment))
            }
            _ => false,
        };
        // A listed file is the manifest's word.
        if let Some(why) = refused.filter(|_| !file.listed) {
            file.problem = why.to_owned();
            file.state = State::Nothing;
            file.damaged = false;
        } else if replaced {
            file.state = State::Nothing;
        }
    }
}
