//! Second stage, on many threads: a file becomes pixels as the model wants them, or a reason why not.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{self, AssertUnwindSafe};

use crossbeam_channel::{Receiver, Sender};

use super::assembly::{Assembly, Claim};
use super::budget::{Budget, Taken};
use super::clock::{Clock, Doing};
use super::feed::Job;
use super::infer::Output;
use super::shared::Shared;
use crate::Class;
use crate::picture::{self, DecodeLimits};
use crate::preprocess::Preprocess;
use crate::record::{Record, Stamp};
use crate::scan::HEAD;

/// Bytes of memory one pixel may take at once: the decoder's own image and its converted or turned copy.
const BYTES_PER_PIXEL: u64 = 8;

/// What the workers share.
pub(crate) struct Prepare<'a> {
    pub(crate) preprocess: &'a Preprocess,
    pub(crate) limits: DecodeLimits,
    pub(crate) max_file: u64,
    // Two budgets, always taken in this order: nobody who holds decoded bytes waits for a file's, so they cannot
    // wait for each other in a circle.
    pub(crate) files: Budget,
    pub(crate) decoded: Budget,
    /// Where the pictures go.
    pub(crate) assembly: &'a Assembly,
}

/// What became of an input that is not on its way into a batch.
enum Refused {
    /// Its content is bad.
    Rejected(String),
    NotAPicture,
    /// The content is the one the store has been given before.
    Same,
    Unread(io::Error),
    /// Nobody takes pictures any more.
    Unwanted,
}

/// Works until there are no more jobs, or nobody wants what comes of them any more.
pub(crate) fn work(
    jobs: &Receiver<Job>,
    to_commit: &Sender<Output>,
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
        match prepare.prepare(&mut job, shared, clock) {
            Ok(claim) => claim.fill(job),
            Err(Refused::NotAPicture) => shared.ignored(&job.path),
            Err(Refused::Same) => shared.touched(job),
            Err(Refused::Unread(error)) => shared.unread(&job.path, &error),
            Err(Refused::Rejected(reason)) => {
                let _waiting = clock.during(Doing::WaitingForOutput, Doing::Working);
                if to_commit.send(Output::rejected(job, reason)).is_err() {
                    return;
                }
            }
            Err(Refused::Unwanted) => return,
        }
    }
}

impl Prepare<'_> {
    /// Brings the picture of `job` into the batch in which it has the slot that is given back.
    fn prepare(&self, job: &mut Job, shared: &Shared, clock: &Clock) -> Result<Claim<'_>, Refused> {
        let (bytes, _file_bytes) = {
            let _reading = clock.during(Doing::Reading, Doing::Working);
            self.read(job, shared, clock)?
        };
        self.bring(&bytes, clock).inspect_err(|refused| {
            if let Refused::Rejected(reason) = refused {
                let too_large = reason.starts_with(&picture::Class::TooLarge.to_string());
                job.class = Some(if too_large { Class::Size } else { Class::Decode });
            }
        })
    }

    /// The bytes of the file, with their share of the budget.
    fn read(&self, job: &mut Job, shared: &Shared, clock: &Clock) -> Result<(Vec<u8>, Taken<'_>), Refused> {
        let (mut file, before, mut bytes) = open(job).map_err(Refused::Unread)?;
        if job.by_content && picture::sniff(&bytes).is_none() {
            shared.was_read();
            return Err(Refused::NotAPicture);
        }
        let length = job.member.as_ref().map_or(before.len(), |member| member.length);
        if length > self.max_file {
            shared.was_read();
            job.class = Some(Class::Size);
            // Without its content: a file that changes may be as large as it is.
            job.record = Some(Record::new(stamp(job, &before), b""));
            let limit = self.max_file;
            return Err(Refused::Rejected(format!(
                "the file has {length} bytes, more than the limit of {limit}"
            )));
        }
        let taken = {
            let _waiting = clock.during(Doing::WaitingForOutput, Doing::Reading);
            self.files.take(length)
        };
        read_rest(&mut file, &before, length, &mut bytes).map_err(Refused::Unread)?;
        shared.was_read();
        let record = Record::new(stamp(job, &before), &bytes);
        job.record = Some(record);
        match job.known.is_some_and(|known| known.hash == record.hash) {
            true => Err(Refused::Same),
            false => Ok((bytes, taken)),
        }
    }

    /// Decodes, and writes what the model wants to see where it will look for it. The slot is claimed as late as that:
    /// a batch is made of what is ready, and a picture that takes long to decode holds none up.
    fn bring(&self, bytes: &[u8], clock: &Clock) -> Result<Claim<'_>, Refused> {
        let waiting = || clock.during(Doing::WaitingForOutput, Doing::Working);
        let size = self.decoded_size(bytes);
        let _decoded_bytes = {
            let _waiting = waiting();
            self.decoded.take(size)
        };
        // A decoder that panics is a decoder that could not make sense of the content.
        let decode = || self.preprocess.decode(bytes, &self.limits).map_err(|rejected| rejected.to_string());
        let picture = panic::catch_unwind(AssertUnwindSafe(decode))
            .unwrap_or_else(|_| Err("the decoder failed on this content".to_owned()))
            .map_err(Refused::Rejected)?;
        let mut claim = {
            let _waiting = waiting();
            self.assembly.claim().ok_or(Refused::Unwanted)?
        };
        let prepared = self.preprocess.apply_to(&picture, claim.numbers());
        picture::recycle(picture);
        prepared.map_err(|error| Refused::Rejected(error.to_string()))?;
        Ok(claim)
    }

    /// Bytes decoding will take, from the header; nothing for what will be rejected by its header.
    fn decoded_size(&self, bytes: &[u8]) -> u64 {
        let pixels = picture::sides(bytes).map_or(0, |(width, height)| u64::from(width) * u64::from(height));
        if pixels > self.limits.max_pixels { 0 } else { pixels.saturating_mul(BYTES_PER_PIXEL) }
    }
}

