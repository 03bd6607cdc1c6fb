//! What a [`Run`] does, in order: look, count, prepare the store, let the stages work, sum up.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use indicatif::HumanBytes;
use vecstore::{DType, Store};

use super::feed::{Fed, Feed};
use super::gone::{Gone, Sweep};
use super::lookup::InStore;
use super::shared::Shared;
use super::target::Target;
use super::walk::Walk;
use super::{Ended, Run, Summary};
use crate::backend::{Backend, open_backend};
use crate::forecast::{Forecast, free_space};
use crate::model::Model;
use crate::progress::{FirstFew, Plan, Stages};
use crate::roots::Roots;
use crate::runs::Runs;
use crate::scan::{canonical_folder, has_picture_content};
use crate::{Error, Kinds, Result};

/// What there is to do, counted beforehand.
#[derive(Default)]
struct Count {
    fed: Fed,
    /// What the store holds, in whatever folder.
    stored: u64,
    /// Inputs that the store lacks.
    to_do: u64,
    key_bytes: u64,
    /// Files whose name does not make them inputs, nor does their content.
    others: Kinds,
    /// Files that could be inputs by their content, which cannot be read.
    unread: FirstFew,
}

impl Run {
    pub(super) fn start(
        &self,
        model: &Model,
        backends: impl FnOnce() -> Result<Vec<Box<dyn Backend>>>,
    ) -> Result<Summary> {
        let began = Instant::now();
        let folder = canonical_folder(&self.folder)?;
        let mut target = self.target(&folder, model)?;
        let walk = self.walk(&folder, target.place());
        let count = self.count(&walk, &target)?;
        refuse_outside(&folder, &count.fed, &target.roots)?;
        if count.to_do == 0 || !count.fed.complete {
            target.record()?;
            let accounted = count.fed.already;
            let mut summary = nothing_done(count, began);
            if let Some(store) = &target.store {
                summary.gone = self.gone(store, &target.roots, &walk, accounted, &summary)?;
            }
            return Ok(summary);
        }

        let backends = backends()?;
        let (name, dim) = agreed(&backends)?;
        if !target.create(model, dim, self.dtype)? {
            log::info!("{}: another run created the store at this moment", self.store.display());
            target = self.target(&folder, model)?;
        }
        let (store, roots) = target.prepare(model, dim)?;
        let plan = self.plan(&count, &folder, model, (dim, store.snapshot().dtype()), name);
        if let Some(free) = plan.forecast.free.filter(|_| !plan.forecast.fits()) {
            log::warn!(
                "{}: this run will not fit: about {} will be needed, and {} are free; it stores what it can, and \
                 goes on when there is room",
                self.store.display(),
                HumanBytes(plan.forecast.needed),
                HumanBytes(free),
            );
        }
        if let Some(observer) = &self.observer {
            observer.planned(&plan);
        }
        let shared =
            Shared::new(self.stop.clone(), self.max_read_failures, plan.to_do, self.observer.clone())
                .with_stop_patience(self.stop_patience);
        let fed = self.pipeline(&walk, roots, model, backends, store, &shared)?;
        refuse_outside(&folder, &fed, roots)?;
        let mut summary = summary(fed, &shared, began);
        let accounted = summary.already + summary.embedded + summary.rejected - summary.changed;
        summary.gone = self.gone(store, roots, &walk, accounted, &summary)?;
        if let Err(error) = store.checkpoint() {
            // It only makes the next opening faster.
            log::warn!("{error}");
        }
        Ok(summary)
    }

    /// What [`Run::start`] would find to do. Nothing is written.
    pub(super) fn survey_folder(&self, model: &Model) -> Result<Plan> {
        let folder = canonical_folder(&self.folder)?;
        let target = self.target(&folder, model)?;
        let walk = self.walk(&folder, target.place());
        let count = self.count(&walk, &target)?;
        refuse_outside(&folder, &count.fed, &target.roots)?;
        let backend = open_backend(model, &self.backend)?;
        let (dim, dtype) = match &target.store {
            Some(store) => (store.snapshot().dim(), store.snapshot().dtype()),
            None => (backend.dim(), self.dtype.unwrap_or(DType::F32)),
        };
        Ok(self.plan(&count, &folder, model, (dim, dtype), backend.name().to_owned()))
    }

