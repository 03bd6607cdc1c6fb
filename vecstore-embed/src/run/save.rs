//! Brings what was computed into the store, and waits where the store cannot take it at the moment.

use std::io::ErrorKind;
use std::time::Duration;

use vecstore::{Appended, Batch, DType, Kind, OnDuplicate, OpenOptions, Store};

use super::feed::Job;
use super::infer::Output;
use super::shared::Shared;
use crate::record::Remembered;
use crate::{Class, Error, Result};

/// Longest reason that is recorded with a rejected input, in bytes.
const MAX_REASON: usize = 500;

/// Appends batches to a store.
pub(crate) struct Saver<'a> {
    store: &'a Store,
    /// Takes the place of `store` for writing when that one has to be opened again.
    reopened: Option<Store>,
    options: &'a OpenOptions,
    patience: Patience,
    shared: &'a Shared,
}

/// How often a save is tried again, and how long is waited before the first time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) retries: u32,
    pub(crate) wait: Duration,
}

/// Longest time between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Longest time between two looks at a full disk: it costs nothing to look.
const FULL_WAIT: Duration = Duration::from_secs(5);

/// True if another try may help. Failures of the operating system that `is_transient` calls lasting count, too:
/// a user may mend the rights of a folder, or a drive that became read-only, while the run waits.
fn is_passing(error: &vecstore::Error) -> bool {
    error.is_transient() || matches!(error, vecstore::Error::Io { .. }) || needs_new_handle(error)
}

/// True when a file would grow beyond the limit of this process, or of the file system.
fn is_too_large(error: &vecstore::Error) -> bool {
    matches!(error, vecstore::Error::Io { cause, .. } if cause.kind() == ErrorKind::FileTooLarge)
}

/// True if this handle writes nothing any more, but another one will. Excludes a store that was moved away: the
/// one at its path now may be of another model, and have other roots.
fn needs_new_handle(error: &vecstore::Error) -> bool {
    error.needs_reopen() && !matches!(error, vecstore::Error::Moved { .. })
}

/// What becomes durable together: what is new, and what takes the place of something older.
struct Batches {
    new: Batch,
    newer: Batch,
    /// Kept until it is stored: dropping a job lets other runs have it.
    jobs: Vec<Job>,
    rejected: Vec<(Job, String)>,
}

impl<'a> Saver<'a> {
    pub(crate) fn new(
        store: &'a Store,
        options: &'a OpenOptions,
        patience: Patience,
        shared: &'a Shared,
    ) -> Self {
        Saver { store, reopened: None, options, patience, shared }
    }

    /// Makes an output durable.
    pub(crate) fn save(&mut self, output: Output) -> Result<()> {
        let batches = self.batches(output)?;
        let Batches { new, newer, jobs, rejected } = batches;
        let new = self.append(new, OnDuplicate::Skip)?;
        let newer = self.append(newer, OnDuplicate::Replace)?;
        for job in jobs.iter().chain(rejected.iter().map(|(job, _)| job)).filter(|job| job.known.is_some()) {
            log::info!("{}: changed since it was embedded; its entry is replaced", job.path.display());
        }
        self.shared.update(|tally| {
            let progress = &mut tally.progress;
            progress.embedded += new.rows + newer.rows;
            progress.rejected += (new.entries + newer.entries).saturating_sub(new.rows + newer.rows);
            progress.changed += newer.entries;
            progress.overtaken += new.skipped;
            progress.commits += u64::from(new.commit.is_some()) + u64::from(newer.commit.is_some());
            for (job, reason) in &rejected {
                log::info!("{}: rejected: {reason}", job.path.display());
                tally.rejections.push(&job.path, reason);
                *tally.classes.entry(class_of(job)).or_default() += 1;
            }
        });
        drop(jobs);
        self.touch()
    }

    /// Remembers the new times of files whose content is the same.
    pub(crate) fn touch(&mut self) -> Result<()> {
        let touched = self.shared.take_touched();
        if touched.is_empty() {
            return Ok(());
        }
        let snapshot = self.store.refresh()?;
        let mut batch = self.store.batch();
        let dim = snapshot.dim().max(1);
        for job in &touched {
            let Some(entry) = snapshot.get(&job.key)? else { continue };
            let before = Remembered::decode(entry.payload());
            let payload = Remembered { record: job.record, ..before }.put_into(entry.payload());
            // Everything else that is known of it stays.
            let attributes = entry.attributes()?;
            let copy = batch.entry(&job.key).payload(&payload);
            let copy = attributes.into_iter().fold(copy, |copy, (name, value)| copy.attribute(name, value));
            match entry.kind() {
                Kind::Rejected => copy.push_rejected(entry.reason().unwrap_or_default())?,
                Kind::Empty => copy.push_empty()?,
                _ if entry.dtype() == DType::I8 => {
                    let (rows, scales) = entry.quantized()?;
                    let rows = rows.chunks(dim).zip(scales);
                    rows.fold(copy, |copy, (row, scale)| copy.quantized(row, *scale)).push()?;
                }
                _ => entry.to_f32()?.chunks(dim).fold(copy, |copy, row| copy.converted(row)).push()?,
            }
            log::info!("{}: touched, but its content is the same", job.path.display());
        }
        drop(snapshot);
        self.append(batch, OnDuplicate::Replace)?;
        self.shared.update(|tally| tally.progress.same += touched.len() as u64);
        Ok(())
    }

