//! Reads every segment file, to find which are sound, which belong to the store, and what remains of the
//! others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::remains::Remains;
use crate::base::{Error, IoContext, Part, Progress, Result};
use crate::format::footer::{Footer, Layout};
use crate::format::{Id, check_may_write};
use crate::segment::{Pieces, Segment, SegmentName, Step, check_pieces};
use crate::state::{Body, FingerprintRecord, SEGMENTS, SegmentRecord, is_of_other_model, load};
use crate::vfs::{FileKind, Vfs};

/// A file with the name of a segment.
#[derive(Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    /// The name of the file in the directory.
    pub called: SegmentName,
    /// The name that the file's content gives: `called`, unless files were swapped.
    pub name: SegmentName,
    pub state: State,
    /// Why the file cannot stay; empty for a sound file that belongs to the store.
    pub problem: String,
    /// True if the manifest or a version lists this very file.
    pub listed: bool,
    /// True if the file's bytes are not what was written; false for a file of another store or history.
    pub damaged: bool,
}

/// The usable content of a file.
#[derive(Debug)]
pub(super) enum State {
    Sound(Arc<Segment>),
    Remains(Box<Remains>),
    /// Nothing can be used: the file is damaged too badly, or is not of this store.
    Nothing,
}

impl Found {
    pub fn sound(&self) -> Option<&Arc<Segment>> {
        match &self.state {
            State::Sound(segment) => Some(segment),
            _ => None,
        }
    }

    /// The segment of a file that can stay as it is, under its name.
    pub fn whole(&self) -> Option<&Arc<Segment>> {
        self.sound().filter(|_| self.is_whole())
    }

    pub fn remains(&self) -> Option<&Remains> {
        match &self.state {
            State::Remains(remains) => Some(remains),
            _ => None,
        }
    }

    pub fn footer(&self) -> Option<&Footer> {
        self.sound().map(|segment| segment.footer()).or(self.remains().map(|remains| &remains.footer))
    }

    /// The settings in the file, if they are intact.
    pub fn settings(&self) -> Option<BTreeMap<String, String>> {
        match &self.state {
            State::Sound(segment) => segment.settings().ok(),
            State::Remains(remains) => remains.settings(),
            State::Nothing => None,
        }
    }

    pub fn is_whole(&self) -> bool {
        self.problem.is_empty()
    }

    /// True if the file has the name of another one: files were swapped.
    pub fn is_misplaced(&self) -> bool {
        self.called != self.name
    }

    pub fn range(&self) -> (u64, u64) {
        (self.name.first, self.name.last)
    }

    /// Treats the file as damaged, so that only its intact parts count.
    pub fn distrust(&mut self, pieces: Pieces, record: Option<&SegmentRecord>, problem: String) {
        let remains = Remains::read(&self.path, self.name, pieces, record);
        self.state = remains.map_or(State::Nothing, |remains| State::Remains(Box::new(remains)));
        (self.problem, self.damaged) = (problem, true);
    }
}

/// Reads every byte of every segment. `records`: the files that the manifest and the versions list.
///
/// # Errors
/// A file that a later version of the program wrote, or a file that cannot be read at all.
pub(super) fn survey(
    vfs: &dyn Vfs,
    dir: &Path,
    records: &[SegmentRecord],
    progress: &Progress,
) -> Result<Vec<Found>> {
    let names = load::list_segments(vfs, dir)?;
    let len = |name: &SegmentName| {
        let path = dir.join(SEGMENTS).join(name.to_string());
        vfs.metadata(&path).map_or(0, |found| found.len)
    };
    progress.expect(names.iter().map(len).sum());
    progress.worked(0, super::REPAIRING)?;
    let looked = names.into_iter().map(|name| {
        let part = Part::new(progress, super::REPAIRING, len(&name));
        let found = look(vfs, dir, name, records, &|bytes| part.worked(bytes))?;
        part.done()?;
        Ok(found)
    });
    looked.collect()
}

fn look(
    vfs: &dyn Vfs,
    dir: &Path,
    called: SegmentName,
    records: &[SegmentRecord],
    step: Step<'_>,
) -> Result<Found> {
    let path = dir.join(SEGMENTS).join(called.to_string());
    let record = records.iter().find(|record| record.name() == called);
    let mut file = Found {
        path: path.clone(),
        called,
        name: called,
        state: State::Nothing,
        problem: String::new(),
        listed: false,
        damaged: true,
    };
    let not_regular = match vfs.metadata(&path).at(&path, "look at the segment")?.kind {
        FileKind::File => None,
        FileKind::Dir => Some("a directory"),
        FileKind::Other => Some("something else"),
    };
    if let Some(found) = not_regular {
        file.problem = format!("expected a regular file, found {found}");
        return Ok(file);
    }
    let open = || Pieces::open(vfs, &path).at(&path, "open the segment");
    let mut pieces = open()?;
    let unreadable = pieces.load_end(&path).err();
    let name = match Footer::parse(&path, pieces.kept()) {
        Ok(footer) => {
            check_may_write(&path, footer.ro_compat)?;
            SegmentName { first: footer.first, last: footer.last, generation: footer.generation }
        }
        Err(error @ Error::UnsupportedVersion { .. }) => return Err(error),
        Err(_) => called,
    };
    if let Err(error @ Error::UnsupportedVersion { .. }) = Layout::parse(&path, pieces.kept()) {
        return Err(error);
    }
    let (segment, faults) = check_pieces(&path, name, pieces, step)?;
    if let Some(fault) = faults.first() {
        let block = fault.block.map_or_else(String::new, |block| format!(", block {block}"));
        let more = if faults.len() > 1 { format!(" (and {} more)", faults.len() - 1) } else { String::new() };
        let problem = format!("section {}{block}: {}{more}", fault.section, fault.detail);
        let mut pieces = open()?;
        // A drive that vanished is no damage of this file.
        if let Some(unreadable) = unreadable.filter(|_| pieces.is_lost()) {
            return Err(Error::io(&path, "read the segment", unreadable.error));
        }
        file.distrust(pieces, record, problem);
        file.listed = record.is_some() && file.remains().is_some();
        return Ok(file);
    }
    let Some(segment) = segment else {
        file.problem = "it cannot be opened".to_owned();
        return Ok(file);
    };
    file.name = name;
    file.listed = record.is_some_and(|record| *record == SegmentRecord::of(&segment));
    if file.is_misplaced() {
        file.problem = format!("its footer says that it is {name}");
    } else if record.is_some() && !file.listed {
        file.problem = "it is not the file that the manifest lists under this name".to_owned();
    }
    // Attribute values may be large, and a repair needs those of damaged files only.
    (file.state, file.damaged) = (State::Sound(Arc::new(segment.without_values())), false);
    Ok(file)
}

