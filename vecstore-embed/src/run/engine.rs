//! What a [`Run`] does, in order: look, count, prepare the store, let the stages work, sum up.

use std::ops::ControlFlow;
use std::panic;
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use crossbeam_channel::bounded;
use indicatif::HumanBytes;
use vecstore::Store;

use super::budget::Budget;
use super::commit::commit;
use super::feed::{Fed, feed, has_picture_content};
use super::infer::infer;
use super::shared::Shared;
use super::target::Target;
use super::worker::{Pool, Prepare, work};
use super::{Ended, Run, Summary};
use crate::backend::Backend;
use crate::forecast::{Forecast, free_space};
use crate::model::Model;
use crate::progress::{FirstFew, Plan};
use crate::roots::Roots;
use crate::scan::{Scan, canonical_folder};
use crate::{Error, Result};

/// Batches that may wait for the committing thread.
const OUTPUTS_WAITING: usize = 2;

/// Jobs per worker that may wait, so that none idles while the next keys are looked up.
const JOBS_WAITING: usize = 4;

/// Samples that may wait for the model, and two more per worker.
const SAMPLES_WAITING: usize = 32;

/// What there is to do, counted beforehand.
#[derive(Default)]
struct Count {
    fed: Fed,
    /// Inputs that the store lacks.
    to_do: u64,
    key_bytes: u64,
    /// Files whose name does not make them inputs, nor does their content.
    others: u64,
    /// Files that could be inputs by their content, which cannot be read.
    unread: FirstFew,
}

