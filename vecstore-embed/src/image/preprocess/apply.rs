//! The steps, of which the last two are in `planes`.

use std::borrow::Cow;
use std::cell::RefCell;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{F32x3, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use half::{bf16, f16};
use image::RgbImage;

use super::{Preprocess, Resample, Resize, Sides};
use crate::base::{Error, Result};
use crate::tensor::{Element, ViewMut};

thread_local! {
    // A resizer keeps its scratch memory; a worker thread prepares thousands of pictures.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

impl Preprocess {
    /// Prepares one picture: fills `out`, [`tensor_len`](Self::tensor_len) numbers long, with
    /// `[3, height, width]`.
    ///
    /// # Errors
    /// If `out` has another length, or the picture has no pixels.
    pub fn apply(&self, picture: &RgbImage, out: &mut [f32]) -> Result<()> {
        self.apply_to(picture, ViewMut::new(out))
    }

    /// As [`apply`](Self::apply), in the type that `out` has room for: each is the one in f32, rounded.
    pub(crate) fn apply_to(&self, picture: &RgbImage, out: ViewMut<'_>) -> Result<()> {
        let bad = |what, expected, found: String| Err(Error::bad_value(what, expected, found));
        if out.len() != self.tensor_len() {
            let what = "length of the tensor a picture is prepared into";
            return bad(what, "3 x input height x input width", out.len().to_string());
        }
        let (width, height) = picture.dimensions();
        if width == 0 || height == 0 {
            return bad("picture", "1 pixel or more on each side", format!("{width}x{height}"));
        }
        let pixels = self.resize_and_crop(picture)?;
        match out.element() {
            Element::F32 => self.write_singles(&pixels, out.into_slice().unwrap_or_default()),
            Element::F16 => self.look_up(0, &pixels, out.into_slice().unwrap_or_default(), f16::from_f32),
            Element::Bf16 => self.look_up(0, &pixels, out.into_slice().unwrap_or_default(), bf16::from_f32),
            other => return bad("input of a model of pictures", "f32, f16 or bf16", other.to_string()),
        }
        Ok(())
    }

    /// The sides a picture is resized to, width first. One of them may be huge for a picture that is a line.
    fn resized_sides(&self, width: u32, height: u32) -> (u64, u64) {
        match self.steps.resize {
            Resize::Exact(sides) => (sides.width.into(), sides.height.into()),
            Resize::ShortestEdge(edge) => {
                let (edge, width, height) = (u64::from(edge), u64::from(width), u64::from(height));
                // Cut, not rounded, to a whole number, as `int(size * long / short)` does.
                match width <= height {
                    true => (edge, edge * height / width),
                    false => (edge * width / height, edge),
                }
            }
        }
    }

    /// Only the part that the crop keeps is computed: the window of the resized picture is traced back to the
    /// part of the source that it comes from. Filters still see the pixels around that part, so the result is
    /// the one of resizing all and cutting afterwards.
    fn resize_and_crop<'a>(&self, picture: &'a RgbImage) -> Result<Cow<'a, [u8]>> {
        let (width, height) = picture.dimensions();
        let (resized_width, resized_height) = self.resized_sides(width, height);
        let Sides { height: input_height, width: input_width } = self.input;
        let same_size = (u64::from(width), u64::from(height)) == (resized_width, resized_height);
        if same_size && (width, height) == (input_width, input_height) {
            return Ok(Cow::Borrowed(picture.as_raw()));
        }
        let columns = Window::new(width, resized_width, input_width);
        let rows = Window::new(height, resized_height, input_height);
        let Some(kernel) = kernel(self.steps.filter) else {
            return Ok(Cow::Owned(nearest(picture, columns, rows)));
        };
        convolve(picture, kernel, columns, rows).map(Cow::Owned).map_err(|found| {
            let expected = format!("to become {input_width}x{input_height}");
            let remedy = "this is a fault of the program, please report it";
            Error::unfit(format!("a picture of {width}x{height}"), expected, found, remedy)
        })
    }
}

