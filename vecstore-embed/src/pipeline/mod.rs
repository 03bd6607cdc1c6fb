//! The stages between a source and a store, joined by bounded channels:
//!
//! ```text
//!                                 ┌──── rejected, unread, without items ────┐
//!                                 │                                          ▼
//! lookup ──▶ read × R ──▶ prepare × N ──▶ batch ──▶ infer × L ──▶ gather ──▶ commit
//! which keys  content      load, write    items      a model      entries     one thread,
//! are         ahead of     items into     become     each         that are    appends
//! missing     its use      slots          batches                 complete    durably
//! ```
//!
//! A slow stage holds up those before it; none runs ahead by more than its channel holds, and bytes read and
//! loaded are capped besides. What a stage could not finish is recorded nowhere: it is simply missing from
//! the store, and the next run finds it by its key.

mod batch;
mod commit;
mod entry;
mod in_store;
mod infer;
mod limits;
mod lookup;
mod prepare;
mod read;
pub mod report;
mod save;
mod shared;
mod sharing;

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::panic;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use parking_lot::Mutex;

pub use self::entry::{Embedded, Outcome};

pub(crate) use self::commit::commit;
pub(crate) use self::entry::Done;
pub(crate) use self::in_store::InStore;
pub(crate) use self::lookup::{Fed, Feed, Job, Sink};
pub(crate) use self::save::{Patience, Saver};
pub(crate) use self::shared::{Shared, Tally};
pub(crate) use self::sharing::Claims;

use self::batch::{Assembly, Shape};
use self::infer::{Lane, elements, infer};
use self::limits::Budget;
use self::prepare::{Prepare, work};
use self::read::{Readers, read};
use self::report::{Clock, Clocks, Doing, Meter};
use crate::backend::Encoder;
use crate::base::{Error, Result};
use crate::source::Source;
use crate::task::{Bucket, Task};

/// Batches of each lane that may wait for the committing thread.
const OUTPUTS_WAITING: usize = 2;

/// Jobs per worker that may wait, so that no reader idles while the next keys are looked up.
const JOBS_WAITING: usize = 4;

/// Contents per worker that may wait.
const READ_AHEAD: usize = 2;

/// Interval at which the observer is told how fast the run is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How much the stages do at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Widths {
    /// Items per inference.
    pub(crate) batch: usize,
    /// Whether batches are made in memory that a card reads by itself. It takes time to get.
    pub(crate) pinned: bool,
    /// Threads that read ahead.
    pub(crate) readers: usize,
    /// Threads that load.
    pub(crate) workers: usize,
    /// Largest content that is read, in bytes.
    pub(crate) max_content: u64,
    /// Bytes of loaded content in memory at once, and likewise of files.
    pub(crate) max_loaded: u64,
}

/// The stages of one run.
pub(crate) struct Pipeline<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) task: &'a dyn Task,
    pub(crate) widths: Widths,
    /// Whether to remember the stamp and hash of what is read.
    pub(crate) remember: bool,
    pub(crate) shared: &'a Shared,
}