/// The identity of the store that most files belong to. Footers do not tell which epochs it had.
pub(super) fn store_of_most(found: &[Found]) -> Option<Body> {
    let footers: Vec<&Footer> = found.iter().filter_map(Found::footer).collect();
    let count = |footer: &&Footer| footers.iter().filter(|other| other.store_id == footer.store_id).count();
    // Of several stores with equally many files, the first one.
    let most = footers.iter().copied().rev().max_by_key(count)?;
    let of_store = footers.iter().filter(|footer| footer.store_id == most.store_id);
    let mut fingerprints: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    for footer in of_store.filter(|footer| footer.fingerprint != [0; 32]) {
        *fingerprints.entry(footer.fingerprint).or_default() += 1;
    }
    let id = fingerprints.into_iter().max_by_key(|(_, files)| *files).map(|(id, _)| id);
    Some(Body {
        store_id: most.store_id,
        dim: most.dim,
        dtype: most.dtype,
        metric: most.metric,
        fingerprint: id.map(|id| FingerprintRecord { id, description: String::new() }),
        ..Body::default()
    })
}

/// The epoch of a commit; `None` if only links tell which history a file belongs to.
pub(super) fn epoch_at(store: &Body, commit: u64) -> Option<Id> {
    store.epochs.iter().rev().find(|epoch| epoch.first <= commit).map(|epoch| epoch.id)
}

/// Why a file or a version with this identity does not belong to the store; `None` if it may.
fn differs(store: &Body, store_id: &Id, shape: (u32, u8, u8)) -> Option<&'static str> {
    if *store_id != store.store_id {
        return Some("it is of another store");
    }
    let differs = shape != (store.dim, store.dtype, store.metric);
    differs.then_some("its dimension, element type or metric is not the store's")
}

/// The problem of a file whose fingerprint is not the store's.
pub(super) const OF_OTHER_MODEL: &str = "its vectors have another fingerprint than the store's";

/// True if a fingerprint is not the one that a manifest has recorded.
pub(super) fn is_foreign_to(body: &Body, fingerprint: &[u8; 32]) -> bool {
    is_of_other_model(body.fingerprint.as_ref().map(|recorded| &recorded.id), fingerprint)
}

/// Marks files that do not belong to the store.
pub(super) fn refuse_foreign(found: &mut [Found], store: &Body, records: &[SegmentRecord]) {
    for file in found.iter_mut() {
        let refused = file.footer().and_then(|footer| {
            let shape = (footer.dim, footer.dtype, footer.metric);
            let of_other_model = is_foreign_to(store, &footer.fingerprint).then_some(OF_OTHER_MODEL);
            differs(store, &footer.store_id, shape).or(of_other_model).or_else(|| {
                let is_other = epoch_at(store, footer.last).is_some_and(|epoch| epoch != footer.epoch);
                // A listed file belongs here: the manifest says so.
                let is_other = is_other && !file.listed;
                is_other.then_some("it was written in another epoch (before a restore, say)")
            })
        });
        // A file with the name of a listed one and other bytes is of another history.
        let replaces = |segment: &Arc<Segment>| {
            let is_other = |record: &SegmentRecord| *record != SegmentRecord::of(segment);
            records.iter().any(|record| record.name() == file.name && is_other(record))
        };
        if let Some(why) = refused {
            (file.problem, file.damaged) = (why.to_owned(), false);
            file.state = State::Nothing;
        } else if !file.listed && file.sound().is_some_and(replaces) {
            file.state = State::Nothing;
        }
    }
}

/// Why a version does not belong to the store; `None` if it does. `manifest`: the store's, if it can be read.
pub(in crate::care) fn refuses_version(
    store: &Body,
    version: &Body,
    manifest: Option<&Body>,
) -> Option<&'static str> {
    let shape = (version.dim, version.dtype, version.metric);
    if let Some(why) = differs(store, &version.store_id, shape) {
        return Some(why);
    }
    if version.fingerprint.as_ref().is_some_and(|recorded| is_foreign_to(store, &recorded.id)) {
        return Some("it has another fingerprint than the store");
    }
    // The manifest lists every commit that a version lists, unless an older manifest was put back.
    let last = version.last_commit();
    let manifest = manifest.filter(|manifest| manifest.last_commit() < last)?;
    if manifest.is_backup {
        return Some("it lists commits that this backup does not have");
    }
    (epoch_at(store, last) != epoch_at(version, last))
        .then_some("it was made in another epoch (before a restore, say)")
}