impl Run {
    pub(super) fn start(
        &self,
        model: &Model,
        backend: impl FnOnce() -> Result<Box<dyn Backend>>,
    ) -> Result<Summary> {
        let began = Instant::now();
        let folder = canonical_folder(&self.folder)?;
        let mut target = self.target(&folder, model)?;
        let place = target.place();
        let scan = || Scan::new(&folder, self.recursive).skipping(place.clone());
        let count = self.count(scan(), &target)?;
        refuse_outside(&folder, &count.fed, &target.roots)?;
        if count.to_do == 0 || !count.fed.complete {
            target.record()?;
            return Ok(nothing_done(count, began));
        }

        let backend = backend()?;
        if !target.create(model, backend.dim(), self.dtype)? {
            log::info!("{}: another run created the store at this moment", self.store.display());
            target = self.target(&folder, model)?;
        }
        let (store, roots) = target.prepare(model, backend.dim())?;
        let plan = self.plan(&count, &folder, model, store, backend.as_ref());
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
            Shared::new(self.stop.clone(), self.max_read_failures, plan.to_do, self.observer.clone());
        let fed = self.pipeline(scan(), roots, model, backend, store, &shared)?;
        store.checkpoint()?;
        refuse_outside(&folder, &fed, roots)?;
        Ok(summary(fed, &shared, began))
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

    /// Counts what there is to do: by name and key, and where the name does not tell, by the first bytes.
    fn count(&self, scan: Scan, target: &Target<'_>) -> Result<Count> {
        let snapshot = target.store.as_ref().map(Store::refresh).transpose()?;
        let mut missing = |keys: &[Vec<u8>]| match &snapshot {
            Some(snapshot) => Ok(snapshot.missing(keys)?),
            None => Ok((0..keys.len()).collect()),
        };
        let going = || !self.stop.is_raised();
        let mut count = Count::default();
        count.fed = feed(scan, &target.roots, &going, &mut missing, &mut |job| {
            if job.by_content {
                if !going() {
                    return ControlFlow::Break(());
                }
                match has_picture_content(&job.path) {
                    Ok(true) => {}
                    Ok(false) => {
                        count.others += 1;
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
        Ok(count)
    }

    fn plan(
        &self,
        count: &Count,
        folder: &Path,
        model: &Model,
        store: &Store,
        backend: &dyn Backend,
    ) -> Plan {
        let (dim, dtype, free) = (store.dim(), store.dtype(), free_space(&self.store));
        // What cannot be read is tried again, and settled by that for this run.
        let to_do = count.to_do + count.unread.count();
        Plan {
            found: count.fed.already + to_do,
            already: count.fed.already,
            to_do,
            forecast: Forecast::new(count.to_do, count.key_bytes, dim, dtype, self.batch_size, free),
            model: model.name().to_owned(),
            backend: backend.name().to_owned(),
            folder: folder.to_owned(),
        }
    }

    /// Runs the stages until the feed ends. The calling thread is the one that commits.
    ///
    /// A stage that fails drops its end of the channel before it, so every stage before it finds nobody to send to
    /// and ends; the stages after it finish what they have.
    fn pipeline(
        &self,
        scan: Scan,
        roots: &Roots,
        model: &Model,
        mut backend: Box<dyn Backend>,
        store: &Store,
        shared: &Shared,
    ) -> Result<Fed> {
        // One batch is made ready while the model works on another, but a large one not from so far ahead.
        let waiting = self.batch_size.min(self.workers.saturating_mul(2).saturating_add(SAMPLES_WAITING));
        let prepare = Prepare {
            preprocess: model.preprocess(),
            limits: self.limits,
            max_file: self.max_file,
            files: Budget::new(self.max_decoded),
            decoded: Budget::new(self.max_decoded),
            pool: Pool::new(waiting.saturating_add(self.workers)),
        };
        let prepare = &prepare;
        let (to_worker, jobs) = bounded(self.workers.saturating_mul(JOBS_WAITING));
        let (to_infer, samples) = bounded(waiting);
        let (to_commit, outputs) = bounded(OUTPUTS_WAITING);
        thread::scope(|scope| {
            let feeder = scope.spawn(move || {
                // Another process may be filling the same store: its commits are looked for with every lookup.
                let mut missing = |keys: &[Vec<u8>]| Ok(store.refresh()?.missing(keys)?);
                feed(scan, roots, &|| shared.is_going(), &mut missing, &mut |job| match shared.is_going()
                    && to_worker.send(job).is_ok()
                {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                })
            });
            for _ in 0..self.workers {
                let (jobs, to_infer) = (jobs.clone(), to_infer.clone());
                scope.spawn(move || work(&jobs, &to_infer, prepare, shared));
            }
            drop((jobs, to_infer));
            let inferring = scope
                .spawn(move || infer(&samples, &to_commit, backend.as_mut(), self.batch_size, &prepare.pool));
            let committed = commit(outputs, store, shared);
            let inferred = join(inferring);
            let fed = join(feeder);
            committed.and(inferred).and(fed)
        })
    }
}

/// The thread's result; a panic there goes on here.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
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
    Summary {
        ended: if count.fed.complete { Ended::Finished } else { Ended::Stopped },
        found: count.fed.already + unread.count(),
        already: count.fed.already,
        embedded: 0,
        rejected: 0,
        rejections: FirstFew::default(),
        left: count.to_do,
        ignored: count.fed.ignored + count.others,
        skipped: count.fed.skipped,
        unread,
        commits: 0,
        elapsed: began.elapsed(),
    }
}

fn summary(fed: Fed, shared: &Shared, began: Instant) -> Summary {
    let tally = shared.tally_now();
    let progress = tally.progress;
    let mut unread = tally.unread;
    unread.extend(fed.unreadable);
    // A stop that came when everything was under way already changed nothing.
    let ended = match fed.complete && tally.left_out == 0 {
        true => Ended::Finished,
        false if shared.had_read_failures() => Ended::ReadFailures,
        false => Ended::Stopped,
    };
    let already = fed.already + progress.overtaken;
    Summary {
        ended,
        found: already + progress.embedded + progress.rejected + unread.count(),
        already,
        embedded: progress.embedded,
        rejected: progress.rejected,
        rejections: tally.rejections,
        left: progress.to_do.saturating_sub(progress.done()),
        ignored: fed.ignored + tally.ignored,
        skipped: fed.skipped,
        unread,
        commits: progress.commits,
        elapsed: began.elapsed(),
    }
}