impl Pipeline<'_> {
    /// Runs the stages until the feed ends. The calling thread is the one that commits.
    ///
    /// A stage that fails drops its end of the channel before it, or abandons the assembly, so every stage
    /// before it finds its channel closed and ends; the stages after it finish what they have.
    pub(crate) fn run<F: Send>(
        &self,
        encoders: &[Mutex<Box<dyn Encoder>>],
        feed: impl FnOnce(&mut Sink<'_>) -> Result<F> + Send,
        commit: impl FnOnce(&Receiver<Vec<Done>>, &Clock) -> Result<()>,
    ) -> Result<F> {
        let (lanes, workers, shared) = (encoders.len(), self.widths.workers, self.shared);
        let buckets = self.buckets(encoders)?;
        let assembly = self.assembly(&buckets, encoders);
        let files = Budget::new(self.widths.max_loaded);
        let readers = Readers {
            source: self.source,
            accepts: self.task.accepts(),
            max_content: self.widths.max_content,
            remember: self.remember,
            files: &files,
        };
        let prepare = Prepare {
            source: self.source,
            task: self.task,
            loaded: Budget::new(self.widths.max_loaded),
            assembly: &assembly,
            left_out: shared.left_out_counter(),
        };
        let clocks = Clocks::new(self.widths.readers, workers, lanes);
        let (readers, prepare, clocks, assembly, buckets) =
            (&readers, &prepare, &clocks, &assembly, &buckets);
        let (to_reader, jobs) = bounded(workers.saturating_mul(JOBS_WAITING));
        let (to_worker, contents) = bounded(workers.saturating_mul(READ_AHEAD));
        let (to_commit, outputs) = bounded(lanes.saturating_mul(OUTPUTS_WAITING));
        let (end, ended) = bounded::<Infallible>(0);
        thread::scope(|scope| {
            let feeder = scope.spawn(move || {
                clocks.scan.switch(Doing::Working);
                let fed = feed(&mut |job| {
                    let _waiting = clocks.scan.during(Doing::WaitingForOutput, Doing::Working);
                    match shared.is_going() && to_reader.send(job).is_ok() {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    }
                });
                clocks.scan.switch(Doing::Nothing);
                fed
            });
            for clock in &clocks.read {
                let (jobs, to_worker, to_commit) = (jobs.clone(), to_worker.clone(), to_commit.clone());
                scope.spawn(move || read(&jobs, &to_worker, &to_commit, readers, shared, clock));
            }
            let spawn = |clock| {
                let (contents, to_commit) = (contents.clone(), to_commit.clone());
                scope.spawn(move || work(&contents, &to_commit, prepare, shared, clock))
            };
            let preparing: Vec<_> = clocks.prepare.iter().map(spawn).collect();
            let inferring: Vec<_> = encoders
                .iter()
                .zip(&clocks.infer)
                .map(|(encoder, clock)| {
                    let to_commit = to_commit.clone();
                    let lane = Lane::new(encoder, self.task, buckets);
                    scope.spawn(move || infer(lane, assembly, &to_commit, shared, clock))
                })
                .collect();
            drop((jobs, to_worker, contents, to_commit));
            scope.spawn(move || tell(&ended, shared, clocks));
            let committed = commit(&outputs, &clocks.commit);
            // Stages that still wait to send something find the channel closed.
            drop((outputs, end));
            let inferred = inferring.into_iter().chain(preparing).map(join).fold(Ok(()), Result::and);
            let fed = join(feeder);
            shared.ended(clocks.stages());
            committed.and(inferred).and(fed)
        })
    }

    /// The shapes of items, for encoders that all take the same tensors.
    fn buckets(&self, encoders: &[Mutex<Box<dyn Encoder>>]) -> Result<Vec<Bucket>> {
        let signatures: Vec<_> = encoders.iter().map(|encoder| encoder.lock().signature().clone()).collect();
        let same = signatures.iter().all(|other| Some(other) == signatures.first());
        let Some(first) = signatures.first().filter(|first| same && first.dim() > 0) else {
            let expected = "one or more, which take the same tensors and give vectors of one length";
            return Err(Error::bad_value("encoders", expected, format!("{signatures:?}")));
        };
        let buckets = self.task.buckets(first)?;
        let fits = |bucket: &Bucket| {
            bucket.shapes.len() == first.inputs.len()
                && bucket.shapes.iter().all(|shape| length(shape).is_some_and(|length| length > 0))
        };
        if buckets.is_empty() || !buckets.iter().all(fits) {
            let expected = "one or more, each with a shape without zeros for every input of the encoder";
            return Err(Error::bad_value("buckets of the task", expected, format!("{buckets:?}")));
        }
        Ok(buckets)
    }

    /// Tensors that go round: for each lane the ones it works on and the ones that are being filled
    /// meanwhile, and some that wait between the two, unless they are huge. Each bucket more may have a batch
    /// that is being filled.
    fn assembly(&self, buckets: &[Bucket], encoders: &[Mutex<Box<dyn Encoder>>]) -> Assembly {
        const HUGE: usize = 256 << 20;
        let shapes = buckets.iter().map(|bucket| Shape {
            items: bucket.items.unwrap_or(usize::MAX).min(self.widths.batch).max(1),
            lengths: bucket.shapes.iter().filter_map(|shape| length(shape)).collect(),
        });
        let elements = encoders.first().map(|encoder| elements(encoder.lock().as_ref())).unwrap_or_default();
        let shapes: Vec<Shape> = shapes.collect();
        let bytes = |shape: &Shape| {
            let one = shape
                .lengths
                .iter()
                .zip(&elements)
                .map(|(length, element)| element.size().saturating_mul(*length));
            one.fold(0, usize::saturating_add).saturating_mul(shape.items)
        };
        let largest = shapes.iter().map(bytes).max().unwrap_or(0);
        let tensors =
            encoders.len().saturating_mul(2) + usize::from(largest < HUGE) + buckets.len().saturating_sub(1);
        let assembly = Assembly::new(shapes, elements, self.widths.workers, tensors);
        // From memory that a card reads by itself, where there is such.
        let lengths = assembly.lengths();
        let set = |encoder: &dyn Encoder| -> Option<Vec<_>> {
            lengths.iter().map(|(element, length)| encoder.memory(*element, *length)).collect()
        };
        let sets = encoders.iter().cycle().take(if self.widths.pinned { tensors } else { 0 });
        assembly.with(sets.map_while(|encoder| set(encoder.lock().as_ref())).collect())
    }
}

/// Numbers of an item of this shape.
fn length(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1, |length: usize, dim| length.checked_mul(*dim))
}

/// Tells the observer once a second how fast the run is, until `end` is dropped.
fn tell(end: &Receiver<Infallible>, shared: &Shared, clocks: &Clocks) {
    let mut meter = Meter::new(Instant::now());
    while end.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
        // Starts the clock of a stop even when every stage is blocked.
        let _ = shared.time_left();
        shared.tell(|progress| meter.look(Instant::now(), progress, clocks.stages()));
    }
}

/// The thread's result; a panic there goes on here.
fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}
