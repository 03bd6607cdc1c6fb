//! Stage after the batches, one thread for each lane: items become vectors.
//!
//! A device that runs out of memory gets smaller batches from then on. A batch that fails otherwise is halved
//! until the item is alone that makes it fail; its input is rejected, if the model still works on a blank
//! item.

use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::batch::{Assembly, Ready};
use super::entry::{Done, Item};
use super::report::{Clock, Doing};
use super::shared::Shared;
use crate::backend::{Batch, BatchInput, Encoder};
use crate::base::{Error, Rejected, RejectionClass, Result};
use crate::task::{Bucket, Task};
use crate::tensor::{Element, Tensor};

/// A model, and how many items it is given at a time.
pub(crate) struct Lane<'a, 'e> {
    /// Locked for one batch at a time: calls that embed a query get in between.
    encoder: &'a Mutex<Box<dyn Encoder + 'e>>,
    task: &'a dyn Task,
    buckets: &'a [Bucket],
    /// Numbers per vector.
    dim: usize,
    /// At most this many: less than a batch once the device ran out of memory.
    at_once: usize,
}

/// Embeds batch after batch until there are no more. While the run waits for others, unfinished ones too:
/// those may wait for what is in them. Once it is to stop, as many as there is time for. An error ends the
/// other lanes too.
pub(crate) fn infer(
    mut lane: Lane<'_, '_>,
    assembly: &Assembly,
    outputs: &Sender<Vec<Done>>,
    shared: &Shared,
    clock: &Clock,
) -> Result<()> {
    let _abandon = Abandon(assembly);
    let waiting = || shared.is_waiting();
    let mut per_item = Duration::ZERO;
    loop {
        clock.switch(Doing::WaitingForInput);
        let Some(ready) = assembly.take(&waiting) else {
            clock.switch(Doing::Nothing);
            return Ok(());
        };
        let Ready { bucket, items, tensors } = ready;
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX).max(1);
        if let Some(left) = shared.time_left()
            && (left.is_zero() || per_item.saturating_mul(count) > left)
        {
            log::info!("{count} items are left for the next run: there is no time for them");
            clock.switch(Doing::Nothing);
            return Ok(());
        }
        clock.switch(Doing::Working);
        let began = shared.now();
        let done = lane.embed(bucket, items, &tensors)?;
        per_item = shared.now().saturating_duration_since(began) / count;
        assembly.give_back(tensors);
        clock.switch(Doing::WaitingForOutput);
        if !done.is_empty() && outputs.send(done).is_err() {
            return Ok(());
        }
    }
}

/// However a lane ends, also before its time: no stage may wait for it. When it has come to the end, so have
/// all others.
struct Abandon<'a>(&'a Assembly);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl<'a, 'e> Lane<'a, 'e> {
    pub(crate) fn new(
        encoder: &'a Mutex<Box<dyn Encoder + 'e>>,
        task: &'a dyn Task,
        buckets: &'a [Bucket],
    ) -> Self {
        let dim = encoder.lock().signature().dim();
        Lane { encoder, task, buckets, dim, at_once: usize::MAX }
    }

    /// Encodes the items of a batch. Gives the inputs that are settled by that.
    fn embed(&mut self, bucket: usize, items: Vec<Item>, tensors: &[(Tensor, usize)]) -> Result<Vec<Done>> {
        let shapes = self.buckets.get(bucket).map(|bucket| &bucket.shapes[..]).unwrap_or_default();
        let names: Vec<String> =
            self.encoder.lock().signature().inputs.iter().map(|spec| spec.name.clone()).collect();
        let inputs = names.iter().zip(shapes).zip(tensors).map(|((name, shape), (tensor, length))| {
            BatchInput { name, shape, numbers: tensor.view().part(0..length * items.len()) }
        });
        let batch = Batch { items: items.len(), inputs: inputs.collect() };
        let (mut done, mut items) = (Vec::new(), items.into_iter());
        // Parts still to do, the next one last.
        let mut parts = vec![(0, batch.items)];
        while let Some((from, to)) = parts.pop() {
            let count = to - from;
            if count > self.at_once {
                parts.extend([(from + self.at_once, to), (from, from + self.at_once)]);
                continue;
            }
            match self.encode(&batch.part(from, to)) {
                Ok(vectors) => {
                    let settled = items.by_ref().take(count).zip(vectors.chunks(self.dim.max(1)));
                    done.extend(settled.filter_map(|(item, vector)| item.settle(Ok(vector.to_vec()))));
                }
                Err(error) if error.is_out_of_memory() && count > 1 => {
                    self.at_once = count.div_ceil(2);
                    log::warn!("{}; going on with {} items at a time", cause(&error), self.at_once);
                    parts.push((from, to));
                }
                Err(error @ Error::Inference { .. }) if count > 1 => {
                    log::info!("{}; looking for the item it fails on, of {count}", cause(&error));
                    let middle = from + count / 2;
                    parts.extend([(middle, to), (from, middle)]);
                }
                Err(error) => {
                    let rejected = self.blame(error, &batch)?;
                    done.extend(items.next().and_then(|item| item.settle(Err(rejected))));
                }
            }
        }
        Ok(done)
    }

