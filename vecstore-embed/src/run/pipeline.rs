//! The stages of a run at work: threads and channels between them, from the walk to the commit.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem, panic};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use vecstore::Store;

use super::Run;
use super::assembly::Assembly;
use super::budget::Budget;
use super::claims::Claims;
use super::clock::{Clocks, Doing};
use super::commit::commit;
use super::feed::{Fed, Feed, Sink};
use super::infer::infer;
use super::lookup::InStore;
use super::save::{Patience, Saver};
use super::shared::Shared;
use super::walk::Walk;
use super::worker::{Prepare, work};
use crate::backend::Backend;
use crate::model::Model;
use crate::pace::Meter;
use crate::pixels::PixelType;
use crate::roots::Roots;
use crate::runs::Runs;
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

impl Run {
    /// Tensors that go round: for each lane the one it works on and the one that is being filled meanwhile, and one
    /// that waits between the two, unless they are huge.
    fn tensors(&self, length: usize, lanes: usize, pixel_type: PixelType) -> usize {
        const HUGE: usize = 256 << 20;
        let bytes = self.batch_size.saturating_mul(length).saturating_mul(pixel_type.size());
        lanes.saturating_mul(2).saturating_add(usize::from(bytes < HUGE))
    }

    /// Runs the stages until the feed ends. The calling thread is the one that commits.
    ///
    /// A stage that fails drops its end of the channel before it, or abandons the assembly, so every stage before it
    /// finds nobody to send to and ends; the stages after it finish what they have.
    pub(super) fn pipeline(
        &self,
        walk: &Walk,
        roots: &Roots,
        model: &Model,
        mut backends: Vec<Box<dyn Backend>>,
        store: &Store,
        shared: &Shared,
    ) -> Result<Fed> {
        let (lanes, length) = (backends.len(), model.preprocess().tensor_len());
        let pixel_type = pixel_type(&backends);
        let tensors = self.tensors(length, lanes, pixel_type);
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
        let mut pause = Pause::new(shared);
        while feed.fed.complete && feed.has_deferred() {
            shared.set_waiting(true);
            let (chunks, units, taken) = feed.free().map_err(|source| self.io("look at", source))?;
            if !chunks.is_empty() {
                pause.end();
                feed.again(Some(chunks));
                feed.walk(walk.some(units)?, sink)?;
            } else if taken == 0 && feed.take_forgotten() {
                pause.end();
                feed.again(None);
                feed.walk(walk.all()?, sink)?;
            } else {
                feed.fed.complete = going();
                thread::sleep(WAIT);
                pause.look();
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

/// Tells the observer that a run waits for others, as long as nothing of its own is finished either.
struct Pause<'a> {
    shared: &'a Shared,
    /// What was settled when this was last looked at, and since when no more is.
    done: (u64, Instant),
    told: bool,
}

impl<'a> Pause<'a> {
    fn new(shared: &'a Shared) -> Self {
        Pause { shared, done: (0, Instant::now()), told: false }
    }

    /// There is something to do.
    fn end(&mut self) {
        self.shared.set_waiting(false);
        self.going_on();
    }

    fn look(&mut self) {
        let done = self.shared.tally().progress.done();
        if done != self.done.0 {
            self.done.0 = done;
            self.going_on();
        } else if !self.told && self.done.1.elapsed() >= WAIT_UNTOLD {
            self.told = true;
            let why = "other runs have begun what is left; waiting until they have finished it";
            self.shared.paused(Some(why));
        }
    }

    fn going_on(&mut self) {
        self.done.1 = Instant::now();
        if mem::take(&mut self.told) {
            self.shared.paused(None);
        }
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

/// The thread's result; a panic there goes on here.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}
