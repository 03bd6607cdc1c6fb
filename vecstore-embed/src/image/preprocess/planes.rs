//! The last two steps: levels become the numbers of a model, and channels are taken apart.

use super::{ChannelOrder, Preprocess};

/// What the levels of one channel become.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Channel {
    levels: [f32; 256],
    /// The same numbers computed, which takes half the time of looking them up.
    line: Option<Line>,
}

impl Channel {
    /// Of numbers that lie on a line, each of which is rounded once.
    pub(super) fn new(exact: impl Fn(u8) -> f64) -> Self {
        let mut levels = [0.0; 256];
        for (level, number) in (0..=255).zip(&mut levels) {
            *number = rounded(exact(level));
        }
        let start = exact(0);
        Channel { line: Line::through(&levels, (exact(255) - start) / 255.0, start), levels }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
fn rounded(exact: f64) -> f32 {
    exact as f32
}

/// Slope and start in two parts. Coarse ones are multiples of a step so large that their products and sums
/// are exact; fine ones so small that their roundings hardly ever show. What is left is one rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    slope: [f32; 2],
    start: [f32; 2],
}

impl Line {
    /// The line that gives each of these numbers to the last bit. A few steps are tried.
    fn through(levels: &[f32; 256], slope: f64, start: f64) -> Option<Self> {
        let largest = f64::from(levels[0].abs().max(levels[255].abs()));
        let line = |digits: i32| {
            let step = (largest.log2().ceil() - f64::from(digits)).exp2();
            let parts = |number: f64| {
                let coarse = (number / step).round() * step;
                [rounded(coarse), rounded(number - coarse)]
            };
            Line { slope: parts(slope), start: parts(start) }
        };
        let same = |line: &Line| {
            (0..=255).zip(levels).all(|(level, number)| line.at(level).to_bits() == number.to_bits())
        };
        (19..=23).rev().map(line).find(same)
    }

    #[inline(always)]
    fn at(self, level: u8) -> f32 {
        let (level, Line { slope, start }) = (f32::from(level), self);
        (level * slope[0] + start[0]) + (level * slope[1] + start[1])
    }
}

/// The planes of the three channels of a pixel, in its order.
#[cfg(target_arch = "x86_64")]
type Planes<'a> = [(&'a mut [f32], Line); 3];

impl Preprocess {
    /// Writes the planes of a picture that has the right size.
    pub(super) fn write_singles(&self, pixels: &[u8], out: &mut [f32]) {
        let computed = self.compute(pixels.as_chunks().0, out).unwrap_or(0);
        self.look_up(computed, pixels, out, |number| number);
    }

    /// The same by a table, in any type, from pixel `first` on.
    pub(super) fn look_up<T: Copy>(&self, first: usize, pixels: &[u8], out: &mut [T], of: impl Fn(f32) -> T) {
        let sources = match self.steps.order {
            ChannelOrder::Rgb => [0, 1, 2],
            ChannelOrder::Bgr => [2, 1, 0],
        };
        let planes = out.chunks_exact_mut(self.tensor_len() / 3).zip(self.channels.iter());
        for ((plane, channel), source) in planes.zip(sources) {
            let levels = channel.levels.map(&of);
            for (to, pixel) in plane.iter_mut().zip(pixels.as_chunks::<3>().0).skip(first) {
                *to = levels[usize::from(pixel[source])];
            }
        }
    }