/// The centred window that a crop keeps of one side, seen from the source.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    /// Pixels of the source.
    source: u32,
    /// Pixels kept.
    kept: u32,
    /// Resized pixels before the first one kept.
    offset: u64,
    /// Source pixels per resized pixel.
    step: f64,
}

impl Window {
    #[expect(clippy::cast_precision_loss, reason = "sides are far below 2^53")]
    fn new(source: u32, resized: u64, kept: u32) -> Self {
        let offset = resized.saturating_sub(kept.into()) / 2;
        Window { source, kept, offset, step: f64::from(source) / resized as f64 }
    }

    /// Where the window begins in the source and how much of it it covers.
    #[expect(clippy::cast_precision_loss, reason = "offsets are far below 2^53")]
    fn span(&self) -> (f64, f64) {
        let begin = self.offset as f64 * self.step;
        (begin, (f64::from(self.kept) * self.step).min(f64::from(self.source) - begin))
    }

    /// Whole source pixels, first and end, that a filter of this support may look at.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=source before"
    )]
    fn reach(&self, support: f64) -> (u32, u32) {
        let (begin, length) = self.span();
        // One more on each side, so that rounding never moves the edge that the filter itself cuts off at.
        let radius = support * self.step.max(1.0) + 1.0;
        let first = (begin - radius).floor().max(0.0);
        let end = (begin + length + radius).ceil().min(f64::from(self.source));
        (first as u32, end as u32)
    }

    /// The source pixel below the centre of each pixel kept. Summed up step by step like Pillow does, whose
    /// rounding decides where a centre falls between two pixels.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, and is clamped"
    )]
    fn centres(&self) -> Vec<u32> {
        let mut at = self.step * 0.5;
        for _ in 0..self.offset {
            at += self.step;
        }
        let next = |_| {
            let pixel = (at as u32).min(self.source - 1);
            at += self.step;
            pixel
        };
        (0..self.kept).map(next).collect()
    }
}

/// A filter's kernel and how many pixels to each side it reaches at the original size.
fn kernel(filter: Resample) -> Option<(FilterType, f64)> {
    match filter {
        Resample::Nearest => None,
        Resample::Lanczos3 => Some((FilterType::Lanczos3, 3.0)),
        Resample::Bilinear => Some((FilterType::Bilinear, 1.0)),
        Resample::Bicubic => Some((FilterType::CatmullRom, 2.0)),
        Resample::Box => Some((FilterType::Box, 0.5)),
        Resample::Hamming => Some((FilterType::Hamming, 1.0)),
    }
}

/// Across first, down second, with levels rounded and clipped in between, as Pillow (to version 12) does it:
/// at hard edges a filter that overshoots gives other levels (by up to 28 of 255) when the passes are
/// swapped, which the resizer left to itself would do. So it is called once per pass.
///
/// What is left are roundings. The resizer weighs levels with 15 bits, Pillow with 22: a sum that is as close
/// as that to the middle between two levels becomes the other one. Where pictures are reduced to half or
/// less, that leaves the levels of Pillow to within one. Above, two rows that are off by one may weigh more
/// than one together, and the sum be off by two; there the passes compute with floating point, which is
/// slower, but there is less to do.
fn convolve(
    picture: &RgbImage,
    (kernel, support): (FilterType, f64),
    columns: Window,
    rows: Window,
) -> std::result::Result<Vec<u8>, String> {
    let (first_row, end_row) = rows.reach(support);
    let (left, wide) = columns.span();
    let (top, high) = rows.span();
    let algorithm = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(kernel));
    let tall = end_row - first_row;
    // A pass is left out by the resizer when the window on that side is whole and keeps its size.
    let down = algorithm.crop(0.0, top - f64::from(first_row), columns.kept.into(), high);
    if rows.step < FINE {
        let across = |tall: u32| algorithm.crop(left, 0.0, wide, tall.into());
        let kept = (columns.kept, rows.kept);
        return convolve_finely(picture, (first_row, tall), kept, across, &down, STRIP);
    }
    let across = algorithm.crop(left, first_row.into(), wide, tall.into());
    let mut levels = vec![0; 3 * columns.kept as usize * rows.kept as usize];
    let mut narrowed = TypedImage::new(columns.kept, tall);
    let source = TypedImageRef::from_buffer(picture.width(), picture.height(), picture.as_raw());
    pass::<U8x3>(&source.map_err(|e| e.to_string())?, &mut narrowed, &across)?;
    let source = TypedImageRef::new(columns.kept, tall, narrowed.pixels()).map_err(|e| e.to_string())?;
    let target = TypedImage::from_buffer(columns.kept, rows.kept, &mut levels);
    pass(&source, &mut target.map_err(|e| e.to_string())?, &down)?;
    Ok(levels)
}