    /// Entries without a file, after a run that went like this.
    fn gone(&self, store: &Store, roots: &Roots, walk: &Walk, accounted: u64, run: &Summary) -> Result<Gone> {
        let incomplete = match run.ended {
            Ended::Finished if run.unread.count() == 0 => None,
            Ended::Finished => Some("some files or folders could not be read"),
            _ => Some("it was stopped before the end"),
        };
        // What a run did not walk to its end it cannot miss.
        if run.ended != Ended::Finished && !self.prune {
            return Ok(Gone::default());
        }
        let sweep = Sweep { store, roots, walk, prune: self.prune, yes: self.prune_many };
        sweep.sweep(accounted, incomplete)
    }

    /// The store, if there is one, with everything checked that can be before the model is loaded.
    fn target(&self, folder: &Path, model: &Model) -> Result<Target<'_>> {
        let target = Target::open(&self.store, &self.open, &self.settings, folder, &self.roots)?;
        target.check_folder(folder)?;
        target.check(model, self.dtype)?;
        if !target.roots.touch(folder) {
            return Err(outside(folder, folder.to_owned(), 1, &target.roots));
        }
        Ok(target)
    }

    fn walk(&self, folder: &Path, store: Option<PathBuf>) -> Walk {
        let beside = store.as_deref().map(|store| Runs::of_store(store).folder().to_owned());
        Walk {
            source: self.source.clone(),
            folder: folder.to_owned(),
            recursive: self.recursive,
            follow_links: self.follow_links,
            min_images: self.min_images,
            filter: Arc::clone(&self.filter),
            skip: store.into_iter().chain(beside).collect(),
        }
    }

    /// Counts what there is to do: by name and key, and where the name does not tell, by the first bytes.
    fn count(&self, walk: &Walk, target: &Target<'_>) -> Result<Count> {
        let mut lookup = InStore::new(target.store.as_ref());
        let going = || !self.stop.is_raised();
        let mut count = Count::default();
        let mut feed = Feed::new(&target.roots, &going, &mut lookup);
        feed.shard = self.shard;
        feed.walk(walk.all()?, &mut |job| {
            if job.by_content && job.known.is_none() {
                if !going() {
                    return ControlFlow::Break(());
                }
                match has_picture_content(&job.path) {
                    Ok(true) => {}
                    Ok(false) => {
                        count.others.add(&job.path);
                        return ControlFlow::Continue(());
                    }
                    Err(error) => {
                        count.unread.push(&job.path, error.to_string());
                        return ControlFlow::Continue(());
                    }
                }
            }
            count.to_do += 1;
            count.key_bytes += job.key.len() as u64;
            ControlFlow::Continue(())
        })?;
        count.fed = feed.fed;
        if let Some(store) = &target.store {
            count.stored = store.snapshot().totals().entries;
        }
        Ok(count)
    }

    fn plan(
        &self,
        count: &Count,
        folder: &Path,
        model: &Model,
        (dim, dtype): (usize, DType),
        backend: String,
    ) -> Plan {
        let free = free_space(&self.store);
        // What cannot be read is tried again, and settled by that for this run.
        let to_do = count.to_do + count.unread.count();
        Plan {
            found: count.fed.already + to_do,
            stored: count.stored,
            already: count.fed.already,
            to_do,
            changed: count.fed.changed,
            forecast: Forecast::new(count.to_do, count.key_bytes, dim, dtype, self.commit_rows(), free),
            model: model.name().to_owned(),
            backend,
            folder: folder.to_owned(),
            unread: {
                let mut unread = count.fed.unreadable.clone();
                unread.extend(count.unread.clone());
                unread
            },
            ignored: {
                let mut ignored = count.fed.ignored.clone();
                ignored.extend(count.others.clone());
                ignored
            },
        }
    }

    /// Vectors per commit, as far as there are no more.
    pub(super) fn commit_rows(&self) -> usize {
        self.commit_rows.unwrap_or(self.batch_size)
    }
}

