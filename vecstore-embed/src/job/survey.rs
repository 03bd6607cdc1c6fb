//! What a run would find to do: counted before it begins.

use std::ops::ControlFlow;
use std::sync::Arc;

use vecstore::{DType, Snapshot};

use super::Run;
use super::store::Target;
use crate::base::{Error, FirstFew, Result};
use crate::embedder::Embedder;
use crate::keys::Roots;
use crate::pipeline::report::{Forecast, Plan, free_space};
use crate::pipeline::{Fed, Feed, InStore};
use crate::runs::Runs;
use crate::source::{Kinds, Source};

/// What there is to do, counted beforehand.
#[derive(Default)]
pub(super) struct Count {
    pub(super) fed: Fed,
    /// The store when its keys were looked up; `None` if there was none.
    pub(super) store: Option<Snapshot>,
    /// Inputs that the store lacks.
    pub(super) to_do: u64,
    key_bytes: u64,
    /// Files whose name does not make them inputs, nor does their content.
    pub(super) others: Kinds,
    /// Files that could be inputs by their content, which cannot be read.
    pub(super) unread: FirstFew,
}

impl Count {
    /// Files and folders that could not be read.
    pub(super) fn all_unread(&self) -> FirstFew {
        let mut unread = self.fed.unreadable.clone();
        unread.extend(self.unread.clone());
        unread
    }

    /// Files that are no inputs.
    pub(super) fn all_ignored(&self) -> Kinds {
        let mut ignored = self.fed.ignored.clone();
        ignored.extend(self.others.clone());
        ignored
    }
}

impl Run {
    /// What the run would find to do, and the room it would need. Loads the model, looks at everything, and
    /// writes nothing.
    ///
    /// # Errors
    /// As [`Run::run`].
    pub fn survey(&self, embedder: &Embedder) -> Result<Plan> {
        let target = self.target(embedder)?;
        let source = self.source(&target, embedder)?;
        let count = self.count(source.as_ref(), embedder, &target)?;
        refuse_outside(source.as_ref(), &count.fed, &target.roots)?;
        let (backend, dim) = embedder.describe()?;
        let (dim, dtype) = match &target.store {
            Some(store) => (store.snapshot().dim(), store.snapshot().dtype()),
            None => (dim, self.dtype.unwrap_or(DType::F32)),
        };
        Ok(self.plan(&count, source.as_ref(), embedder, (dim, dtype), backend))
    }

    /// The store, if there is one, with everything checked that can be before the model is loaded.
    pub(super) fn target(&self, embedder: &Embedder) -> Result<Target<'_>> {
        let files = self.source.files();
        let folder = files.map(|files| crate::keys::canonical_folder(files.folder())).transpose()?;
        let target = Target::open(&self.store, &self.open, &self.settings, folder.as_deref(), &self.roots)?;
        target.check(embedder, self.dtype)?;
        if let Some(folder) = &folder {
            target.check_folder(folder)?;
            if !target.roots.touch(folder) {
                return Err(outside(self.source.as_ref(), folder.clone(), 1, &target.roots));
            }
        }
        Ok(target)
    }

    /// The source, with the keys that its files have by the roots of the store.
    pub(super) fn source(&self, target: &Target<'_>, embedder: &Embedder) -> Result<Arc<dyn Source>> {
        let Some(files) = self.source.files() else { return Ok(Arc::clone(&self.source)) };
        let folder = crate::keys::canonical_folder(files.folder())?;
        let store = target.place();
        let beside = store.as_deref().map(|store| Runs::of_store(store).folder().to_owned());
        let skip = store.into_iter().chain(beside).collect();
        Ok(Arc::new(files.bound(folder, target.roots.clone(), embedder.task().accepts(), skip)))
    }

    /// Counts what there is to do: by name and key, and where the name does not tell, by the first bytes.
    pub(super) fn count(
        &self,
        source: &dyn Source,
        embedder: &Embedder,
        target: &Target<'_>,
    ) -> Result<Count> {
        let (mut lookup, accepts) = (InStore::new(target.store.as_ref()), embedder.task().accepts());
        let going = || !self.stop.is_raised();
        let mut count =
            Count { store: target.store.as_ref().map(|store| store.snapshot()), ..Count::default() };
        let mut feed = Feed::new(source, accepts, &going, &mut lookup);
        feed.shard = self.shard;
        feed.chunk = self.chunk_size;
        feed.in_order = is_in_order(source);
        feed.walk(source.walk()?, &mut |job| {
            let input = &job.input;
            if input.by_content && job.known.is_none() {
                if !going() {
                    return ControlFlow::Break(());
                }
                match source.open(input).and_then(|content| accepts.begins(content)) {
                    Ok(true) => {}
                    Ok(false) => {
                        count.others.add(&input.path);
                        return ControlFlow::Continue(());
                    }
                    Err(error) => {
                        count.unread.push(&input.path, error.to_string());
                        return ControlFlow::Continue(());
                    }
                }
            }
            count.to_do += 1;
            count.key_bytes += input.key.len() as u64;
            ControlFlow::Continue(())
        })?;
        count.fed = feed.fed;
        Ok(count)
    }

    pub(super) fn plan(
        &self,
        count: &Count,
        source: &dyn Source,
        embedder: &Embedder,
        (dim, dtype): (usize, DType),
        backend: String,
    ) -> Plan {
        let free = free_space(&self.store);
        // What cannot be read is tried again, and settled by that for this run.
        let to_do = count.to_do + count.unread.count();
        let commit_rows = self.commit_rows(embedder);
        Plan {
            found: count.fed.already + to_do,
            stored: count.store.as_ref().map_or(0, |store| store.totals().entries),
            already: count.fed.already,
            to_do,
            changed: count.fed.changed,
            forecast: Forecast::new(count.to_do, count.key_bytes, dim, dtype, commit_rows, free),
            model: embedder.name().to_owned(),
            backend,
            source: source.name(),
            unread: count.all_unread(),
            ignored: count.all_ignored(),
        }
    }

    /// Vectors per commit, as far as there are no more.
    pub(super) fn commit_rows(&self, embedder: &Embedder) -> usize {
        self.commit_rows.unwrap_or(embedder.widths().batch)
    }
}

/// False where neighbours in a folder need not come one after the other.
pub(super) fn is_in_order(source: &dyn Source) -> bool {
    source.files().is_none_or(|files| files.is_list())
}

/// An error if some inputs have no key.
pub(super) fn refuse_outside(source: &dyn Source, fed: &Fed, roots: &Roots) -> Result<()> {
    match fed.outside.first().first() {
        Some(example) => Err(outside(source, example.path.clone(), fed.outside.count(), roots)),
        None => Ok(()),
    }
}

fn outside(source: &dyn Source, example: std::path::PathBuf, count: u64, roots: &Roots) -> Error {
    let folder = source.files().map(|files| files.folder().to_owned()).unwrap_or_default();
    let holds_root = roots.any_in(&folder);
    Error::OutsideRoots { folder, example, count, roots: roots.to_string(), holds_root }
}
