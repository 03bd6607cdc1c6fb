//! Second stage, on many threads: a file becomes pixels as the model wants them, or a reason why not.

use std::fs::{File, Metadata};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::panic::{self, AssertUnwindSafe};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::budget::Budget;
use super::feed::Job;
use super::shared::Shared;
use crate::Class;
use crate::picture::{self, DecodeLimits};
use crate::preprocess::Preprocess;
use crate::record::{Record, Stamp};
use crate::scan::HEAD;

/// Bytes of memory one pixel may take at once: the decoder's own image and its converted or turned copy.
const BYTES_PER_PIXEL: u64 = 8;

/// What a worker made of an input that could be read.
#[derive(Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) job: Job,
    /// The model's input, or why the content is bad.
    pub(crate) pixels: Result<Vec<f32>, String>,
}

/// What the workers share.
pub(crate) struct Prepare<'a> {
    pub(crate) preprocess: &'a Preprocess,
    pub(crate) limits: DecodeLimits,
    pub(crate) max_file: u64,
    // Two budgets, always taken in this order: nobody who holds decoded bytes waits for a file's, so they cannot
    // wait for each other in a circle.
    pub(crate) files: Budget,
    pub(crate) decoded: Budget,
    pub(crate) pool: Pool,
}

enum Outcome {
    Sample(Result<Vec<f32>, String>),
    NotAPicture,
    /// The content is the one the store has been given before.
    Same,
    Unread(io::Error),
}

/// Works until there are no more jobs, or nobody wants samples any more.
pub(crate) fn work(jobs: &Receiver<Job>, samples: &Sender<Sample>, prepare: &Prepare<'_>, shared: &Shared) {
    for mut job in jobs {
        if !shared.is_going() {
            // Emptying the queue lets the stage before finish; these inputs stay missing.
            shared.left_out();
            continue;
        }
        match prepare.prepare(&mut job, shared) {
            Outcome::NotAPicture => shared.ignored(),
            Outcome::Same => shared.touched(job),
            Outcome::Unread(error) => shared.unread(&job.path, &error),
            Outcome::Sample(pixels) => {
                if samples.send(Sample { job, pixels }).is_err() {
                    return;
                }
            }
        }
    }
}

impl Prepare<'_> {
    fn prepare(&self, job: &mut Job, shared: &Shared) -> Outcome {
        let (mut file, before, mut bytes) = match open(job) {
            Ok(opened) => opened,
            Err(error) => return Outcome::Unread(error),
        };
        if job.by_content && picture::sniff(&bytes).is_none() {
            shared.was_read();
            return Outcome::NotAPicture;
        }
        let length = job.member.as_ref().map_or(before.len(), |member| member.length);
        if length > self.max_file {
            shared.was_read();
            job.class = Some(Class::Size);
            // Without its content: a file that changes may be as large as it is.
            job.record = Some(Record::new(stamp(job, &before), b""));
            let limit = self.max_file;
            return Outcome::Sample(Err(format!(
                "the file has {length} bytes, more than the limit of {limit}"
            )));
        }
        let _file_bytes = self.files.take(length);
        if let Err(error) = read_rest(&mut file, &before, length, &mut bytes) {
            return Outcome::Unread(error);
        }
        shared.was_read();
        let record = Record::new(stamp(job, &before), &bytes);
        job.record = Some(record);
        if job.known.is_some_and(|known| known.hash == record.hash) {
            return Outcome::Same;
        }
        // A decoder that panics is a decoder that could not make sense of the content.
        let pixels = panic::catch_unwind(AssertUnwindSafe(|| self.pixels(&bytes)));
        let pixels = pixels.unwrap_or_else(|_| Err("the decoder failed on this content".to_owned()));
        if let Err(reason) = &pixels {
            let too_large = reason.starts_with(&picture::Class::TooLarge.to_string());
            job.class = Some(if too_large { Class::Size } else { Class::Decode });
        }
        Outcome::Sample(pixels)
    }

    fn pixels(&self, bytes: &[u8]) -> Result<Vec<f32>, String> {
        let _decoded_bytes = self.decoded.take(self.decoded_size(bytes));
        let picture = picture::decode(bytes, &self.limits).map_err(|rejected| rejected.to_string())?;
        let mut pixels = self.pool.get(self.preprocess.tensor_len());
        match self.preprocess.apply(&picture, &mut pixels) {
            Ok(()) => Ok(pixels),
            Err(error) => {
                self.pool.put(pixels);
                Err(error.to_string())
            }
        }
    }

    /// Bytes decoding will take, from the header; nothing for what will be rejected by its header.
    fn decoded_size(&self, bytes: &[u8]) -> u64 {
        let reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format();
        let dimensions = reader.ok().and_then(|reader| reader.into_dimensions().ok());
        let pixels = dimensions.map_or(0, |(width, height)| u64::from(width) * u64::from(height));
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
    file.by_ref().take(length.saturating_sub(bytes.len() as u64)).read_to_end(bytes)?;
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

/// Buffers that go round between the workers and the model, so that none is allocated per picture.
pub(crate) struct Pool {
    put: Sender<Vec<f32>>,
    get: Receiver<Vec<f32>>,
}

impl Pool {
    pub(crate) fn new(most: usize) -> Self {
        let (put, get) = bounded(most);
        Pool { put, get }
    }

    fn get(&self, length: usize) -> Vec<f32> {
        self.get.try_recv().unwrap_or_else(|_| vec![0.0; length])
    }

    /// Gives a buffer back; it is freed when enough are waiting.
    pub(crate) fn put(&self, buffer: Vec<f32>) {
        let _ = self.put.try_send(buffer);
    }
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
