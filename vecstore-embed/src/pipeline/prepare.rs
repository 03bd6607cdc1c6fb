//! Second stage, on many threads: content becomes items in batches, or a reason why not.

use std::io::{self, Read};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crossbeam_channel::{Receiver, Sender};

use super::batch::{Assembly, SlotGuard};
use super::entry::{Done, Draft, Item, Outcome};
use super::limits::{Budget, Taken};
use super::lookup::Job;
use super::report::{Clock, Doing};
use super::shared::Shared;
use crate::base::{Rejected, RejectionClass};
use crate::keys::{Record, Stamp};
use crate::source::{Content, HEAD, Source};
use crate::task::{About, Halt, Items, Task};
use crate::tensor::Slot;

/// What the workers share.
pub(crate) struct Prepare<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) task: &'a dyn Task,
    pub(crate) max_content: u64,
    /// Whether to remember the stamp and hash of what is read.
    pub(crate) remember: bool,
    // Lock order: `files`, then `decoded`. No thread waits for `files` while it holds `decoded`, so they cannot
    // deadlock.
    pub(crate) files: Budget,
    pub(crate) decoded: Budget,
    /// Where the items go.
    pub(crate) assembly: &'a Assembly,
    pub(crate) left_out: Arc<AtomicU64>,
}

/// Why an input is not loaded.
enum Refused {
    Rejected(Rejected),
    /// Its first bytes are not those of an input.
    NotAnInput,
    /// The content is the one the store has been given before.
    Same,
    Unread(io::Error),
}

/// Works until there are no more jobs, or nothing takes what comes of them any more.
pub(crate) fn work(
    jobs: &Receiver<Job>,
    to_commit: &Sender<Vec<Done>>,
    prepare: &Prepare<'_>,
    shared: &Shared,
    clock: &Clock,
) {
    let _bringing = prepare.assembly.bringing();
    let next = || {
        clock.switch(Doing::WaitingForInput);
        let job = jobs.recv().ok();
        clock.switch(if job.is_some() { Doing::Working } else { Doing::Nothing });
        job
    };
    while let Some(mut job) = next() {
        if !shared.is_going() {
            // Emptying the queue lets the stage before finish; these inputs stay missing.
            shared.left_out(1);
            continue;
        }
        let done = match prepare.read(&mut job, shared, clock) {
            Ok((bytes, _taken)) => match prepare.bring(&bytes, job, clock) {
                Ok(done) => done,
                Err(Halt::Stopped | Halt::Rejected(_)) => return,
            },
            Err(Refused::NotAnInput) => {
                shared.ignored(&job.input.path);
                None
            }
            Err(Refused::Same) => {
                shared.touched(job);
                None
            }
            Err(Refused::Unread(error)) => {
                shared.unread(&job.input.path, &error);
                Some(Done { job, outcome: Outcome::Unread(error) })
            }
            Err(Refused::Rejected(rejected)) => Some(Done::rejected(job, rejected)),
        };
        if let Some(done) = done {
            let _waiting = clock.during(Doing::WaitingForOutput, Doing::Working);
            if to_commit.send(vec![done]).is_err() {
                return;
            }
        }
    }
}

impl Prepare<'_> {
    /// The content of an input, with its share of the budget; none where the source has it in memory.
    fn read(
        &self,
        job: &mut Job,
        shared: &Shared,
        clock: &Clock,
    ) -> Result<(Vec<u8>, Option<Taken<'_>>), Refused> {
        if self.source.content(&job.input).is_some() {
            return Ok((Vec::new(), None));
        }
        let _reading = clock.during(Doing::Reading, Doing::Working);
        let before = self.source.stamp(&job.input);
        let mut content = self.source.open(&job.input).map_err(Refused::Unread)?;
        let mut bytes = Vec::new();
        if job.input.by_content {
            content.by_ref().take(HEAD).read_to_end(&mut bytes).map_err(Refused::Unread)?;
            if !(self.task.accepts().content)(&bytes) {
                shared.was_read();
                return Err(Refused::NotAnInput);
            }
        }
        let length = before.map(|stamp| stamp.length);
        let too_large = |job: &mut Job, length: &str| {
            shared.was_read();
            // Without its content: what changes may be as large as it is.
            job.record = before.filter(|_| self.remember).map(|stamp| Record::new(stamp, b""));
            let limit = self.max_content;
            let reason = format!("the file has {length} bytes, more than the limit of {limit}");
            Err(Refused::Rejected(Rejected::new(RejectionClass::Size, reason)))
        };
        if let Some(length) = length.filter(|length| *length > self.max_content) {
            return too_large(job, &length.to_string());
        }
        let taken = {
            let _waiting = clock.during(Doing::WaitingForOutput, Doing::Reading);
            self.files.take(length.unwrap_or(0))
        };
        read_rest(&mut content, length.unwrap_or(0), self.max_content, &mut bytes)
            .map_err(Refused::Unread)?;
        if bytes.len() as u64 > self.max_content {
            return too_large(job, &format!("more than {}", self.max_content));
        }
        check_unchanged(before, self.source.stamp(&job.input), bytes.len()).map_err(Refused::Unread)?;
        shared.was_read();
        if self.remember {
            let stamp = before.unwrap_or(Stamp { length: bytes.len() as u64, changed: (0, 0) });
            let record = Record::new(stamp, &bytes);
            job.record = Some(record);
            if job.known.is_some_and(|known| known.hash == record.hash) {
                return Err(Refused::Same);
            }
        }
        Ok((bytes, Some(taken)))
    }

    /// Loads the content, and brings its items into batches. The input, if it is settled by that. Slots are claimed as
    /// late as that: a batch is made of what is ready, and an input that takes long to load holds none up.
    fn bring(&self, bytes: &[u8], job: Job, clock: &Clock) -> Result<Option<Done>, Halt> {
        let in_memory = self.source.content(&job.input);
        let _decoded_bytes = {
            let _waiting = clock.during(Doing::WaitingForOutput, Doing::Working);
            self.decoded.take(in_memory.as_ref().map_or_else(
                || self.task.cost(bytes),
                |content| content.bytes().map_or(0, |bytes| self.task.cost(bytes)),
            ))
        };
        let draft = Draft::new(job, &self.left_out);
        let mut items = Bringer { draft, last: None, assembly: self.assembly, clock };
        let content = in_memory.unwrap_or(Content::Bytes(bytes));
        // A task that panics could not make sense of the content. What it shares with others is whole: slots that are
        // not filled are given back.
        let brought = panic::catch_unwind(AssertUnwindSafe(|| self.task.load(content)?.items(&mut items)));
        let failed = || Rejected::new(RejectionClass::Decode, "the decoder failed on this content");
        match brought.unwrap_or_else(|_| Err(failed().into())) {
            Ok(()) => {
                let done = items.draft.finish(None);
                if let Some((guard, item)) = items.last {
                    guard.fill(item);
                }
                Ok(done)
            }
            Err(Halt::Rejected(rejected)) => {
                let done = items.draft.finish(Some(rejected.clone()));
                Ok(done.or_else(|| items.last.and_then(|(_, item)| item.settle(Err(rejected)))))
            }
            Err(Halt::Stopped) => Err(Halt::Stopped),
        }
    }
}

