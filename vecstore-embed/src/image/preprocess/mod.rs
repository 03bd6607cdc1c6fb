//! From an upright picture to the numbers a model was trained on.
//!
//! A model only means what it was trained to mean if pictures reach it exactly as they did in training:
//! resized with the same filter, cropped at the same pixel, scaled with the same mean and deviation. The
//! published descriptions (`preprocessor_config.json`) rest on Pillow's arithmetic, so that is what is
//! followed here:
//!
//! 1. Resize: to an exact size, or so that the shortest edge has a given length and the other one is
//!    `long * edge / short`, cut to a whole number. Pixels are rounded to whole levels afterwards.
//! 2. Crop the centre, at offset `(side - crop) / 2`, rounded down.
//! 3. Each level becomes `(level * scale - mean) / deviation`, channel by channel.
//! 4. Channels are written one plane after the other: `[3, height, width]`, in RGB or BGR order.
//!
//! ```
//! use vecstore_embed::image::preprocess::Preprocess;
//!
//! let preprocess = Preprocess::descriptor();
//! let picture = image::RgbImage::from_pixel(640, 480, image::Rgb([255, 0, 0]));
//! let mut planes = vec![0.0; preprocess.tensor_len()];
//! preprocess.apply(&picture, &mut planes)?;
//! assert_eq!((planes[0], planes[planes.len() - 1]), (1.0, 0.0)); // all red, no blue
//! # Ok::<(), vecstore_embed::Error>(())
//! ```

mod apply;
mod config;
mod options;
mod planes;

pub use options::{ChannelOrder, JpegScale, PreprocessOverrides, Resample, Resize, Sides, parse_triple};

use std::path::Path;

use ::image::RgbImage;

use crate::base::{Error, Result};
use crate::image::{self, BadImage, DecodeLimits};
use planes::Channel;

/// How pictures are prepared for one model. Immutable; part of the model's fingerprint.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    steps: Steps,
    /// What comes out, after the crop.
    input: Sides,
    /// What levels become, in output order.
    channels: Box<[Channel; 3]>,
}

/// What was asked for, before it is known to make sense.
#[derive(Clone, Debug, PartialEq)]
struct Steps {
    resize: Resize,
    filter: Resample,
    crop: Option<Sides>,
    /// One level in the units that `mean` and `std` are given in: usually 1/255.
    scale: f64,
    mean: [f32; 3],
    std: [f32; 3],
    order: ChannelOrder,
    jpeg: JpegScale,
}

impl Preprocess {
    /// What the built-in descriptor wants: the whole picture squeezed to 224 x 224, RGB, 0 to 1.
    pub fn descriptor() -> Self {
        let input = Sides::square(224);
        let plain = Steps::new(Resize::Exact(input), [0.0; 3], [1.0; 3]);
        Preprocess::with_input(Steps { filter: Resample::Bilinear, ..plain }, input)
    }

    /// Reads a `preprocessor_config.json` of the CLIP, SigLIP, DINOv2 (`BitImageProcessor`) or ViT family, in
    /// the old spelling (`feature_extractor_type`, `"size": 224`) or the new one (`image_processor_type`,
    /// `"size": {"shortest_edge": 224}`).
    ///
    /// # Errors
    /// A file that cannot be read, is not JSON, names a processor whose rules are not known here, or asks for
    /// a step that is not one of the four above. Each names what it found and what to do.
    pub fn from_config_file(path: &Path) -> Result<Self> {
        config::read(path)?.finish(&path.display().to_string())
    }

    /// As [`from_config_file`](Self::from_config_file), with single values replaced.
    ///
    /// # Errors
    /// As there, and if the result is contradictory (a crop larger than what it is cut from).
    pub fn from_config_file_with(path: &Path, overrides: &PreprocessOverrides) -> Result<Self> {
        config::read(path)?.replace(overrides).finish(&path.display().to_string())
    }

    /// From options alone; `None` unless they [say it all](PreprocessOverrides::is_complete).
    ///
    /// # Errors
    /// If the result is contradictory.
    pub fn from_overrides(overrides: &PreprocessOverrides) -> Result<Option<Self>> {
        let (Some(resize), Some(mean), Some(std)) = (overrides.size, overrides.mean, overrides.std) else {
            return Ok(None);
        };
        Steps::new(resize, mean, std).replace(overrides).finish("options").map(Some)
    }

