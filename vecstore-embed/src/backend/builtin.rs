//! The built-in descriptor, computed by plain Rust.

use std::thread;

use super::{Batch, Encoder, Output, Signature};
use crate::base::Result;
use crate::model::Model;
use crate::model::descriptor::{DIM, Descriptor, PIXELS};
use crate::tensor::{Element, TensorSpec};

struct Builtin {
    signature: Signature,
    /// One per thread.
    descriptors: Vec<Descriptor>,
}

pub(super) fn open(model: &Model, threads: usize) -> Box<dyn Encoder> {
    let outputs = vec![TensorSpec::new(model.output(), Element::F32, &[DIM])];
    let descriptors = (0..threads.max(1)).map(|_| Descriptor::new()).collect();
    Box::new(Builtin { signature: Signature { inputs: vec![model.input()], outputs }, descriptors })
}

impl Encoder for Builtin {
    fn name(&self) -> &str {
        "plain Rust"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        batch.check(&self.signature)?;
        let pixels = batch.inputs.first().map(|input| input.numbers.to_f32()).unwrap_or_default();
        let mut vectors = vec![0.0; batch.items * DIM];
        let share = batch.items.div_ceil(self.descriptors.len()).max(1);
        let parts = pixels.chunks(share * PIXELS).zip(vectors.chunks_mut(share * DIM));
        thread::scope(|scope| {
            for (descriptor, (pixels, vectors)) in self.descriptors.iter_mut().zip(parts) {
                let mut describe = move || {
                    for (picture, vector) in pixels.chunks_exact(PIXELS).zip(vectors.chunks_exact_mut(DIM)) {
                        vector.copy_from_slice(&descriptor.describe(picture));
                    }
                };
                match share == batch.items {
                    true => describe(),
                    false => drop(scope.spawn(describe)),
                }
            }
        });
        let name = self.signature.outputs.first().map_or_else(String::new, |output| output.name.clone());
        Ok(vec![Output { name, shape: vec![batch.items, DIM], numbers: vectors }])
    }
}