/// One call of the thread's resizer. Typed: `Resizer::resize` is compiled for every kind of pixel there is.
fn pass<P: PixelTrait>(
    source: &TypedImageRef<'_, P>,
    target: &mut TypedImage<'_, P>,
    options: &ResizeOptions,
) -> std::result::Result<(), String> {
    RESIZER
        .with_borrow_mut(|resizer| resizer.resize_typed(source, target, options))
        .map_err(|e| e.to_string())
}

/// Rows of the source for each row kept, below which sums are computed with floating point.
const FINE: f64 = 2.0;

/// Pixels that are converted at a time.
const STRIP: u32 = 1 << 20;

/// The two passes over some rows of a picture, with all digits, and levels in between.
fn convolve_finely(
    picture: &RgbImage,
    (first_row, tall): (u32, u32),
    (width, height): (u32, u32),
    across: impl Fn(u32) -> ResizeOptions,
    down: &ResizeOptions,
    pixels_at_once: u32,
) -> std::result::Result<Vec<u8>, String> {
    let pixel = |levels: &[u8; 3]| F32x3::new(levels.map(f32::from));
    let row = picture.width() as usize;
    let rows = picture.as_raw().as_chunks().0.iter().skip(row * first_row as usize).take(row * tall as usize);
    let levels = |from: &[F32x3], (wide, high), (width, height), options: &ResizeOptions| {
        let mut target = TypedImage::<F32x3>::new(width, height);
        let source = TypedImageRef::new(wide, high, from).map_err(|e| e.to_string())?;
        pass(&source, &mut target, options)?;
        // `as` saturates, which clips what overshoots.
        let level = |pixel: &F32x3| pixel.0.map(|level| (level + 0.5) as u8);
        Ok::<Vec<u8>, String>(target.pixels().iter().flat_map(level).collect())
    };
    // Some rows at a time: a wide picture would take four times its own memory.
    let strip = (pixels_at_once / picture.width()).max(1);
    let mut rows = rows.map(pixel);
    let mut narrowed: Vec<F32x3> = Vec::with_capacity(width as usize * tall as usize);
    for first in (0..tall).step_by(strip as usize) {
        let high = strip.min(tall - first);
        let source: Vec<F32x3> = rows.by_ref().take(row * high as usize).collect();
        let rounded = levels(&source, (picture.width(), high), (width, high), &across(high))?;
        narrowed.extend(rounded.as_chunks().0.iter().map(pixel));
    }
    levels(&narrowed, (width, tall), (width, height), down)
}