/// Brings the items of one input into batches.
struct Bringer<'a> {
    draft: Draft,
    /// The last item, which is written. It goes into its batch once it is known whether there are more, so that the
    /// lane that encodes it finds the entry complete. No slot is claimed meanwhile, so no thread waits for it.
    last: Option<(SlotGuard<'a>, Item)>,
    assembly: &'a Assembly,
    clock: &'a Clock,
}

impl Items for Bringer<'_> {
    fn add(
        &mut self,
        bucket: usize,
        write: &mut dyn FnMut(&mut Slot) -> Result<(), Rejected>,
    ) -> Result<u32, Halt> {
        if let Some((guard, item)) = self.last.take() {
            guard.fill(item);
        }
        let mut guard = {
            let _waiting = self.clock.during(Doing::WaitingForOutput, Doing::Working);
            self.assembly.claim(bucket).ok_or(Halt::Stopped)?
        };
        if let Some(slot) = guard.slot() {
            write(slot)?;
        }
        let (item, row) = self.draft.item();
        self.last = Some((guard, item));
        Ok(row)
    }

    fn about(&mut self) -> &mut About {
        self.draft.about()
    }
}

/// Reads what is left of the content, of which about `length` bytes are expected, and no more than `most` are wanted.
fn read_rest(content: &mut dyn Read, length: u64, most: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let rest = length.saturating_sub(bytes.len() as u64);
    // Room is made at once: a buffer that grows while it is read into is copied again and again. One byte more, so that
    // the end is seen without growing.
    bytes.try_reserve_exact(usize::try_from(rest).unwrap_or(usize::MAX).saturating_add(1))?;
    let most = most.saturating_add(1).saturating_sub(bytes.len() as u64);
    content.take(most).read_to_end(bytes).map(drop)
}

/// Content that is being written while it is read is not judged by what was read of it.
fn check_unchanged(before: Option<Stamp>, after: Option<Stamp>, length: usize) -> io::Result<()> {
    match before.is_none_or(|stamp| stamp.length == length as u64) && before == after {
        true => Ok(()),
        false => Err(io::Error::other("changed while it was read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_changes_while_it_is_read_is_not_taken_for_what_was_read() {
        let stamp = |length, second| Some(Stamp { length, changed: (second, 0) });
        assert!(check_unchanged(stamp(100, 1), stamp(100, 1), 100).is_ok());
        assert!(check_unchanged(None, None, 7).is_ok());
        for (after, read) in [(stamp(104, 1), 100), (stamp(100, 2), 100), (None, 100), (stamp(100, 1), 104)] {
            let error = check_unchanged(stamp(100, 1), after, read).unwrap_err();
            assert_eq!(error.to_string(), "changed while it was read", "{after:?}");
        }
    }

    #[test]
    fn no_more_is_read_than_is_wanted() {
        let read = |length, most| {
            let mut bytes = vec![1, 2];
            read_rest(&mut &[7u8; 100][..], length, most, &mut bytes).unwrap();
            bytes.len()
        };
        assert_eq!((read(102, 1000), read(0, 1000)), (102, 102));
        assert_eq!(read(0, 50), 51, "one byte more says that there is more");
    }
}