    /// Appends, as often as it takes. A full disk is waited for until there is room or the run is to stop;
    /// other failures are tried again some times, but for a limit on the size of files, which stays. Nothing
    /// else moves meanwhile: the stages before this one fill their queues, and wait.
    fn append(&mut self, mut batch: Batch, on_duplicate: OnDuplicate) -> Result<Appended> {
        if batch.is_empty() {
            return Ok(Appended::default());
        }
        let (mut failures, mut wait, mut paused) = (0, self.patience.wait, false);
        loop {
            let store = self.reopened.as_ref().unwrap_or(self.store);
            let error = match store.append(&mut batch, on_duplicate) {
                Ok(appended) => {
                    if paused {
                        log::warn!("{}: saving works again; the run goes on", store.path().display());
                        self.shared.paused(None);
                    }
                    return Ok(appended);
                }
                Err(error) => error,
            };
            let full = matches!(error, vecstore::Error::NoSpace { .. });
            if !full && !is_passing(&error) {
                return Err(error.into());
            }
            failures += u32::from(!full);
            let path = self.store.path().to_owned();
            if failures > self.patience.retries || self.shared.is_stopping() || is_too_large(&error) {
                return Err(Error::SaveFailed { store: path, failures, source: Box::new(error) });
            }
            if full && !paused {
                // Nothing goes on before somebody makes room: who asked for errors alone is told, too.
                log::error!("{error}; the run waits, and tries again");
            } else if !full {
                log::warn!("{error}; the run waits, and tries again");
            }
            paused = true;
            self.shared.update(|tally| tally.progress.save_failures += 1);
            self.shared.paused(Some(&if full {
                format!("the disk is full: {error}")
            } else {
                error.to_string()
            }));
            self.shared.nap(wait);
            wait = wait.saturating_mul(2).min(if full { FULL_WAIT } else { LONGEST_WAIT });
            if needs_new_handle(&error) {
                // What may have been written is found by its key, and not written again.
                match self.options.open(&path) {
                    Ok(store) => self.reopened = Some(store),
                    Err(error) => log::warn!("{error}"),
                }
            }
        }
    }

    /// The batches for the store. Vectors that it cannot hold (not finite, or beyond the range of its elements) make
    /// rejected inputs.
    fn batches(&self, output: Output) -> Result<Batches> {
        let store = self.store;
        let mut batches =
            Batches { new: store.batch(), newer: store.batch(), jobs: Vec::new(), rejected: output.rejected };
        let (dim, dtype) = (batches.new.dim().max(1), batches.new.dtype());
        for (job, vector) in output.embedded.into_iter().zip(output.vectors.chunks(dim)) {
            if !vector.iter().all(|element| element.is_finite()) {
                batches.rejected.push((job, "the model's output for it is not finite".to_owned()));
                continue;
            }
            let payload = Remembered { record: job.record, class: None }.encode();
            let batch = if job.known.is_some() { &mut batches.newer } else { &mut batches.new };
            match batch.entry(&job.key).converted(vector).payload(&payload).push() {
                Ok(()) => batches.jobs.push(job),
                Err(vecstore::Error::InvalidArgument { .. }) => {
                    let reason = format!("the model's output for it is beyond the range of {dtype}");
                    batches.rejected.push((job, reason));
                }
                Err(error) => return Err(error.into()),
            }
        }
        for (job, reason) in &mut batches.rejected {
            shorten(reason);
            let class = Some(class_of(job));
            let payload = Remembered { record: job.record, class }.encode();
            let batch = if job.known.is_some() { &mut batches.newer } else { &mut batches.new };
            batch.entry(&job.key).payload(&payload).push_rejected(reason)?;
        }
        Ok(batches)
    }
}

/// Why a job was rejected: what is not rejected before it reaches the model is rejected for what the model gives.
fn class_of(job: &Job) -> Class {
    job.class.unwrap_or(Class::Model)
}

fn shorten(reason: &mut String) {
    if let Some((at, _)) = reason.char_indices().take_while(|(at, _)| *at <= MAX_REASON).last()
        && reason.len() > MAX_REASON
    {
        reason.truncate(at);
        reason.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let mut reason = "ä".repeat(MAX_REASON);
        shorten(&mut reason);
        assert!(reason.len() <= MAX_REASON + '…'.len_utf8() && reason.ends_with("ä…"));
        let mut short = "x".repeat(MAX_REASON);
        shorten(&mut short);
        assert_eq!(short.len(), MAX_REASON);
    }
}
