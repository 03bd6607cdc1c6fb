//! Third stage, one thread for each lane, which owns a model: batches of pictures become vectors.
//!
//! A device that runs out of memory gets smaller batches from then on. A batch that fails otherwise is halved until
//! the picture is alone that makes it fail; that one is rejected, if the model still works on a blank one.

use std::time::Duration;

use crossbeam_channel::Sender;

use super::assembly::{Assembly, Ready};
use super::clock::{Clock, Doing};
use super::feed::Job;
use super::shared::Shared;
use crate::backend::Backend;
use crate::pixels::Pixels;
use crate::{Error, Result};

/// A batch on its way into the store.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Output {
    /// The inputs that were embedded; the vector of the n-th is the n-th `dim` elements of `vectors`.
    pub(crate) embedded: Vec<Job>,
    pub(crate) vectors: Vec<f32>,
    /// The inputs that were rejected on the way, with the reasons.
    pub(crate) rejected: Vec<(Job, String)>,
}

impl Output {
    /// One input that was rejected.
    pub(crate) fn rejected(job: Job, reason: String) -> Self {
        Output { rejected: vec![(job, reason)], ..Output::default() }
    }

    /// With another one, whose vectors are as long, behind it.
    pub(crate) fn join(&mut self, other: Output) {
        if self.is_empty() {
            *self = other;
            return;
        }
        self.embedded.extend(other.embedded);
        self.vectors.extend(other.vectors);
        self.rejected.extend(other.rejected);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.embedded.is_empty() && self.rejected.is_empty()
    }
}

/// A model, and how many pictures it is given at a time.
struct Lane<'a> {
    backend: &'a mut dyn Backend,
    /// Numbers of one picture.
    length: usize,
    /// At most this many: less than a batch once the device ran out of memory.
    at_once: usize,
}

/// Embeds batch after batch until there are no more. While the run waits for others, unfinished ones too: those may wait
/// for what is in them. Once it is to stop, as many as there is time for. An error ends the other lanes too.
pub(crate) fn infer(
    assembly: &Assembly,
    outputs: &Sender<Output>,
    backend: &mut dyn Backend,
    length: usize,
    shared: &Shared,
    clock: &Clock,
) -> Result<()> {
    let mut lane = Lane { backend, length, at_once: usize::MAX };
    let _abandon = Abandon(assembly);
    let waiting = || shared.is_waiting();
    let mut per_picture = Duration::ZERO;
    loop {
        clock.switch(Doing::WaitingForInput);
        let Some(ready) = assembly.take(&waiting) else {
            clock.switch(Doing::Nothing);
            return Ok(());
        };
        let Ready { jobs, tensor } = ready;
        let pictures = u32::try_from(jobs.len()).unwrap_or(u32::MAX).max(1);
        if let Some(left) = shared.time_left()
            && (left.is_zero() || per_picture.saturating_mul(pictures) > left)
        {
            log::info!("{pictures} pictures are left for the next run: there is no time for them");
            shared.left_out(jobs.len());
            clock.switch(Doing::Nothing);
            return Ok(());
        }
        clock.switch(Doing::Working);
        let began = shared.now();
        let output = lane.embed(jobs, tensor.pixels())?;
        per_picture = shared.now().saturating_duration_since(began) / pictures;
        assembly.give_back(tensor);
        clock.switch(Doing::WaitingForOutput);
        if outputs.send(output).is_err() {
            return Ok(());
        }
    }
}

/// However a lane ends, also before its time: nobody may wait for it. When it has come to the end, so have all others.
struct Abandon<'a>(&'a Assembly);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Lane<'_> {
    fn embed(&mut self, jobs: Vec<Job>, tensor: Pixels<'_>) -> Result<Output> {
        let dim = self.backend.dim();
        let mut vectors = vec![0.0; jobs.len().saturating_mul(dim)];
        let mut failed: Vec<Option<String>> = jobs.iter().map(|_| None).collect();
        // Parts still to do, the next one last.
        let mut parts = vec![(0, jobs.len())];
        while let Some((from, to)) = parts.pop() {
            let count = to - from;
            if count > self.at_once {
                parts.extend([(from + self.at_once, to), (from, from + self.at_once)]);
                continue;
            }
            let pixels = tensor.part(from * self.length..to * self.length);
            match embed(self.backend, count, pixels) {
                Ok(found) => {
                    if let Some(place) = vectors.get_mut(from * dim..to * dim) {
                        place.copy_from_slice(&found);
                    }
                }
                Err(error) if error.is_out_of_memory() && count > 1 => {
                    self.at_once = count.div_ceil(2);
                    log::warn!("{}; going on with {} pictures at a time", cause(&error), self.at_once);
                    parts.push((from, to));
                }
                Err(error @ Error::Inference { .. }) if count > 1 => {
                    log::info!("{}; looking for the picture it fails on, of {count}", cause(&error));
                    let middle = from + count / 2;
                    parts.extend([(middle, to), (from, middle)]);
                }
                Err(error) => {
                    let reason = self.blame(error)?;
                    if let Some(place) = failed.get_mut(from) {
                        *place = Some(reason);
                    }
                }
            }
        }
        Ok(output(jobs, vectors, failed, dim))
    }

    /// Why one picture is to be rejected that the model failed on alone. The error itself when the picture is not to
    /// blame: the model does not do any more what it did when it was opened, embed a blank one.
    fn blame(&mut self, error: Error) -> Result<String> {
        let blank = vec![0.0; self.length];
        match error {
            Error::Inference { ref found, .. } if !error.is_out_of_memory() => {
                let reason = format!("the model fails on it: {found}");
                self.backend.embed(1, &blank).map(|_| reason).map_err(|_| error)
            }
            error => Err(error),
        }
    }
}