/// Opens the file. Of one whose name does not say that it is a picture, reads the first bytes.
fn open(job: &Job) -> io::Result<(File, Metadata, Vec<u8>)> {
    let mut file = File::open(job.file())?;
    let before = file.metadata()?;
    if let Some(member) = &job.member {
        file.seek(SeekFrom::Start(member.start))?;
    }
    let mut bytes = Vec::new();
    if job.by_content {
        file.by_ref().take(HEAD).read_to_end(&mut bytes)?;
    }
    Ok((file, before, bytes))
}

/// Reads what is left of the file. One that is being written while it is read is not judged by what was read of it.
fn read_rest(file: &mut File, before: &Metadata, length: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let rest = length.saturating_sub(bytes.len() as u64);
    // Room is made at once: a buffer that grows while it is read into is copied again and again.
    bytes.try_reserve_exact(usize::try_from(rest).unwrap_or(usize::MAX))?;
    file.by_ref().take(rest).read_to_end(bytes)?;
    let after = file.metadata()?;
    let whole = bytes.len() as u64 == length && after.len() == before.len();
    if !whole || after.modified()? != before.modified()? {
        return Err(io::Error::other("changed while it was read"));
    }
    Ok(())
}

/// Length and time of an input whose file is like this.
fn stamp(job: &Job, about: &Metadata) -> Stamp {
    let mut stamp = Stamp::of(about);
    if let Some(member) = &job.member {
        stamp.length = member.length;
    }
    stamp
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_taken_for_what_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let longer = |file: &mut File| file.write_all(b"more").unwrap();
        let shorter = |file: &mut File| file.set_len(3).unwrap();
        let same_length = |file: &mut File| file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let changes: [fn(&mut File); 3] = [longer, shorter, same_length];
        for by_content in [false, true] {
            let job = Job { path: path.clone(), by_content, ..Job::default() };
            for (at, change) in changes.iter().enumerate() {
                fs::write(&path, vec![7; 100]).unwrap();
                let (mut file, before, mut bytes) = open(&job).unwrap();
                change(&mut OpenOptions::new().append(true).open(&path).unwrap());
                let error = read_rest(&mut file, &before, before.len(), &mut bytes).unwrap_err();
                assert_eq!(error.to_string(), "changed while it was read", "{at}");
            }
            fs::write(&path, vec![7; 100]).unwrap();
            let (mut file, before, mut bytes) = open(&job).unwrap();
            read_rest(&mut file, &before, before.len(), &mut bytes).unwrap();
            assert_eq!(bytes, [7; 100]);
        }
    }
}
