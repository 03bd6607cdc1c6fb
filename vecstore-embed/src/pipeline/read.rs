//! Second stage, on threads of its own: inputs are read ahead of those that make items of them.
//!
//! A disk or a network answers several requests at once, and while it does, the processors decode what has
//! arrived.

use std::io::{self, Read};

use crossbeam_channel::{Receiver, Sender};

use super::entry::{Done, Outcome};
use super::limits::{Budget, Taken};
use super::lookup::Job;
use super::report::{Clock, Doing};
use super::shared::Shared;
use crate::base::{Rejected, RejectionClass};
use crate::keys::{Record, Stamp};
use crate::source::{Accepts, HEAD, Source};

/// What the readers share.
pub(crate) struct Readers<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) accepts: Accepts,
    pub(crate) max_content: u64,
    /// Whether to remember the stamp and hash of what is read.
    pub(crate) remember: bool,
    /// Bytes of content that is read and not loaded yet.
    pub(crate) files: &'a Budget,
}

/// An input that was read.
pub(crate) struct ReadInput<'a> {
    pub(crate) job: Job,
    pub(crate) bytes: Vec<u8>,
    pub(crate) taken: Option<Taken<'a>>,
}

/// Why there is no content.
enum Refused {
    Rejected(Rejected),
    /// Its first bytes are not those of an input.
    NotAnInput,
    /// The content is the one the store has been given before.
    Same,
    Unread(io::Error),
}

/// Reads until there are no more jobs, or nothing takes what is read any more.
pub(crate) fn read<'a>(
    jobs: &Receiver<Job>,
    contents: &Sender<ReadInput<'a>>,
    to_commit: &Sender<Vec<Done>>,
    readers: &Readers<'a>,
    shared: &Shared,
    clock: &Clock,
) {
    let next = || {
        clock.switch(Doing::WaitingForInput);
        let job = jobs.recv().ok();
        clock.switch(if job.is_some() { Doing::Working } else { Doing::Nothing });
        job
    };
    while let Some(mut job) = next() {
        if !shared.is_going() {
            shared.left_out(1);
            continue;
        }
        let outcome = match readers.read(&mut job, shared, clock) {
            Ok((bytes, taken)) => {
                let _waiting = clock.during(Doing::WaitingForOutput, Doing::Working);
                if contents.send(ReadInput { job, bytes, taken }).is_err() {
                    return;
                }
                continue;
            }
            Err(Refused::NotAnInput) => {
                shared.ignored(&job.input.path);
                continue;
            }
            Err(Refused::Same) => None,
            Err(Refused::Unread(error)) => {
                shared.unread(&job.input.path, &error);
                Some(Outcome::Unread(error))
            }
            Err(Refused::Rejected(rejected)) => Some(Outcome::Rejected(rejected)),
        };
        let _waiting = clock.during(Doing::WaitingForOutput, Doing::Working);
        if to_commit.send(vec![Done { job, outcome }]).is_err() {
            return;
        }
    }
}

impl<'a> Readers<'a> {
    /// The content of an input, with its share of the budget; none where the source has it in memory.
    fn read(
        &self,
        job: &mut Job,
        shared: &Shared,
        clock: &Clock,
    ) -> Result<(Vec<u8>, Option<Taken<'a>>), Refused> {
        if self.source.content(&job.input).is_some() {
            return Ok((Vec::new(), None));
        }
        let before = self.source.stamp(&job.input);
        let mut content = self.source.open(&job.input).map_err(Refused::Unread)?;
        let mut bytes = Vec::new();
        if job.input.by_content {
            content.by_ref().take(HEAD).read_to_end(&mut bytes).map_err(Refused::Unread)?;
            if !(self.accepts.content)(&bytes) {
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
            let _waiting = clock.during(Doing::WaitingForOutput, Doing::Working);
            self.files.take(length.unwrap_or(0))
        };
        read_rest(&mut content, length.unwrap_or(0), self.max_content, &mut bytes)
            .map_err(Refused::Unread)?;
        // Of content whose length was not known, each reader has one beyond the budget.
        let taken = if length.is_some() { taken } else { self.files.take(bytes.len() as u64) };
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
}

/// Reads what is left of the content, of which about `length` bytes are expected, and no more than `most` are
/// wanted.
fn read_rest(content: &mut dyn Read, length: u64, most: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let rest = length.saturating_sub(bytes.len() as u64);
    // Room is made at once: a buffer that grows while it is read into is copied again and again. One byte
    // more, so that the end is seen without growing.
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