/// What was embedded and what was not, apart.
fn output(jobs: Vec<Job>, vectors: Vec<f32>, failed: Vec<Option<String>>, dim: usize) -> Output {
    if failed.iter().all(Option::is_none) {
        return Output { embedded: jobs, vectors, rejected: Vec::new() };
    }
    let mut output = Output::default();
    for ((job, vector), failed) in jobs.into_iter().zip(vectors.chunks(dim.max(1))).zip(failed) {
        match failed {
            Some(reason) => output.rejected.push((job, reason)),
            None => {
                output.vectors.extend_from_slice(vector);
                output.embedded.push(job);
            }
        }
    }
    output
}

fn embed(backend: &mut dyn Backend, batch: usize, pixels: Pixels<'_>) -> Result<Vec<f32>> {
    let vectors = backend.embed_pixels(batch, pixels)?;
    let expected = batch.saturating_mul(backend.dim());
    if vectors.len() != expected {
        let (backend, found) = (backend.name().to_owned(), vectors.len());
        return Err(Error::ModelOutput { backend, batch, expected, found });
    }
    Ok(vectors)
}

/// What a backend says, without what follows from it where the batch is given up: here it is tried again.
fn cause(error: &Error) -> String {
    match error {
        Error::Inference { backend, model, found } => format!("{backend} could not run {model}: {found}"),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StopFlag;
    use crossbeam_channel::unbounded;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    /// Two elements per picture: its first pixel, and the size of the batch it was in.
    struct Echo<'a> {
        dim: usize,
        /// Called with the first pixel of each picture of a batch before it is embedded; an error is its answer.
        refuses: Box<Refuses<'a>>,
    }

    type Refuses<'a> = dyn FnMut(&[f32]) -> Option<&'static str> + Send + 'a;

    const LENGTH: usize = 3;

    impl Backend for Echo<'_> {
        fn name(&self) -> &str {
            "echo"
        }

        fn dim(&self) -> usize {
            self.dim
        }

        fn preferred_batch(&self) -> usize {
            1
        }

        fn embed(&mut self, batch: usize, pixels: &[f32]) -> Result<Vec<f32>> {
            assert_eq!(pixels.len(), batch * LENGTH);
            let first: Vec<f32> = pixels.chunks(LENGTH).map(|picture| picture[0]).collect();
            if let Some(found) = (self.refuses)(&first) {
                let (backend, model) = ("echo".to_owned(), "echo".to_owned());
                return Err(Error::Inference { backend, model, found: found.to_owned() });
            }
            Ok(first.into_iter().flat_map(|first| [first, batch as f32]).collect())
        }
    }

    /// Runs a lane over pictures 1 to `pictures` in batches of `size`.
    fn outputs<'a>(
        pictures: u8,
        size: usize,
        dim: usize,
        refuses: impl FnMut(&[f32]) -> Option<&'static str> + Send + 'a,
    ) -> Result<Vec<Output>> {
        let shared = Shared::new(StopFlag::default(), 0, 0, None);
        outputs_of(pictures, size, dim, refuses, &shared)
    }

    fn outputs_of<'a>(
        pictures: u8,
        size: usize,
        dim: usize,
        refuses: impl FnMut(&[f32]) -> Option<&'static str> + Send + 'a,
        shared: &Shared,
    ) -> Result<Vec<Output>> {
        let assembly = Assembly::new(1, size, LENGTH, 100);
        let bringing = assembly.bringing();
        for at in 1..=pictures {
            let mut claim = assembly.claim().unwrap();
            claim.numbers().fill(f32::from(at));
            claim.fill(Job { key: vec![at], ..Job::default() });
        }
        drop(bringing);
        let (to_commit, from_infer) = unbounded();
        let mut echo = Echo { dim, refuses: Box::new(refuses) };
        infer(&assembly, &to_commit, &mut echo, LENGTH, shared, &Clock::default())?;
        drop(to_commit);
        Ok(from_infer.iter().collect())
    }

    fn keys(output: &Output) -> Vec<u8> {
        output.embedded.iter().map(|job| job.key[0]).collect()
    }

    #[test]
    fn each_input_gets_its_vector() {
        let outputs = outputs(7, 3, 2, |_| None).unwrap();
        let vectors: Vec<&[f32]> = outputs.iter().map(|output| &output.vectors[..]).collect();
        assert_eq!(
            vectors,
            [&[1.0, 3.0, 2.0, 3.0, 3.0, 3.0][..], &[4.0, 3.0, 5.0, 3.0, 6.0, 3.0], &[7.0, 1.0]]
        );
        assert_eq!(keys(&outputs[1]), [4, 5, 6]);
    }

    #[test]
    fn an_output_of_the_wrong_size_is_an_error() {
        let error = outputs(1, 4, 5, |_| None).unwrap_err();
        assert!(matches!(error, Error::ModelOutput { expected: 5, found: 2, .. }), "{error}");
    }

    #[test]
    fn the_one_picture_a_model_fails_on_is_rejected() {
        for bad in 1..=8u8 {
            let refuses = move |first: &[f32]| first.contains(&f32::from(bad)).then_some("a bad value");
            let outputs = outputs(8, 8, 2, refuses).unwrap();
            let [output] = &outputs[..] else { panic!("{outputs:?}") };
            let good: Vec<u8> = (1..=8).filter(|at| *at != bad).collect();
            assert_eq!(keys(output), good);
            let first: Vec<f32> = output.vectors.chunks(2).map(|vector| vector[0]).collect();
            assert_eq!(first, good.iter().map(|at| f32::from(*at)).collect::<Vec<_>>());
            let [(job, reason)] = &output.rejected[..] else { panic!("{output:?}") };
            assert_eq!((job.key[0], &reason[..]), (bad, "the model fails on it: a bad value"));
        }
    }

    #[test]
    fn a_model_that_fails_on_everything_ends_the_run() {
        let mut calls = 0;
        let refuses = |first: &[f32]| {
            calls += 1;
            (first[0] >= 4.0 || calls > 2).then_some("the device is gone")
        };
        let error = outputs(12, 3, 2, refuses).unwrap_err();
        assert!(error.to_string().contains("the device is gone"), "{error}");
    }

    #[test]
    fn out_of_memory_makes_batches_smaller_for_good() {
        let mut sizes = Vec::new();
        let refuses = |first: &[f32]| {
            sizes.push(first.len());
            (first.len() > 2).then_some("CUDA failure 2: out of memory")
        };
        let outputs = outputs(16, 8, 2, refuses).unwrap();
        assert_eq!(outputs.iter().flat_map(keys).collect::<Vec<_>>(), (1..=16).collect::<Vec<_>>());
        assert!(outputs.iter().all(|output| output.rejected.is_empty()));
        assert_eq!(sizes, [8, 4, 2, 2, 2, 2, 2, 2, 2, 2], "the second batch is not tried whole again");
    }

    /// Batches that come out of a lane that is asked to stop in the second of six, each of which takes 100 ms.
    fn stopped_in_the_second(patience: Duration) -> usize {
        let (stop, began, passed) = (StopFlag::default(), Instant::now(), Arc::new(AtomicU32::new(0)));
        let clock = Arc::clone(&passed);
        let shared = Shared::new(stop.clone(), 0, 0, None)
            .with_stop_patience(patience)
            .with_clock(move || began + Duration::from_millis(100) * clock.load(Ordering::SeqCst));
        let refuses = |_: &[f32]| {
            if passed.fetch_add(1, Ordering::SeqCst) == 1 {
                stop.raise();
            }
            None
        };
        let outputs = outputs_of(12, 2, 2, refuses, &shared).unwrap();
        let left_out = shared.tally_now().left_out;
        assert_eq!(left_out, if outputs.len() < 6 { 2 } else { 0 }, "of the one that was not begun");
        outputs.len()
    }

    #[test]
    fn a_lane_that_is_to_stop_begins_what_there_is_time_for() {
        let ms = Duration::from_millis;
        for (patience, begun) in [(0, 2), (99, 2), (100, 3), (250, 4), (300, 5), (400, 6), (3_600_000, 6)] {
            assert_eq!(stopped_in_the_second(ms(patience)), begun, "within {patience} ms");
        }
    }

    #[test]
    fn one_picture_that_needs_too_much_memory_is_not_to_blame() {
        let error = outputs(2, 1, 2, |_| Some("Failed to allocate memory for requested buffer")).unwrap_err();
        assert!(error.is_out_of_memory(), "{error}");
    }
}
