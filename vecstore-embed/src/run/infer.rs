//! Third stage, on one thread that owns the model: samples become batches, batches become vectors.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::feed::Job;
use super::worker::{Pool, Sample};
use crate::backend::Backend;
use crate::{Error, Result};

/// How long an unfinished batch waits for more when nothing comes.
const IDLE: Duration = Duration::from_millis(100);

/// A batch on its way into the store.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// The inputs that were embedded; the vector of the n-th is the n-th `dim` elements of `vectors`.
    pub(crate) embedded: Vec<Job>,
    pub(crate) vectors: Vec<f32>,
    /// The inputs that were rejected on the way, with the reasons.
    pub(crate) rejected: Vec<(Job, String)>,
}

/// Gathers samples in the order in which they become ready, and embeds `batch_size` at a time; what is left at the
/// end, or when the run is stopped, makes a smaller batch.
pub(crate) fn infer(
    samples: &Receiver<Sample>,
    outputs: &Sender<Output>,
    backend: &mut dyn Backend,
    batch_size: usize,
    pool: &Pool,
    waiting: &dyn Fn() -> bool,
) -> Result<()> {
    let mut batch = Output::default();
    let mut pixels = Vec::new();
    loop {
        let sample = samples.recv_timeout(IDLE);
        let ended = sample == Err(RecvTimeoutError::Disconnected);
        // Others may be waiting for what is in an unfinished batch.
        let idle = sample == Err(RecvTimeoutError::Timeout) && waiting();
        if let Ok(sample) = sample {
            match sample.pixels {
                Ok(buffer) => {
                    pixels.extend_from_slice(&buffer);
                    pool.put(buffer);
                    batch.embedded.push(sample.job);
                }
                Err(reason) => batch.rejected.push((sample.job, reason)),
            }
        }
        let full = batch.embedded.len() >= batch_size || batch.rejected.len() >= batch_size;
        if full || ((ended || idle) && !(batch.embedded.is_empty() && batch.rejected.is_empty())) {
            let mut output = std::mem::take(&mut batch);
            if !output.embedded.is_empty() {
                output.vectors = embed(backend, output.embedded.len(), &pixels)?;
                pixels.clear();
            }
            if outputs.send(output).is_err() {
                return Ok(());
            }
        }
        if ended {
            return Ok(());
        }
    }
}

fn embed(backend: &mut dyn Backend, batch: usize, pixels: &[f32]) -> Result<Vec<f32>> {
    let vectors = backend.embed(batch, pixels)?;
    let expected = batch.saturating_mul(backend.dim());
    if vectors.len() != expected {
        let (backend, found) = (backend.name().to_owned(), vectors.len());
        return Err(Error::ModelOutput { backend, batch, expected, found });
    }
    Ok(vectors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    /// Two elements per picture: its first pixel, and the size of the batch it was in.
    struct Echo {
        tensor_len: usize,
        dim: usize,
    }

    impl Backend for Echo {
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
            assert_eq!(pixels.len(), batch * self.tensor_len);
            Ok(pixels.chunks(self.tensor_len).flat_map(|picture| [picture[0], batch as f32]).collect())
        }
    }

    fn sample(at: usize, pixels: Result<Vec<f32>, String>) -> Sample {
        Sample {
            job: Job { key: vec![at as u8], path: format!("{at}.jpg").into(), ..Job::default() },
            pixels,
        }
    }

    fn outputs(
        samples: impl IntoIterator<Item = Sample>,
        batch_size: usize,
        dim: usize,
    ) -> Result<Vec<Output>> {
        let (to_infer, from_worker) = unbounded();
        let (to_commit, from_infer) = unbounded();
        samples.into_iter().for_each(|sample| to_infer.send(sample).unwrap());
        drop(to_infer);
        infer(
            &from_worker,
            &to_commit,
            &mut Echo { tensor_len: 3, dim },
            batch_size,
            &Pool::new(4),
            &|| false,
        )?;
        drop(to_commit);
        Ok(from_infer.iter().collect())
    }

    #[test]
    fn full_batches_and_a_smaller_one_at_the_end() {
        let samples = (0..7).map(|at| sample(at, Ok(vec![at as f32; 3])));
        let outputs = outputs(samples, 3, 2).unwrap();
        let vectors: Vec<&[f32]> = outputs.iter().map(|output| &output.vectors[..]).collect();
        assert_eq!(
            vectors,
            [&[0.0, 3.0, 1.0, 3.0, 2.0, 3.0][..], &[3.0, 3.0, 4.0, 3.0, 5.0, 3.0], &[6.0, 1.0]]
        );
        assert_eq!(outputs[2].embedded[0].key, [6]);
    }

    #[test]
    fn rejected_inputs_travel_with_a_batch_and_are_not_shown_to_the_model() {
        let bad = |at| sample(at, Err("bad".to_owned()));
        let samples = vec![bad(0), sample(1, Ok(vec![1.0; 3])), bad(2), sample(3, Ok(vec![3.0; 3])), bad(4)];
        let outputs = outputs(samples, 2, 2).unwrap();
        let rejected: Vec<Vec<u8>> = outputs
            .iter()
            .map(|output| output.rejected.iter().map(|(job, _)| job.key[0]).collect())
            .collect();
        // The second rejected one fills a batch of rejected ones, so that a folder of bad files is recorded too.
        assert_eq!(rejected, [vec![0, 2], vec![4]]);
        assert_eq!(outputs[0].vectors, [1.0, 1.0]);
        assert_eq!(outputs[1].vectors, [3.0, 1.0]);
    }

    #[test]
    fn an_output_of_the_wrong_size_is_an_error() {
        let error = outputs([sample(0, Ok(vec![0.0; 3]))], 4, 5).unwrap_err();
        assert!(matches!(error, Error::ModelOutput { expected: 5, found: 2, .. }), "{error}");
    }
}
