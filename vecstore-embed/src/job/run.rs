//! What a [`Run`] does, in order: look, count, prepare the store, let the stages work, sum up.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{io, mem};

use vecstore::{Snapshot, Store};

use super::prune::{Gone, Sweep};
use super::survey::{Count, is_in_order, refuse_outside};
use super::{Ended, Run, Summary};
use crate::base::{Error, Result};
use crate::embedder::Embedder;
use crate::keys::Roots;
use crate::pipeline::{Claims, Fed, Feed, InStore, Patience, Pipeline, Saver, Shared, Sink, Tally, commit};
use crate::runs::Runs;
use crate::source::Source;

/// Interval at which deferred chunks are polled.
const WAIT: Duration = Duration::from_millis(50);

/// How long other runs are waited for before that is told.
const WAIT_UNTOLD: Duration = Duration::from_secs(2);

impl Run {
    /// Runs until the end of the source, or until it is stopped.
    ///
    /// # Errors
    /// The source, the store, the roots or the model cannot be used; the model fails on a batch; the store
    /// cannot take one. What was committed before stays, what was not stays missing, and the same run goes on
    /// from there.
    pub fn run(&self, embedder: &Embedder) -> Result<Summary> {
        let began = Instant::now();
        embedder.check_storable()?;
        let mut target = self.target(embedder)?;
        let mut source = self.source(&target, embedder)?;
        let count = self.count(source.as_ref(), embedder, &target)?;
        refuse_outside(source.as_ref(), &count.fed, &target.roots)?;
        if count.to_do == 0 || !count.fed.complete {
            target.record(embedder)?;
            let accounted = count.fed.already;
            let mut summary = nothing_done(&count, began);
            if let Some(store) = &target.store {
                summary.gone = self.gone(store, &target.roots, source.as_ref(), accounted, &summary)?;
            }
            return Ok(summary);
        }

        let (name, dim) = embedder.describe()?;
        if !target.create(embedder, dim, self.dtype)? {
            log::info!("{}: another run created the store at this moment", self.store.display());
            target = self.target(embedder)?;
            source = self.source(&target, embedder)?;
        }
        let (store, roots) = target.prepare(embedder, dim)?;
        let plan = self.plan(&count, source.as_ref(), embedder, (dim, store.snapshot().dtype()), name);
        if let Some(free) = plan.forecast.free.filter(|_| !plan.forecast.fits()) {
            log::warn!(
                "{}: this run will not fit: about {} MiB will be needed, and {} MiB are free; it stores what \
                 it can, and goes on when there is room",
                self.store.display(),
                plan.forecast.needed >> 20,
                free >> 20,
            );
        }
        if let Some(observer) = &self.observer {
            observer.planned(&plan);
        }
        let shared =
            Shared::new(self.stop.clone(), self.max_read_failures, plan.to_do, self.observer.clone())
                .with_stop_patience(self.stop_patience);
        let fed = self.work(embedder, source.as_ref(), store, count.store, &shared)?;
        refuse_outside(source.as_ref(), &fed, roots)?;
        let mut summary = summary(fed, &shared, began);
        let accounted =
            (summary.already + summary.embedded + summary.rejected).saturating_sub(summary.changed);
        summary.gone = self.gone(store, roots, source.as_ref(), accounted, &summary)?;
        if let Err(error) = store.checkpoint() {
            // It only makes the next opening faster.
            log::warn!("{error}");
        }
        Ok(summary)
    }

    /// Lets the stages work.
    fn work(
        &self,
        embedder: &Embedder,
        source: &dyn Source,
        store: &Store,
        counted: Option<Snapshot>,
        shared: &Shared,
    ) -> Result<Fed> {
        let lanes = embedder.lanes()?;
        let pipeline =
            Pipeline { source, task: embedder.task(), widths: embedder.widths(), remember: true, shared };
        let patience = Patience { retries: self.save_retries, wait: self.save_wait };
        pipeline.run(
            &lanes,
            |sink| self.feed(embedder, source, InStore::since(store, counted), shared, sink),
            |outputs, clock| {
                let saver = Saver::new(store, &self.open, patience, shared);
                commit(outputs, saver, self.commit_rows(embedder), clock)
            },
        )
    }

