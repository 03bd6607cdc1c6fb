//! What a [`Run`] does, in order: look, count, prepare the store, let the stages work, sum up.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem, panic};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use indicatif::HumanBytes;
use vecstore::{DType, Store};

use super::assembly::Assembly;
use super::budget::Budget;
use super::claims::Claims;
use super::clock::{Clocks, Doing};
use super::commit::commit;
use super::feed::{Fed, Feed, Sink};
use super::gone::{Gone, Sweep};
use super::infer::infer;
use super::lookup::InStore;
use super::save::{Patience, Saver};
use super::shared::Shared;
use super::target::Target;
use super::walk::Walk;
use super::worker::{Prepare, work};
use super::{Ended, Run, Summary};
use crate::backend::{Backend, open_backend};
use crate::forecast::{Forecast, free_space};
use crate::model::Model;
use crate::pace::Meter;
use crate::pixels::PixelType;
use crate::progress::{FirstFew, Plan, Stages};
use crate::roots::Roots;
use crate::runs::Runs;
use crate::scan::{canonical_folder, has_picture_content};
use crate::{Error, Result};

/// Batches of each lane that may wait for the committing thread.
const OUTPUTS_WAITING: usize = 2;

/// Jobs per worker that may wait, so that none idles while the next keys are looked up.
const JOBS_WAITING: usize = 4;

/// How often the observer is told how fast the run is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How often is looked whether others have given chunks back.
const WAIT: Duration = Duration::from_millis(50);