fn nearest(picture: &RgbImage, columns: Window, rows: Window) -> Vec<u8> {
    let columns = columns.centres();
    let pick = |y: u32| columns.iter().flat_map(move |x| picture.get_pixel(*x, y).0);
    rows.centres().into_iter().flat_map(pick).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::preprocess::{ChannelOrder, PreprocessOverrides};

    fn shortest(edge: u32, crop: &str) -> Preprocess {
        let options = PreprocessOverrides {
            size: Some(Resize::ShortestEdge(edge)),
            crop: Some(crop.parse().unwrap()),
            mean: Some([0.0; 3]),
            std: Some([1.0; 3]),
            ..PreprocessOverrides::default()
        };
        Preprocess::from_overrides(&options).unwrap().unwrap()
    }

    #[test]
    fn a_picture_in_strips_is_the_picture() {
        let picture =
            RgbImage::from_fn(300, 90, |x, y| image::Rgb([x * 7 + y * 3, x * y, y * 11].map(|v| v as u8)));
        let algorithm = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        let across = |tall: u32| algorithm.crop(20.0, 0.0, 250.0, tall.into());
        let down = algorithm.crop(0.0, 5.5, 50.0, 60.0);
        let fine = |pixels| convolve_finely(&picture, (10, 70), (50, 40), across, &down, pixels).unwrap();
        let whole = fine(u32::MAX);
        assert_eq!(whole.len(), 50 * 40 * 3);
        for pixels in [1, 300 * 7, 300 * 69] {
            assert_eq!(fine(pixels), whole, "{pixels}");
        }
    }

    #[test]
    fn the_longer_side_is_cut_to_a_whole_number() {
        let preprocess = shortest(224, "224");
        assert_eq!(preprocess.resized_sides(640, 427), (335, 224)); // 335.7
        assert_eq!(preprocess.resized_sides(427, 640), (224, 335));
        assert_eq!(preprocess.resized_sides(100, 100), (224, 224));
    }

    #[test]
    fn windows_lie_in_the_middle_and_inside() {
        assert_eq!(Window::new(100, 100, 51).span(), (24.0, 51.0));
        assert_eq!(Window::new(200, 100, 100).span(), (0.0, 200.0));
        assert_eq!(Window::new(200, 100, 50).reach(2.0), (45, 155));
        for source in 1..200 {
            for resized in [7u64, 224, 225, 1000] {
                let window = Window::new(source, resized, 7);
                let (begin, length) = window.span();
                let (first, end) = window.reach(0.5);
                assert!(begin >= 0.0 && begin + length <= f64::from(source), "{source} {resized}");
                assert!(f64::from(first) <= begin && begin + length <= f64::from(end) && end <= source);
                assert!(window.centres().iter().all(|pixel| (first..end).contains(pixel)));
            }
        }
    }

    #[test]
    fn a_line_is_a_picture_too() {
        let preprocess = shortest(256, "224");
        let mut out = vec![-1.0; preprocess.tensor_len()];
        for (width, height) in [(1, 65_535), (65_535, 1), (1, 1)] {
            let line = RgbImage::from_pixel(width, height, image::Rgb([51, 102, 153]));
            preprocess.apply(&line, &mut out).unwrap();
            let wanted = [0.2, 0.4, 0.6].map(|colour: f32| vec![colour; 224 * 224]).concat();
            assert!(out.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{width}x{height}");
        }
    }

    #[test]
    fn channels_come_in_the_order_of_the_model() {
        let picture = RgbImage::from_pixel(2, 2, image::Rgb([0, 51, 255]));
        let options = PreprocessOverrides {
            size: Some("2x2".parse().unwrap()),
            mean: Some([0.5, 0.0, 0.0]),
            std: Some([0.5, 1.0, 1.0]),
            channel_order: Some(ChannelOrder::Bgr),
            ..PreprocessOverrides::default()
        };
        let preprocess = Preprocess::from_overrides(&options).unwrap().unwrap();
        let mut out = [9.0; 12];
        preprocess.apply(&picture, &mut out).unwrap();
        assert_eq!(out, [1.0, 1.0, 1.0, 1.0, 0.2, 0.2, 0.2, 0.2, 0.0, 0.0, 0.0, 0.0]);
        assert!(preprocess.apply(&picture, &mut [0.0; 11]).is_err());
    }
}