    /// Walks the inputs, and then, until there are none, those that other runs had claimed and have given up.
    fn feed(
        &self,
        embedder: &Embedder,
        source: &dyn Source,
        mut lookup: InStore<'_>,
        shared: &Shared,
        sink: &mut Sink<'_>,
    ) -> Result<Fed> {
        let going = || shared.is_going();
        let others = |inputs: u64| shared.others(inputs);
        let mut feed = Feed::new(source, embedder.task().accepts(), &going, &mut lookup);
        feed.shard = self.shard;
        feed.chunk = self.chunk_size;
        feed.in_order = is_in_order(source);
        feed.claims = self.claims();
        feed.others = &others;
        feed.walk(source.walk()?, sink)?;
        let mut pause = Pause::new(shared);
        while feed.fed.complete && feed.has_deferred() {
            shared.set_waiting(true);
            let units = feed.free().map_err(|source| self.io("look at", source))?;
            if !units.is_empty() {
                pause.end();
                feed.walk(source.walk_units(units)?, sink)?;
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
                log::warn!("{}: {error}; runs at the same time may embed the same inputs", path.display());
                None
            }
        }
    }

    fn io(&self, action: &'static str, source: io::Error) -> Error {
        let remedy = "runs share their work through it: check the permissions of the folder around the \
            store, and its disk";
        Error::Io { path: Runs::of_store(&self.store).claims(), action, source, remedy }
    }

    /// Entries without a file, after a run that went like this.
    fn gone(
        &self,
        store: &Store,
        roots: &Roots,
        source: &dyn Source,
        accounted: u64,
        run: &Summary,
    ) -> Result<Gone> {
        let incomplete = match run.ended {
            Ended::Finished if run.unread.count() == 0 => None,
            Ended::Finished => Some("some files or folders could not be read"),
            _ => Some("it was stopped before the end"),
        };
        // What a run did not walk to its end it cannot miss.
        if run.ended != Ended::Finished && !self.prune {
            return Ok(Gone::default());
        }
        let files = source.files().filter(|files| files.is_folder());
        let sweep = Sweep { store, roots, files, prune: self.prune, yes: self.prune_many };
        sweep.sweep(accounted, incomplete)
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
        let done = self.shared.done();
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

/// The summary of a run that found nothing to do, or was stopped while it counted.
fn nothing_done(count: &Count, began: Instant) -> Summary {
    let unread = count.all_unread();
    Summary {
        ended: if count.fed.complete { Ended::Finished } else { Ended::Stopped },
        found: count.fed.already + unread.count(),
        already: count.fed.already,
        left: count.to_do,
        ignored: count.all_ignored(),
        skipped: count.fed.skipped,
        excluded: count.fed.excluded,
        too_few: count.fed.too_few,
        unread,
        elapsed: began.elapsed(),
        ..Summary::default()
    }
}

fn summary(fed: Fed, shared: &Shared, began: Instant) -> Summary {
    let Tally { progress, mut unread, ignored: seen, rejections, classes, stages } = shared.tally_now();
    let mut ignored = fed.ignored;
    unread.extend(fed.unreadable);
    ignored.extend(seen);
    // A stop that came when everything was under way already changed nothing.
    let ended = match fed.complete && shared.left_out_count() == 0 {
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
        rows: progress.rows,
        changed: progress.changed,
        rejected: progress.rejected,
        classes,
        rejections,
        // What others did of it is none.
        left: if ended == Ended::Finished { 0 } else { progress.to_do.saturating_sub(progress.done()) },
        ignored,
        skipped: fed.skipped,
        excluded: fed.excluded,
        too_few: fed.too_few,
        unread,
        gone: Gone::default(),
        commits: progress.commits,
        stages,
        elapsed: began.elapsed(),
    }
}