    /// Computes the numbers of the first pixels, where the processor does so faster than by a table; gives
    /// how many.
    #[cfg(target_arch = "x86_64")]
    fn compute(&self, pixels: &[[u8; 3]], out: &mut [f32]) -> Option<usize> {
        let mut planes = out.chunks_exact_mut(self.tensor_len() / 3).zip(self.channels.iter());
        let mut next = || planes.next().and_then(|(plane, channel)| Some((plane, channel.line?)));
        let mut planes = [next()?, next()?, next()?];
        if self.steps.order == ChannelOrder::Bgr {
            planes.reverse();
        }
        // SAFETY: the processor has the feature.
        is_x86_feature_detected!("avx2").then(|| unsafe { blocks(pixels, planes) })
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn compute(&self, _: &[[u8; 3]], _: &mut [f32]) -> Option<usize> {
        None
    }
}

/// Loops of which the compiler makes vectors, over whole blocks of pixels; gives the number of pixels.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn blocks(pixels: &[[u8; 3]], planes: Planes<'_>) -> usize {
    // Their numbers stay in the nearest cache.
    const BLOCK: usize = 64;
    let pixels = pixels.as_chunks::<BLOCK>().0;
    let [red, green, blue] =
        planes.map(|(plane, line)| plane.as_chunks_mut().0.iter_mut().map(move |to| (to, line)));
    for (((block, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
        let mut levels = [[0; BLOCK]; 3];
        for (at, [r, g, b]) in block.iter().enumerate() {
            (levels[0][at], levels[1][at], levels[2][at]) = (*r, *g, *b);
        }
        for ((to, line), levels) in [red, green, blue].into_iter().zip(levels) {
            let to: &mut [f32; BLOCK] = to;
            for (to, level) in to.iter_mut().zip(levels) {
                *to = line.at(level);
            }
        }
    }
    pixels.len() * BLOCK
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::image::preprocess::PreprocessOverrides;
    use crate::tensor::ViewMut;

    /// Descriptions of models, and what has zeros, signs, ties and infinities.
    const MODELS: [([f32; 3], [f32; 3]); 7] = [
        ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ([0.5; 3], [0.5; 3]),
        ([0.0; 3], [1.0; 3]),
        ([0.0; 3], [1.0 / 255.0; 3]),
        ([-3.0, 1e-9, 1e9], [-0.5, 1e-6, 7.0]),
        ([0.1, 0.0, 0.5], [1e-40, 1e-39, 1e38]),
    ];

    fn model((mean, std): ([f32; 3], [f32; 3]), size: &str, order: ChannelOrder) -> Preprocess {
        let options = PreprocessOverrides {
            size: Some(size.parse().unwrap()),
            mean: Some(mean),
            std: Some(std),
            channel_order: Some(order),
            ..PreprocessOverrides::default()
        };
        Preprocess::from_overrides(&options).unwrap().unwrap()
    }

    /// Each number as its definition has it.
    fn defined(picture: &RgbImage, (mean, std): ([f32; 3], [f32; 3]), sources: [usize; 3]) -> Vec<f32> {
        let number = |pixel: &Rgb<u8>, plane: usize| {
            let level = f64::from(pixel.0[sources[plane]]);
            ((level * (1.0 / 255.0) - f64::from(mean[plane])) / f64::from(std[plane])) as f32
        };
        (0..3).flat_map(|plane| picture.pixels().map(move |pixel| number(pixel, plane))).collect()
    }

    #[test]
    fn numbers_are_those_of_the_definition_in_every_type() {
        for (width, height) in [(1, 1), (7, 9), (8, 8), (63, 1), (64, 1), (13, 5), (16, 16), (37, 29)] {
            // Every level of every channel, where there are pixels enough.
            let picture = RgbImage::from_fn(width, height, |x, y| {
                let at = y * width + x;
                Rgb([at, 255 - at % 256, at * 7 + 3].map(|level| (level % 256) as u8))
            });
            for values in MODELS {
                for (order, sources) in [(ChannelOrder::Rgb, [0, 1, 2]), (ChannelOrder::Bgr, [2, 1, 0])] {
                    let mut preprocess = model(values, &format!("{height}x{width}"), order);
                    let wanted = defined(&picture, values, sources);
                    for table in [false, true] {
                        if table {
                            preprocess.channels.iter_mut().for_each(|channel| channel.line = None);
                        }
                        let case = format!("{width}x{height} {values:?} {order} {table}");
                        let mut singles = vec![9.0; wanted.len()];
                        preprocess.apply_to(&picture, ViewMut::new(&mut singles)).unwrap();
                        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
                        assert!(singles.iter().zip(&wanted).all(same), "{case}");
                        let mut halves = vec![f16::MAX; wanted.len()];
                        preprocess.apply_to(&picture, ViewMut::new(&mut halves)).unwrap();
                        let same = |(a, b): (&f16, &f32)| a.to_bits() == f16::from_f32(*b).to_bits();
                        assert!(halves.iter().zip(&wanted).all(same), "{case}");
                        let mut brains = vec![bf16::MAX; wanted.len()];
                        preprocess.apply_to(&picture, ViewMut::new(&mut brains)).unwrap();
                        let same = |(a, b): (&bf16, &f32)| a.to_bits() == bf16::from_f32(*b).to_bits();
                        assert!(brains.iter().zip(&wanted).all(same), "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn lines_go_through_the_numbers_of_models() {
        for values in &MODELS[..5] {
            let preprocess = model(*values, "8x8", ChannelOrder::Rgb);
            assert!(preprocess.channels.iter().all(|channel| channel.line.is_some()), "{values:?}");
        }
        let found = (0..1000).filter(|n| {
            let (mean, std) = (f64::from(*n) / 1009.0, f64::from(n % 91 + 7) / 97.0);
            Channel::new(|level| (f64::from(level) / 255.0 - mean) / std).line.is_some()
        });
        assert!(found.count() > 990);
        assert_eq!(Channel::new(|level| f64::from(level).sqrt()).line, None, "no line does");
    }
}