/// How long others are waited for before that is told.
const WAIT_UNTOLD: Duration = Duration::from_secs(2);

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
    others: u64,
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
        let plan = self.plan(&count, &folder, model, (dim, store.dtype()), name);
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
            Some(store) => (store.dim(), store.dtype()),
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
        count.fed = feed.fed;
        if let Some(store) = &target.store {
            let totals = store.snapshot().totals();
            count.stored = totals.entries + totals.rejected;
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
        }
    }

    /// Vectors per commit, as far as there are no more.
    fn commit_rows(&self) -> usize {
        self.commit_rows.unwrap_or(self.batch_size)
    }

    /// Tensors that go round: for each lane the one it works on and the one that is being filled meanwhile, and one
    /// that waits between the two, unless they are huge.
    fn tensors(&self, length: usize, lanes: usize) -> usize {
        const HUGE: usize = 256 << 20;
        let bytes = self.batch_size.saturating_mul(length).saturating_mul(size_of::<f32>());
        lanes.saturating_mul(2).saturating_add(usize::from(bytes < HUGE))
    }

    /// Runs the stages until the feed ends. The calling thread is the one that commits.
    ///
    /// A stage that fails drops its end of the channel before it, or abandons the assembly, so every stage before it
    /// finds nobody to send to and ends; the stages after it finish what they have.
    fn pipeline(
        &self,
        walk: &Walk,
        roots: &Roots,
        model: &Model,
        mut backends: Vec<Box<dyn Backend>>,
        store: &Store,
        shared: &Shared,
    ) -> Result<Fed> {
        let (lanes, length) = (backends.len(), model.preprocess().tensor_len());
        let tensors = self.tensors(length, lanes);
        let pixel_type = pixel_type(&backends);
        // From memory that a card reads by itself, where there is such.
        let numbers = self.batch_size.saturating_mul(length);
        let pinned =
            backends.iter().cycle().take(tensors).map_while(|backend| backend.tensor(numbers)).collect();
        let assembly =
            Assembly::new(self.workers, self.batch_size, length, tensors).of(pixel_type).with(pinned);
        let prepare = Prepare {
            preprocess: model.preprocess(),
            limits: self.limits,
            max_file: self.max_file,
            files: Budget::new(self.max_decoded),
            decoded: Budget::new(self.max_decoded),
            assembly: &assembly,
        };
        let clocks = Clocks::new(self.workers, lanes);
        let (prepare, clocks, assembly) = (&prepare, &clocks, &assembly);
        let (to_worker, jobs) = bounded(self.workers.saturating_mul(JOBS_WAITING));
        let (to_commit, outputs) = bounded(lanes.saturating_mul(OUTPUTS_WAITING));
        let (end, ended) = bounded::<Infallible>(0);
        thread::scope(|scope| {
            let feeder = scope.spawn(move || {
                clocks.scan.switch(Doing::Working);
                let fed = self.feed(walk, roots, store, shared, &mut |job| {
                    let _waiting = clocks.scan.during(Doing::WaitingForOutput, Doing::Working);
                    match shared.is_going() && to_worker.send(job).is_ok() {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    }
                });
                clocks.scan.switch(Doing::Nothing);
                fed
            });
            for clock in &clocks.prepare {
                let (jobs, to_commit) = (jobs.clone(), to_commit.clone());
                scope.spawn(move || work(&jobs, &to_commit, prepare, shared, clock));
            }
            let inferring: Vec<_> = backends
                .iter_mut()
                .zip(&clocks.infer)
                .map(|(backend, clock)| {
                    let to_commit = to_commit.clone();
                    scope.spawn(move || infer(assembly, &to_commit, backend.as_mut(), length, shared, clock))
                })
                .collect();
            drop((jobs, to_commit));
            scope.spawn(move || tell(&ended, shared, clocks));
            let patience = Patience { retries: self.save_retries, wait: self.save_wait };
            let saver = Saver::new(store, &self.open, patience, shared);
            let committed = commit(&outputs, saver, self.commit_rows(), &clocks.commit);
            // Whoever still waits to send something finds nobody.
            drop((outputs, end));
            let inferred = inferring.into_iter().map(join).fold(Ok(()), Result::and);
            let fed = join(feeder);
            shared.ended(clocks.stages());
            committed.and(inferred).and(fed)
        })
    }

    /// Walks the inputs, and then, until there are none, those that other runs had claimed and have given up.
    fn feed(
        &self,
        walk: &Walk,
        roots: &Roots,
        store: &Store,
        shared: &Shared,
        sink: &mut Sink<'_>,
    ) -> Result<Fed> {
        let going = || shared.is_going();
        let mut lookup = InStore::new(Some(store));
        let mut feed = Feed::new(roots, &going, &mut lookup);
        feed.shard = self.shard;
        feed.chunk = self.chunk_size;
        feed.in_order = walk.is_in_order();
        feed.claims = self.claims();
        feed.walk(walk.all()?, sink)?;
        let (mut since, mut told) = (Instant::now(), false);
        while feed.fed.complete && feed.has_deferred() {
            shared.set_waiting(true);
            let (chunks, units, taken) = feed.free().map_err(|source| self.io("look at", source))?;
            if !chunks.is_empty() {
                shared.set_waiting(false);
                feed.again(Some(chunks));
                feed.walk(walk.some(units)?, sink)?;
                since = Instant::now();
                if mem::take(&mut told) {
                    shared.paused(None);
                }
            } else if taken == 0 && feed.take_forgotten() {
                shared.set_waiting(false);
                feed.again(None);
                feed.walk(walk.all()?, sink)?;
            } else {
                feed.fed.complete = going();
                thread::sleep(WAIT);
                if !told && since.elapsed() >= WAIT_UNTOLD {
                    told = true;
                    shared.paused(Some(
                        "other runs have begun what is left; waiting until they have finished it",
                    ));
                }
            }
        }
        Ok(feed.fed)
    }

    /// The claims of this run. Without them it works all the same, only not in company.
    fn claims(&self) -> Option<Arc<Claims>> {
        let runs = Runs::of_store(&self.store);
        let path = runs.claims();
        match runs.create_folder().and_then(|()| Claims::open(&path)) {
            Ok(claims) => Some(claims),
            Err(error) => {
                log::warn!("{}: {error}; runs at the same time may embed the same pictures", path.display());
                None
            }
        }
    }

    fn io(&self, action: &'static str, source: io::Error) -> Error {
        let remedy = "runs share their work through it: check the permissions of the folder around the store, and its disk";
        Error::Io { path: Runs::of_store(&self.store).claims(), action, source, remedy }
    }
}

/// Tells the observer once a second how fast the run is, until `end` is dropped.
fn tell(end: &Receiver<Infallible>, shared: &Shared, clocks: &Clocks) {
    let mut meter = Meter::new(Instant::now());
    while end.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
        // Somebody has to see when it was asked for, while all others wait.
        let _ = shared.time_left();
        shared.tell(|progress| meter.look(Instant::now(), progress, clocks.stages()));
    }
}

/// What all lanes want pictures to be made of. Who wants something else than the others gets f32, which fits everybody.
fn pixel_type(backends: &[Box<dyn Backend>]) -> PixelType {
    let mut types = backends.iter().map(|backend| backend.pixel_type());
    let first = types.next().unwrap_or_default();
    if types.all(|other| other == first) { first } else { PixelType::F32 }
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
        changed: 0,
        rejected: 0,
        rejections: FirstFew::default(),
        left: count.to_do,
        ignored: count.fed.ignored + count.others,
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
        rejections: tally.rejections,
        // What others did of it is none.
        left: if ended == Ended::Finished { 0 } else { progress.to_do.saturating_sub(progress.done()) },
        ignored: fed.ignored + tally.ignored,
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