/// The name of the backends and the length of their vectors.
fn agreed(backends: &[Box<dyn Backend>]) -> Result<(String, usize)> {
    let dims: Vec<usize> = backends.iter().map(|backend| backend.dim()).collect();
    match (backends, &dims[..]) {
        ([first, ..], [dim, others @ ..]) if others.iter().all(|other| other == dim) => {
            let devices: BTreeSet<&str> = backends.iter().map(|backend| backend.name()).collect();
            let name = match (backends.len(), devices.len()) {
                (1, _) => first.name().to_owned(),
                (lanes, 1) => format!("{} in {lanes} lanes", first.name()),
                // Their names differ in little but the number of the card.
                (lanes, devices) => {
                    format!("{}, and on {} more such devices, in {lanes} lanes", first.name(), devices - 1)
                }
            };
            Ok((name, *dim))
        }
        _ => Err(Error::BadValue {
            what: "backends",
            expected: "one or more, whose vectors are of one length",
            found: format!("vectors of {dims:?}"),
        }),
    }
}

fn refuse_outside(folder: &Path, fed: &Fed, roots: &Roots) -> Result<()> {
    match fed.outside.first().first() {
        Some(example) => Err(outside(folder, example.path.clone(), fed.outside.count(), roots)),
        None => Ok(()),
    }
}

fn outside(folder: &Path, example: PathBuf, count: u64, roots: &Roots) -> Error {
    let holds_root = roots.any_in(folder);
    Error::OutsideRoots { folder: folder.to_owned(), example, count, roots: roots.to_string(), holds_root }
}

/// The summary of a run that found nothing to do, or was stopped while it counted.
fn nothing_done(count: Count, began: Instant) -> Summary {
    let mut unread = count.fed.unreadable;
    unread.extend(count.unread);
    let mut ignored = count.fed.ignored;
    ignored.extend(count.others);
    Summary {
        ended: if count.fed.complete { Ended::Finished } else { Ended::Stopped },
        found: count.fed.already + unread.count(),
        already: count.fed.already,
        embedded: 0,
        changed: 0,
        rejected: 0,
        classes: BTreeMap::new(),
        rejections: FirstFew::default(),
        left: count.to_do,
        ignored,
        skipped: count.fed.skipped,
        excluded: count.fed.excluded,
        too_few: count.fed.too_few,
        unread,
        gone: Gone::default(),
        commits: 0,
        stages: Stages::default(),
        elapsed: began.elapsed(),
    }
}

fn summary(fed: Fed, shared: &Shared, began: Instant) -> Summary {
    let tally = shared.tally_now();
    let progress = tally.progress;
    let mut unread = tally.unread;
    unread.extend(fed.unreadable);
    let mut ignored = fed.ignored;
    ignored.extend(tally.ignored);
    // A stop that came when everything was under way already changed nothing.
    let ended = match fed.complete && tally.left_out == 0 {
        true => Ended::Finished,
        false if shared.had_read_failures() => Ended::ReadFailures,
        false => Ended::Stopped,
    };
    let already = fed.already + progress.overtaken + progress.same;
    Summary {
        ended,
        found: already + progress.embedded + progress.rejected + unread.count(),
        already,
        embedded: progress.embedded,
        changed: progress.changed,
        rejected: progress.rejected,
        classes: tally.classes,
        rejections: tally.rejections,
        // What others did of it is none.
        left: if ended == Ended::Finished { 0 } else { progress.to_do.saturating_sub(progress.done()) },
        ignored,
        skipped: fed.skipped,
        excluded: fed.excluded,
        too_few: fed.too_few,
        unread,
        gone: Gone::default(),
        commits: progress.commits,
        stages: tally.stages,
        elapsed: began.elapsed(),
    }
}
