//! The built-in descriptor, computed by plain Rust.

use std::thread;

use super::{Backend, Pixels, check_pixels, finish};
use crate::descriptor::{DIM, Descriptor, PIXELS};
use crate::error::Result;
use crate::model::Model;

struct Builtin {
    model: Model,
    /// One per thread.
    descriptors: Vec<Descriptor>,
}

pub(super) fn open(model: &Model, threads: usize) -> Box<dyn Backend> {
    let descriptors = (0..threads.max(1)).map(|_| Descriptor::new()).collect();
    Box::new(Builtin { model: model.clone(), descriptors })
}

impl Backend for Builtin {
    fn name(&self) -> &str {
        "plain Rust"
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn preferred_batch(&self) -> usize {
        32
    }

    fn embed(&mut self, batch: usize, pixels: &[f32]) -> Result<Vec<f32>> {
        check_pixels(&self.model, batch, Pixels::F32(pixels))?;
        let mut vectors = vec![0.0; batch * DIM];
        let share = batch.div_ceil(self.descriptors.len()).max(1);
        let parts = pixels.chunks(share * PIXELS).zip(vectors.chunks_mut(share * DIM));
        thread::scope(|scope| {
            for (descriptor, (pixels, vectors)) in self.descriptors.iter_mut().zip(parts) {
                let mut describe = move || {
                    for (picture, vector) in pixels.chunks_exact(PIXELS).zip(vectors.chunks_exact_mut(DIM)) {
                        vector.copy_from_slice(&descriptor.describe(picture));
                    }
                };
                match share == batch {
                    true => describe(),
                    false => drop(scope.spawn(describe)),
                }
            }
        });
        finish(&self.model, &mut vectors, DIM);
        Ok(vectors)
    }
}
