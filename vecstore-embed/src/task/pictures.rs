//! Pictures: one item and one row each.

use ::image::RgbImage;

use super::{Bucket, Halt, Items, Loaded, Task, misfit};
use crate::backend::{Batch, Output, Signature};
use crate::base::{Rejected, RejectionClass, Result};
use crate::image::preprocess::Preprocess;
use crate::image::{DecodeLimits, recycle, sides};
use crate::model::{Model, Normalise};
use crate::source::{Accepts, Content};

/// Bytes of memory one pixel may take at once: the decoder's own image and its converted or turned copy.
const BYTES_PER_PIXEL: u64 = 8;

/// Decodes pictures and prepares them for a model.
#[derive(Clone, Debug)]
pub struct Pictures {
    preprocess: Preprocess,
    normalise: Normalise,
    limits: DecodeLimits,
}

impl Pictures {
    /// Pictures as `model` wants them.
    pub fn of(model: &Model, limits: DecodeLimits) -> Self {
        Pictures::new(model.preprocess().clone(), model.normalise(), limits)
    }

    /// Pictures that are prepared like this, and what is done to their vectors.
    pub fn new(preprocess: Preprocess, normalise: Normalise, limits: DecodeLimits) -> Self {
        Pictures { preprocess, normalise, limits }
    }
}

impl Task for Pictures {
    fn accepts(&self) -> Accepts {
        Accepts::pictures()
    }

    fn buckets(&self, signature: &Signature) -> Result<Vec<Bucket>> {
        let shape = vec![3, self.preprocess.input_height() as usize, self.preprocess.input_width() as usize];
        let fits = |spec: &[Option<usize>]| {
            spec.len() == 3
                && spec.iter().zip(&shape).all(|(spec, side)| spec.is_none_or(|spec| spec == *side))
        };
        match &signature.inputs[..] {
            [input] if fits(&input.shape) => Ok(vec![Bucket { shapes: vec![shape], items: None }]),
            _ => Err(misfit("one input [3, height, width] as the pictures are prepared", signature)),
        }
    }

    fn cost(&self, content: &[u8]) -> u64 {
        let Some((width, height)) = sides(content) else { return 0 };
        // What will be rejected by its header takes nothing.
        match u64::from(width) * u64::from(height) > self.limits.max_pixels {
            true => 0,
            false => self.preprocess.decoded_pixels(content, width, height).saturating_mul(BYTES_PER_PIXEL),
        }
    }

    fn load<'a>(&'a self, content: Content<'a>) -> Result<Box<dyn Loaded + 'a>, Rejected> {
        let picture = match content {
            Content::Bytes(bytes) => self.preprocess.decode(bytes, &self.limits)?,
            Content::Picture(picture) => picture.into_owned(),
        };
        Ok(Box::new(Picture { task: self, picture }))
    }

    fn vectors(&self, _: &Batch<'_>, outputs: Vec<Output>) -> Result<Vec<f32>> {
        let Some(mut output) = outputs.into_iter().next() else { return Ok(Vec::new()) };
        if self.normalise == Normalise::L2 {
            normalise(&mut output.numbers, output.shape.last().copied().unwrap_or(1).max(1));
        }
        Ok(output.numbers)
    }

    fn canonical(&self) -> String {
        format!("{}; vectors {}", self.preprocess.canonical(), self.normalise)
    }
}

/// A picture that is decoded.
struct Picture<'a> {
    task: &'a Pictures,
    picture: RgbImage,
}

impl Loaded for Picture<'_> {
    fn items(self: Box<Self>, items: &mut dyn Items) -> Result<(), Halt> {
        let Picture { task, picture } = *self;
        let added = items.add(0, &mut |slot| {
            let bad = |error: crate::base::Error| Rejected::new(RejectionClass::Decode, error.to_string());
            task.preprocess.apply_to(&picture, slot.input(0)).map_err(bad)
        });
        recycle(picture);
        added.map(drop)
    }
}

/// Brings each vector to length 1.
fn normalise(vectors: &mut [f32], dim: usize) {
    for vector in vectors.chunks_exact_mut(dim) {
        // In f64 the squares of any f32 add up without overflow or loss.
        let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        if length.is_finite() && length > 0.0 {
            for x in vector {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "rounding to f32 is meant; it is at most 1"
                )]
                let scaled = (f64::from(*x) / length) as f32;
                *x = scaled;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_get_length_one_and_nothing_is_made_up() {
        let mut vectors = [3.0, 4.0, 0.0, 0.0, f32::NAN, 1.0, 1e-30, 0.0, 3e38, 3e38];
        normalise(&mut vectors, 2);
        assert_eq!(vectors[..4], [0.6, 0.8, 0.0, 0.0]);
        assert!(vectors[4].is_nan() && vectors[5] == 1.0);
        assert_eq!(vectors[6..8], [1.0, 0.0]);
        assert!((vectors[8] - 0.5f32.sqrt()).abs() < 1e-6);
    }
}