    fn encode(&mut self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let outputs = self.encoder.lock().run(batch)?;
        let vectors = self.task.vectors(batch, outputs)?;
        let expected = batch.items.saturating_mul(self.dim);
        if vectors.len() != expected {
            let (backend, found) = (self.encoder.lock().name().to_owned(), vectors.len());
            return Err(Error::ModelOutput { backend, batch: batch.items, expected, found });
        }
        Ok(vectors)
    }

    /// Why one item is to be rejected that the model failed on alone. The error itself when the item is not
    /// to blame: the model does not do any more what it did when it was opened, encode a blank one.
    fn blame(&mut self, error: Error, batch: &Batch<'_>) -> Result<Rejected> {
        let Error::Inference { ref found, .. } = error else { return Err(error) };
        if error.is_out_of_memory() {
            return Err(error);
        }
        let reason = format!("the model fails on it: {found}");
        let zeros: Vec<Tensor> = batch
            .inputs
            .iter()
            .map(|input| Tensor::plain(input.numbers.element(), input.shape.iter().product()))
            .collect();
        let blank = batch
            .inputs
            .iter()
            .zip(&zeros)
            .map(|(input, zeros)| BatchInput { numbers: zeros.view(), ..*input });
        match self.encoder.lock().run(&Batch { items: 1, inputs: blank.collect() }) {
            Ok(_) => Ok(Rejected::new(RejectionClass::Model, reason)),
            Err(_) => Err(error),
        }
    }
}

