//! Brings what was computed into the store, and waits where the store cannot take it at the moment.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::time::Duration;

use half::{bf16, f16};
use vecstore::{Appended, Batch, DType, Field, OnDuplicate, OpenOptions, Snapshot, Store};

use super::entry::{Done, Embedded, Outcome};
use super::lookup::Job;
use super::shared::Shared;
use crate::base::{Error, Rejected, RejectionClass, Result};
use crate::keys::Remembered;

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

/// True if another try may help. Failures of the operating system that `is_transient` calls lasting count,
/// too: a user may mend the rights of a folder, or a drive that became read-only, while the run waits.
fn is_passing(error: &vecstore::Error) -> bool {
    error.is_transient() || matches!(error, vecstore::Error::Io { .. }) || needs_new_handle(error)
}

/// True when a file would grow beyond the limit of this process, or of the file system.
fn is_too_large(error: &vecstore::Error) -> bool {
    matches!(error, vecstore::Error::Io { cause, .. } if cause.kind() == ErrorKind::FileTooLarge)
}

/// True if this handle writes nothing any more, but another one will. Excludes a store that was moved away:
/// the one at its path now may be of another model, and have other roots.
fn needs_new_handle(error: &vecstore::Error) -> bool {
    error.needs_reopen() && !matches!(error, vecstore::Error::Moved { .. })
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

    /// Makes settled inputs durable. They are kept until they are: dropping a job lets other runs have it.
    pub(crate) fn save(&mut self, mut done: Vec<Done>) -> Result<()> {
        let mut batch = self.store.batch();
        let same = done.iter().filter(|done| done.outcome.is_none()).count() as u64;
        if same > 0 {
            let snapshot = self.store.refresh()?;
            for Done { job, .. } in done.iter().filter(|done| done.outcome.is_none()) {
                touch(&mut batch, &snapshot, job)?;
            }
        }
        for Done { job, outcome } in &mut done {
            add(&mut batch, job, outcome)?;
        }
        let appended = self.append(batch)?;
        let snapshot = (appended.skipped > 0).then(|| self.store.refresh()).transpose()?;
        // Another run may have stored some of these inputs first.
        let mut counted = HashSet::new();
        let mut is_ours = |job: &Job| match &snapshot {
            None => Ok(true),
            // A key that comes again was stored the first time.
            Some(_) if !counted.insert(job.input.key().to_vec()) => Ok(false),
            Some(snapshot) => {
                let entry = snapshot.get(job.input.key())?;
                Ok::<_, Error>(entry.is_some_and(|entry| Some(entry.address().commit) == appended.commit))
            }
        };
        let (mut embedded, mut rows, mut rejections) = (0, 0, Vec::new());
        for Done { job, outcome } in &done {
            match outcome {
                Some(Outcome::Embedded(found)) if is_ours(job)? => {
                    embedded += 1;
                    rows += found.rows().len() as u64;
                }
                Some(Outcome::Rejected(rejected)) if is_ours(job)? => {
                    rejections.push((&job.input.path, rejected))
                }
                Some(Outcome::Embedded(_) | Outcome::Rejected(_)) => {}
                _ => continue,
            }
            if job.known.is_some() {
                let path = job.input.path.display();
                log::info!("{path}: changed since it was embedded; its entry is replaced");
            }
        }
        self.shared.update(|tally| {
            let progress = &mut tally.progress;
            progress.embedded += embedded;
            progress.rejected += rejections.len() as u64;
            progress.same += same;
            progress.rows += rows;
            progress.changed += appended.replaced.saturating_sub(same);
            progress.overtaken += appended.skipped;
            progress.commits += u64::from(appended.commit.is_some());
            for (path, rejected) in rejections {
                log::info!("{}: rejected: {rejected}", path.display());
                tally.rejections.push(path, &rejected.reason);
                *tally.classes.entry(rejected.class).or_default() += 1;
            }
        });
        for Done { job, outcome } in &done {
            if let Some(outcome) = outcome {
                self.shared.settled(job.input.key(), outcome);
            }
        }
        Ok(())
    }

    /// Appends, as often as it takes. A full disk is waited for until there is room or the run is to stop;
    /// other failures are tried again some times, but for a limit on the size of files, which stays. Nothing
    /// else moves meanwhile: the stages before this one fill their queues, and wait.
    fn append(&mut self, mut batch: Batch) -> Result<Appended> {
        if batch.is_empty() {
            return Ok(Appended::default());
        }
        let (mut failures, mut wait, mut paused) = (0, self.patience.wait, false);
        loop {
            let store = self.reopened.as_ref().unwrap_or(self.store);
            let error = match store.append(&mut batch, OnDuplicate::Skip) {
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
                // Nothing goes on before there is room, so this is said even where only errors are shown.
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
}

/// Adds the entry of an input again, with the new stamp. Everything else that is known of it stays, rows too.
fn touch(batch: &mut Batch, snapshot: &Snapshot, job: &Job) -> Result<()> {
    let Some(entry) = snapshot.get(job.input.key())? else { return Ok(()) };
    let before = Remembered::decode(entry.payload());
    let payload = Remembered { record: job.record, ..before }.put_into(entry.payload());
    let copy = batch.entry(job.input.key()).copy_of(&entry).payload(&payload);
    copy.on_duplicate(OnDuplicate::Replace).push()?;
    log::info!("{}: touched, but its content is the same", job.input.path.display());
    Ok(())
}

/// Adds the entry of an input. Vectors that the store cannot hold (not finite, or beyond the range of its
/// elements) make it a rejected one, and so does what cannot be stored beside them.
fn add(batch: &mut Batch, job: &Job, outcome: &mut Option<Outcome>) -> Result<()> {
    if let Some(Outcome::Embedded(embedded)) = outcome {
        let all = |fits: fn(f32) -> bool| embedded.rows().iter().flatten().all(|element| fits(*element));
        let in_range: fn(f32) -> bool = match batch.dtype() {
            DType::F16 => |element| f16::from_f32(element).is_finite(),
            DType::BF16 => |element| bf16::from_f32(element).is_finite(),
            _ => |_| true,
        };
        let refused = if !all(f32::is_finite) {
            "the model's output for it is not finite".to_owned()
        } else if !all(in_range) {
            format!("the model's output for it is beyond the range of {}", batch.dtype())
        } else {
            match push_embedded(batch, job, embedded) {
                Err(vecstore::Error::InvalidArgument { what, .. }) => what,
                pushed => return Ok(pushed?),
            }
        };
        *outcome = Some(Outcome::Rejected(Rejected::new(RejectionClass::Model, refused)));
    }
    if let Some(Outcome::Rejected(rejected)) = outcome {
        shorten(&mut rejected.reason);
        let payload = Remembered { record: job.record, class: Some(rejected.class) }.encode();
        let entry = batch.entry(job.input.key()).on_duplicate(policy(job)).payload(&payload);
        entry.push_rejected(&rejected.reason)?;
    }
    Ok(())
}

fn push_embedded(batch: &mut Batch, job: &Job, embedded: &Embedded) -> vecstore::Result<()> {
    let (rows, about) = (embedded.rows(), embedded.about());
    let fields = Field::encode(&about.fields());
    let payload = Remembered { record: job.record, class: None }.put_into(&fields);
    let entry = batch.entry(job.input.key()).on_duplicate(policy(job)).payload(&payload);
    let entry = about.attributes().fold(entry, |entry, (name, value)| entry.attribute(name, value.value()));
    match rows {
        [] => entry.push_empty(),
        rows => rows.iter().fold(entry, |entry, row| entry.converted(row)).push(),
    }
}

/// What is new is stored once; what has changed takes the place of what was stored.
fn policy(job: &Job) -> OnDuplicate {
    if job.known.is_some() { OnDuplicate::Replace } else { OnDuplicate::Skip }
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