    /// Height of the model's input in pixels.
    pub fn input_height(&self) -> u32 {
        self.input.height
    }

    /// Width of the model's input in pixels.
    pub fn input_width(&self) -> u32 {
        self.input.width
    }

    /// Numbers per picture: 3 x height x width.
    pub fn tensor_len(&self) -> usize {
        // Sides are at most MAX_SIDE, see `Steps::finish`.
        3 * self.input.height as usize * self.input.width as usize
    }

    /// One line that is equal exactly when the preparation is: it goes into fingerprints, and into messages.
    pub fn canonical(&self) -> String {
        let Steps { resize, filter, crop, scale, mean, std, order, jpeg } = &self.steps;
        let crop = crop.map_or_else(String::new, |crop| format!("; crop {crop}"));
        let triple = |[a, b, c]: &[f32; 3]| format!("{a} {b} {c}");
        let (mean, std) = (triple(mean), triple(std));
        let rules = image::RULES;
        let mut line =
            format!("{rules}; resize {resize} {filter}{crop}; {order} x {scale}; mean {mean}; std {std}");
        if *jpeg == JpegScale::Scaled {
            line.push_str("; jpeg decoded smaller, twice as large as resized or more");
        }
        line
    }

    /// Decodes a picture as it is wanted here; see [`image::decode`].
    ///
    /// # Errors
    /// As there.
    pub fn decode(&self, bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, BadImage> {
        image::decode_at_least(bytes, limits, self.least())
    }

    /// The length below which no side of a JPEG that is decoded smaller may fall.
    fn least(&self) -> Option<usize> {
        let edge = match self.steps.resize {
            Resize::ShortestEdge(edge) => edge,
            // The picture may lie on its side.
            Resize::Exact(sides) => sides.height.max(sides.width),
        };
        (self.steps.jpeg == JpegScale::Scaled).then_some(2 * edge as usize)
    }

    /// Pixels that decoding a picture of these sides gives: fewer where a JPEG is decoded smaller.
    pub(crate) fn decoded_pixels(&self, content: &[u8], width: u32, height: u32) -> u64 {
        let (pixels, shorter) = (u64::from(width) * u64::from(height), width.min(height) as usize);
        let least = self.least().filter(|_| image::sniff(content) == Some(image::Format::Jpeg));
        let scale = least.and_then(|least| [8, 4, 2].into_iter().find(|scale| shorter / scale >= least));
        scale.map_or(pixels, |scale| pixels / (scale * scale) as u64)
    }

    fn with_input(steps: Steps, input: Sides) -> Self {
        let Steps { scale, mean, std, .. } = steps;
        let channels = [0, 1, 2].map(|at: usize| {
            Channel::new(|level| (f64::from(level) * scale - f64::from(mean[at])) / f64::from(std[at]))
        });
        Preprocess { steps, input, channels: Box::new(channels) }
    }
}

impl Steps {
    /// The longest side a model input may have: 3 planes of f32 are then 3 GiB.
    const MAX_SIDE: u32 = 16_384;

    /// With what holds unless it is said.
    fn new(resize: Resize, mean: [f32; 3], std: [f32; 3]) -> Self {
        let (filter, order, jpeg) = (Resample::Bicubic, ChannelOrder::Rgb, JpegScale::Exact);
        Steps { resize, filter, crop: None, scale: 1.0 / 255.0, mean, std, order, jpeg }
    }

    fn replace(mut self, overrides: &PreprocessOverrides) -> Self {
        let PreprocessOverrides { size, crop, mean, std, channel_order, filter, jpeg } = *overrides;
        self.resize = size.unwrap_or(self.resize);
        self.crop = crop.or(self.crop);
        self.mean = mean.unwrap_or(self.mean);
        self.std = std.unwrap_or(self.std);
        self.order = channel_order.unwrap_or(self.order);
        self.filter = filter.unwrap_or(self.filter);
        self.jpeg = jpeg.unwrap_or(self.jpeg);
        self
    }

