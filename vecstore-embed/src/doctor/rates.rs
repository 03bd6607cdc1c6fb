//! How fast the stages of a run are on this machine, each by itself.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::backend::Encoder;
use crate::base::Result;
use crate::image::recycle;
use crate::model::Model;
use crate::tensor::Tensor;

use super::{Options, Pictures, Prepared};

/// Pictures per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Rates {
    /// Decoded by one thread.
    #[serde(rename = "decode_one_thread")]
    pub decode: f64,
    /// Resized, and made into numbers, by one thread.
    #[serde(rename = "resize_one_thread")]
    pub resize: f64,
    /// Decoded and resized by all threads at once.
    pub prepare: f64,
    /// Through the model, on all lanes at once.
    pub infer: f64,
    /// The same without anything else: tensors in memory, one lane.
    pub bare: f64,
    /// What a run could reach, whose stages work at the same time.
    pub at_most: f64,
}

/// What a run would be limited by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Limit {
    /// Decoding and resizing.
    Prepare,
    /// The model.
    Infer,
}

impl Rates {
    pub(super) fn measure(
        prepared: &Prepared,
        model: &Model,
        lanes: &mut [Box<dyn Encoder>],
        pictures: &Pictures,
        tensor: &Tensor,
        options: &Options,
    ) -> Result<Self> {
        let preprocess = model.preprocess();
        // A negative or NaN duration counts as zero.
        let time = Duration::try_from_secs_f64(options.seconds.min(600.0)).unwrap_or_default();
        let good = pictures.good(model, &options.limits)?;
        let files = || good.iter().map(|(bytes, _)| bytes).cycle();
        let pixels = || vec![0.0; preprocess.tensor_len()];
        let decode = rate(Instant::now, time, files(), |bytes| {
            preprocess.decode(bytes, &options.limits).map(recycle).or(Ok(()))
        })?;
        let mut out = pixels();
        let resize = rate(Instant::now, time, good.iter().map(|(_, picture)| picture).cycle(), |picture| {
            preprocess.apply(picture, &mut out)
        })?;
        let prepare = at_once(0..options.workers, |worker| {
            let mut out = pixels();
            rate(Instant::now, time, files().skip(worker), |bytes| {
                let Ok(picture) = preprocess.decode(bytes, &options.limits) else { return Ok(()) };
                preprocess.apply(&picture, &mut out)?;
                recycle(picture);
                Ok(())
            })
        })?;
        let (batch, numbers) = (options.batch, tensor.view());
        // A batch may take longer than the time there is: two of them are done in any case.
        let bare = lanes.first_mut().map(|lane| {
            rate(Instant::now, time, 0.., |_| lane.run(&prepared.batch(batch, numbers)).map(drop))
        });
        let bare = bare.transpose()?.unwrap_or(0.0) * batch as f64;
        let infer = at_once(lanes.iter_mut(), |lane| {
            rate(Instant::now, time, 0.., |_| prepared.encode(lane.as_mut(), batch, numbers).map(drop))
        })?;
        Ok(Rates { decode, resize, prepare, infer: infer * batch as f64, bare, at_most: 0.0 })
    }

    /// What a run would be limited by; notes how fast it would be at most. On the processor both stages do
    /// their work on the same cores; a card has its own.
    pub(super) fn limit(&mut self, on_card: bool) -> Limit {
        self.at_most = match on_card {
            true => self.prepare.min(self.infer),
            false => 1.0 / (1.0 / self.prepare + 1.0 / self.infer),
        };
        if self.prepare < self.infer { Limit::Prepare } else { Limit::Infer }
    }
}

/// How often a second of this clock `work` is done on one thing after the other. It is done twice at least,
/// and once before.
fn rate<T>(
    now: impl Fn() -> Instant,
    time: Duration,
    things: impl IntoIterator<Item = T>,
    mut work: impl FnMut(T) -> Result<()>,
) -> Result<f64> {
    let (mut began, mut done) = (now(), 0u32);
    for (at, thing) in things.into_iter().enumerate() {
        work(thing)?;
        if at == 0 {
            // The first finds nothing in any cache.
            began = now();
            continue;
        }
        done += 1;
        if done >= 2 && now().saturating_duration_since(began) >= time {
            break;
        }
    }
    Ok(f64::from(done) / now().saturating_duration_since(began).as_secs_f64().max(1e-9))
}

/// The sum of what `work` gives for all of them at the same time.
fn at_once<T: Send>(things: impl Iterator<Item = T>, work: impl Fn(T) -> Result<f64> + Sync) -> Result<f64> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = things.map(|thing| scope.spawn(move || work(thing))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
        };
        threads.into_iter().map(join).sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn rates_are_of_all_but_the_first_time() {
        // The first takes 200 ms, each of the others 5.
        let (began, passed) = (Instant::now(), Cell::new(Duration::ZERO));
        let now = || began + passed.get();
        let work = |at| {
            passed.set(passed.get() + Duration::from_millis(if at == 0 { 200 } else { 5 }));
            Ok(())
        };
        let found = rate(now, Duration::from_millis(50), 0.., work).unwrap();
        assert!((found - 200.0).abs() < 1e-6, "{found}");
        assert_eq!(passed.get(), Duration::from_millis(250), "no longer than it was to take");
        let sum = at_once([1.0, 2.0, 4.0].into_iter(), Ok).unwrap();
        assert!((sum - 7.0).abs() < 1e-9);
        assert!(rate(Instant::now, Duration::ZERO, 0..3, |_| Ok(())).unwrap() > 0.0);
    }

    #[test]
    fn the_slower_stage_is_the_limit() {
        let (prepare, infer) = (100.0, 300.0);
        let mut rates = Rates { decode: 50.0, resize: 300.0, prepare, infer, bare: 310.0, at_most: 0.0 };
        assert_eq!((rates.limit(true), rates.at_most), (Limit::Prepare, 100.0));
        rates.prepare = 600.0;
        assert!(rates.limit(false) == Limit::Infer && (rates.at_most - 200.0).abs() < 1e-9, "{rates:?}");
    }
}