/// What the input tensors of an encoder are made of.
pub(crate) fn elements(encoder: &dyn Encoder) -> Vec<Element> {
    encoder.signature().inputs.iter().map(|input| input.element).collect()
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
    use crate::backend::{Output, Signature};
    use crate::base::StopFlag;
    use crate::pipeline::batch::Shape;
    use crate::pipeline::entry::{Draft, Outcome};
    use crate::pipeline::lookup::Job;
    use crate::source::{Accepts, Content, Input};
    use crate::task::Loaded;
    use crate::tensor::TensorSpec;
    use crossbeam_channel::unbounded;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    /// Two elements per item: its first number, and the size of the batch it was in.
    struct Echo<'a> {
        signature: Signature,
        /// Called with the first number of each item of a batch before it is encoded; an error is its answer.
        refuses: Box<Refuses<'a>>,
    }

    type Refuses<'a> = dyn FnMut(&[f32]) -> Option<&'static str> + Send + 'a;

    const LENGTH: usize = 3;

    impl Encoder for Echo<'_> {
        fn name(&self) -> &str {
            "echo"
        }

        fn signature(&self) -> &Signature {
            &self.signature
        }

        fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
            let numbers = batch.inputs[0].numbers.to_f32();
            assert_eq!(numbers.len(), batch.items * LENGTH);
            let first: Vec<f32> = numbers.chunks(LENGTH).map(|item| item[0]).collect();
            if let Some(found) = (self.refuses)(&first) {
                let (backend, model) = ("echo".to_owned(), "echo".to_owned());
                return Err(Error::Inference { backend, model, found: found.to_owned() });
            }
            let numbers = first.into_iter().flat_map(|first| [first, batch.items as f32]).collect();
            Ok(vec![Output { name: "echo".to_owned(), shape: vec![batch.items, 2], numbers }])
        }
    }

    /// Items are brought by the tests themselves.
    struct Brought;

    impl Task for Brought {
        fn accepts(&self) -> Accepts {
            Accepts::pictures()
        }

        fn buckets(&self, _: &Signature) -> Result<Vec<Bucket>> {
            Ok(vec![Bucket { shapes: vec![vec![LENGTH]], items: None }])
        }

        fn load<'a>(&'a self, _: Content<'a>) -> std::result::Result<Box<dyn Loaded + 'a>, Rejected> {
            unreachable!("nothing is loaded")
        }

        fn canonical(&self) -> String {
            String::new()
        }
    }

    /// Runs a lane over inputs 1 to `inputs`, of one item each, in batches of `size`.
    fn outputs<'a>(
        inputs: u8,
        size: usize,
        dim: usize,
        refuses: impl FnMut(&[f32]) -> Option<&'static str> + Send + 'a,
    ) -> Result<Vec<Vec<Done>>> {
        let shared = Shared::new(StopFlag::default(), 0, 0, None);
        outputs_of(inputs, size, dim, refuses, &shared)
    }

    fn outputs_of<'a>(
        inputs: u8,
        size: usize,
        dim: usize,
        refuses: impl FnMut(&[f32]) -> Option<&'static str> + Send + 'a,
        shared: &Shared,
    ) -> Result<Vec<Vec<Done>>> {
        let shape = Shape { items: size, lengths: vec![LENGTH] };
        let assembly = Assembly::new(vec![shape], vec![Element::F32], 1, 100);
        let bringing = assembly.bringing();
        for at in 1..=inputs {
            let job = Job { input: Input::new([at]), ..Job::default() };
            let draft = Draft::new(job, &shared.left_out_counter());
            let mut guard = assembly.claim(0).unwrap().unwrap();
            guard.slot().unwrap().input(0).into_slice::<f32>().unwrap().fill(f32::from(at));
            guard.fill(draft.item().0);
            assert!(draft.finish(None).is_none());
        }
        drop(bringing);
        let (to_commit, from_infer) = unbounded();
        let signature = Signature {
            inputs: vec![TensorSpec::new("numbers", Element::F32, &[LENGTH])],
            outputs: vec![TensorSpec::new("echo", Element::F32, &[dim])],
        };
        let buckets = Brought.buckets(&signature)?;
        let echo: Box<dyn Encoder + '_> = Box::new(Echo { signature, refuses: Box::new(refuses) });
        let echo = Mutex::new(echo);
        let lane = Lane::new(&echo, &Brought, &buckets);
        infer(lane, &assembly, &to_commit, shared, &Clock::default())?;
        drop((to_commit, assembly));
        Ok(from_infer.iter().collect())
    }

    fn vectors(done: &[Done]) -> Vec<f32> {
        let rows = done.iter().filter_map(|done| match &done.outcome {
            Some(Outcome::Embedded(embedded)) => Some(embedded.rows().concat()),
            _ => None,
        });
        rows.flatten().collect()
    }

    /// The keys of what was embedded.
    fn keys(done: &[Done]) -> Vec<u8> {
        let embedded = done.iter().filter(|done| matches!(done.outcome, Some(Outcome::Embedded(_))));
        embedded.map(|done| done.job.input.key()[0]).collect()
    }

    #[test]
    fn each_input_gets_its_vector() {
        let outputs = outputs(7, 3, 2, |_| None).unwrap();
        assert_eq!(
            outputs.iter().map(|done| vectors(done)).collect::<Vec<_>>(),
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
            let first: Vec<f32> = vectors(output).chunks(2).map(|vector| vector[0]).collect();
            assert_eq!(first, good.iter().map(|at| f32::from(*at)).collect::<Vec<_>>());
            let rejected = output.iter().find_map(|done| match &done.outcome {
                Some(Outcome::Rejected(rejected)) => Some((done.job.input.key()[0], &rejected.reason[..])),
                _ => None,
            });
            assert_eq!(rejected, Some((bad, "the model fails on it: a bad value")));
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
        assert_eq!(
            outputs.iter().flat_map(|done| keys(done)).collect::<Vec<_>>(),
            (1..=16).collect::<Vec<_>>()
        );
        assert_eq!(outputs.iter().map(Vec::len).sum::<usize>(), 16);
        assert_eq!(sizes, [8, 4, 2, 2, 2, 2, 2, 2, 2, 2], "the second batch is not tried whole again");
    }

    /// Batches that come out of a lane that is asked to stop in the second of six, each of which takes 100
    /// ms.
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
        assert_eq!(shared.left_out_count() as usize, 12 - 2 * outputs.len(), "those of batches not begun");
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