    fn finish(self, origin: &str) -> Result<Preprocess> {
        let fail = |expected: &str, found: String, remedy: &str| {
            Err(Error::unfit(format!("preprocessing from {origin}"), expected, found, remedy))
        };
        if self.jpeg == JpegScale::Scaled && !cfg!(feature = "turbojpeg") {
            return fail(
                "JPEGs decoded exactly, by a program built without the feature turbojpeg",
                "jpeg: scaled".to_owned(),
                "build it with the feature turbojpeg (that needs cmake and nasm), or leave this open",
            );
        }
        let (room, input) = match (self.resize, self.crop) {
            (Resize::Exact(sides), crop) => (sides, crop.unwrap_or(sides)),
            (Resize::ShortestEdge(edge), Some(crop)) => (Sides::square(edge), crop),
            (Resize::ShortestEdge(edge), None) => {
                return fail(
                    "one input size for all pictures",
                    format!("shortest edge {edge} and no crop, which leaves the longer side open"),
                    "give a crop, or an exact size such as 224x224",
                );
            }
        };
        if input.height > room.height || input.width > room.width {
            return fail(
                "a crop no larger than the resized picture",
                format!("crop {input} of {}", self.resize),
                "give a larger size or a smaller crop",
            );
        }
        let sides = [room.height, room.width, input.height, input.width];
        if !sides.iter().all(|side| (1..=Self::MAX_SIDE).contains(side)) {
            let found = format!("size {} and input {input}", self.resize);
            return fail("sides of 1 to 16384 pixels", found, "correct the size or the crop");
        }
        let finite = self.mean.iter().chain(&self.std).all(|v| v.is_finite()) && self.scale.is_finite();
        if !finite || self.std.contains(&0.0) || self.scale == 0.0 {
            let found = format!("scale {}, mean {:?}, std {:?}", self.scale, self.mean, self.std);
            return fail("finite numbers, and none to divide by that is zero", found, "correct the numbers");
        }
        Ok(Preprocess::with_input(self, input))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(size: &str, crop: Option<&str>) -> PreprocessOverrides {
        PreprocessOverrides {
            size: Some(size.parse().unwrap()),
            crop: crop.map(|crop| crop.parse().unwrap()),
            mean: Some([0.5; 3]),
            std: Some([0.25, 0.5, 1.0]),
            ..PreprocessOverrides::default()
        }
    }

    #[test]
    fn the_canonical_line_tells_every_difference() {
        let base = options("256", Some("224"));
        let line = |o: &PreprocessOverrides| Preprocess::from_overrides(o).unwrap().unwrap().canonical();
        assert_eq!(
            line(&base),
            "decode 1: upright, first frame, over white; resize 256 bicubic; crop 224x224; \
             rgb x 0.00392156862745098; mean 0.5 0.5 0.5; std 0.25 0.5 1"
        );
        let others = [
            options("257", Some("224")),
            options("256x256", Some("224")),
            options("256", Some("224x223")),
            PreprocessOverrides { filter: Some(Resample::Bilinear), ..base },
            PreprocessOverrides { channel_order: Some(ChannelOrder::Bgr), ..base },
            PreprocessOverrides { mean: Some([0.5, 0.5, 0.500_000_1]), ..base },
            PreprocessOverrides { std: Some([0.25, 0.5, 2.0]), ..base },
        ];
        for other in others {
            assert_ne!(line(&other), line(&base), "{other:?}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_in_words() {
        let text = |o| Preprocess::from_overrides(&o).unwrap_err().to_string();
        assert_eq!(
            text(options("224", None)),
            "preprocessing from options: expected one input size for all pictures, found shortest edge 224 \
             and no crop, which leaves the longer side open; give a crop, or an exact size such as 224x224"
        );
        assert!(text(options("224", Some("256"))).contains("crop 256x256 of 224"));
        assert!(text(options("99999", Some("1"))).contains("sides of 1 to 16384"));
        let zero = PreprocessOverrides { std: Some([1.0, 0.0, 1.0]), ..options("8x8", None) };
        assert!(text(zero).contains("none to divide by"));
    }

    #[test]
    fn options_that_leave_something_out_are_not_enough() {
        let no_mean = PreprocessOverrides { mean: None, ..options("8x8", None) };
        assert_eq!(Preprocess::from_overrides(&no_mean).unwrap(), None);
    }
}
