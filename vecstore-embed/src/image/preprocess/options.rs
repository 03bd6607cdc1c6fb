//! The values that preprocessing is made of, as they are written.

use std::fmt;
use std::str::FromStr;

use crate::base::{Error, Result, names};

/// Height and width in pixels, written `HEIGHTxWIDTH`, or one number for a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl Sides {
    /// As many columns as rows.
    pub(super) fn square(side: u32) -> Self {
        Sides { height: side, width: side }
    }
}

impl fmt::Display for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

impl FromStr for Sides {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let sides = match text.split_once('x') {
            Some((height, width)) => height.parse().ok().zip(width.parse().ok()),
            None => text.parse().ok().map(|side| (side, side)),
        };
        match sides {
            Some((height, width)) if height > 0 && width > 0 => Ok(Sides { height, width }),
            _ => Err(Error::bad_value("crop", "pixels: 224 for a square, or HEIGHTxWIDTH", text)),
        }
    }
}

/// What a picture is resized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resize {
    /// The shorter edge to this length, the other in proportion. Written as one number: `224`.
    ShortestEdge(u32),
    /// To exactly this, whatever the proportions were. Written `HEIGHTxWIDTH`: `224x224`.
    Exact(Sides),
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resize::ShortestEdge(edge) => edge.fmt(f),
            Resize::Exact(sides) => sides.fmt(f),
        }
    }
}

impl FromStr for Resize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let size = match text.contains('x') {
            true => text.parse().ok().map(Resize::Exact),
            false => text.parse().ok().filter(|edge| *edge > 0).map(Resize::ShortestEdge),
        };
        let expected = "pixels: 224 for the shortest edge, or HEIGHTxWIDTH for an exact size";
        size.ok_or_else(|| Error::bad_value("size", expected, text))
    }
}

/// How pixels are computed from their neighbours when a picture is resized. All but `Nearest` widen with the
/// reduction, as Pillow's do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resample {
    /// The pixel at that place, Pillow's 0.
    Nearest,
    /// A windowed sinc over 6 pixels, Pillow's 1.
    Lanczos3,
    /// Linear over 2 pixels, Pillow's 2.
    Bilinear,
    /// Cubic over 4 pixels (Catmull-Rom, a = -0.5), Pillow's 3.
    Bicubic,
    /// The mean of the area, Pillow's 4. A source pixel whose centre lies exactly on the border of two areas
    /// counts to one of them, and rounding decides which: there Pillow's choice may be the other one.
    Box,
    /// A raised cosine over 2 pixels, Pillow's 5.
    Hamming,
}

names!(Resample "filter" {
    Nearest "nearest", Lanczos3 "lanczos3", Bilinear "bilinear", Bicubic "bicubic", Box "box"
    or Hamming "hamming"
});

impl Resample {
    /// The filter of a `resample` number in a `preprocessor_config.json`: its place in the list above.
    pub(super) fn from_pillow(code: u64) -> Option<Resample> {
        Self::ALL.get(usize::try_from(code).ok()?).copied()
    }
}

/// Which colour comes first in the model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelOrder {
    /// Red, green, blue: nearly every model.
    Rgb,
    /// Blue, green, red: models trained with OpenCV.
    Bgr,
}

names!(ChannelOrder "channel order" { Rgb "rgb" or Bgr "bgr" });

/// How JPEGs are decoded that are much larger than what the model wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum JpegScale {
    /// Every pixel, as the model's makers did.
    #[default]
    Exact,
    /// At a half, a quarter or an eighth of the size, if that leaves each side twice as long as what it is
    /// resized to: several times as fast, and slightly other pixels. Needs a program built with the feature
    /// `turbojpeg`.
    Scaled,
}

names!(JpegScale "jpeg decoding" { Exact "exact" or Scaled "scaled" });

/// Reads a mean or a deviation: three numbers with commas between them, or one that holds for all channels.
///
/// # Errors
/// Anything else.
pub fn parse_triple(text: &str) -> Result<[f32; 3]> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some([all]) => Ok([*all; 3]),
        Some([a, b, c]) => Ok([*a, *b, *c]),
        _ => {
            let expected = "three numbers such as 0.485,0.456,0.406, or one for all channels";
            Err(Error::bad_value("mean or std", expected, text))
        }
    }
}

/// Preprocessing given by options.
///
/// With a `preprocessor_config.json` beside the model, each option replaces that one value of the file.
/// Without one, `size`, `mean` and `std` are needed; what else is not given is: no crop, bicubic, RGB. Levels
/// count from 0 to 1 (are divided by 255) before mean and deviation apply, unless the file says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PreprocessOverrides {
    /// What pictures are resized to.
    pub size: Option<Resize>,
    /// The centre cut out after that.
    pub crop: Option<Sides>,
    /// Subtracted, per channel in the model's order.
    pub mean: Option<[f32; 3]>,
    /// Divided by, per channel in the model's order.
    pub std: Option<[f32; 3]>,
    /// The model's order of channels.
    pub channel_order: Option<ChannelOrder>,
    /// The resize filter.
    pub filter: Option<Resample>,
    /// How large JPEGs are decoded. Exactly, where nothing is given.
    pub jpeg: Option<JpegScale>,
}

impl PreprocessOverrides {
    /// Whether nothing but defaults would be missing without a file.
    pub fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    /// The options that are needed without a file and not given.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let needed =
            [("size", self.size.is_none()), ("mean", self.mean.is_none()), ("std", self.std.is_none())];
        needed.into_iter().filter(|(_, missing)| *missing).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_back() {
        for text in ["224", "224x224", "480x640"] {
            assert_eq!(text.parse::<Resize>().unwrap().to_string(), text);
        }
        assert_eq!("8".parse::<Sides>().unwrap(), Sides { height: 8, width: 8 });
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "0", "x", "224x", "0x5", "-3", "9999999999", "3x4x5", "22.5"] {
            assert!(text.parse::<Resize>().is_err(), "size {text:?}");
            assert!(text.parse::<Sides>().is_err(), "crop {text:?}");
        }
        for text in ["", "1,2", "1,2,3,4", "a,b,c", "1,,2"] {
            assert!(parse_triple(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_triple("0.5").unwrap(), [0.5; 3]);
        assert_eq!(parse_triple("1, 2,3").unwrap(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn pillow_numbers() {
        assert_eq!(Resample::from_pillow(3), Some(Resample::Bicubic));
        assert_eq!(Resample::from_pillow(0), Some(Resample::Nearest));
        assert_eq!(Resample::from_pillow(6), None);
        assert_eq!(Resample::from_pillow(u64::MAX), None);
    }
}
