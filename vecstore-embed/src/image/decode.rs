//! Bytes in, upright RGB out.

use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::{BadImage, DecodeLimits, Fault, Format, complete, jpeg, sniff};

/// Decodes a whole file into upright 8-bit RGB; see the [module](super) for the rules.
///
/// # Errors
/// [`BadImage`] says why the content gives no picture. Every cut of a valid file is refused.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, BadImage> {
    decode_at_least(bytes, limits, None)
}

/// As [`decode`], but a JPEG whose sides are more than `least` pixels may come out smaller, by a half, a
/// quarter or an eighth, as long as they are. Only in builds with the feature `turbojpeg`; in others nothing
/// comes out smaller.
///
/// # Errors
/// As [`decode`].
pub fn decode_at_least(
    bytes: &[u8],
    limits: &DecodeLimits,
    least: Option<usize>,
) -> Result<RgbImage, BadImage> {
    if bytes.is_empty() {
        return Err(BadImage::new(Fault::Empty, ""));
    }
    let Some(format) = sniff::sniff(bytes) else { return Err(sniff::unknown(bytes)) };
    let whole = complete::check(format, bytes)?;
    // Decoders of six formats are a lot of code that meets hostile bytes. A panic in one of them costs that
    // one picture, not the run; nothing that outlives the call is shared with it.
    let decoded = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Jpeg => match least.map_or(Ok(None), |least| smaller(bytes, limits, least))? {
            Some(picture) => Ok(picture),
            None => jpeg::decode(bytes, whole, limits),
        },
        Format::Png => other(bytes, format, ImageFormat::Png, limits),
        Format::WebP => other(bytes, format, ImageFormat::WebP, limits),
        Format::Gif => other(bytes, format, ImageFormat::Gif, limits),
        Format::Bmp => other(bytes, format, ImageFormat::Bmp, limits),
        Format::Tiff => other(bytes, format, ImageFormat::Tiff, limits),
    }));
    decoded
        .unwrap_or_else(|_| Err(BadImage::new(Fault::Damaged, format!("the {format} decoder gave up on it"))))
}

/// Width and height by the header, where it says so.
pub(crate) fn sides(bytes: &[u8]) -> Option<(u32, u32)> {
    match sniff::sniff(bytes) {
        // Of every JPEG the crate would make a copy first.
        Some(Format::Jpeg) => jpeg::sides(bytes),
        _ => ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?.into_dimensions().ok(),
    }
}

#[cfg(feature = "turbojpeg")]
use super::turbo::decode as smaller;

#[cfg(not(feature = "turbojpeg"))]
fn smaller(_: &[u8], _: &DecodeLimits, _: usize) -> Result<Option<RgbImage>, BadImage> {
    Ok(None)
}

/// The formats that the `image` crate decodes without swallowing errors.
fn other(
    bytes: &[u8],
    format: Format,
    codec: ImageFormat,
    limits: &DecodeLimits,
) -> Result<RgbImage, BadImage> {
    let rejected = |error: ImageError| rejected(format, error);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), codec);
    let mut allowed = Limits::no_limits();
    allowed.max_alloc = Some(limits.max_alloc());
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(rejected)?;
    let (width, height) = decoder.dimensions();
    limits.check(width.into(), height.into())?;
    // Metadata that cannot be read say nothing about the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(rejected)?;
    picture.apply_orientation(orientation);
    Ok(match picture.color().has_alpha() {
        true => over_white(picture),
        false => picture.into_rgb8(),
    })
}

/// Turned as the metadata say.
pub(super) fn upright(picture: RgbImage, orientation: Option<Orientation>) -> RgbImage {
    match orientation {
        None | Some(Orientation::NoTransforms) => picture,
        Some(orientation) => {
            let mut picture = DynamicImage::from(picture);
            picture.apply_orientation(orientation);
            picture.into_rgb8()
        }
    }
}

/// What is transparent shows a white page, as it would in print; dropping the alpha channel instead shows
/// whatever colour the program that made the file left in pixels that are not seen.
fn over_white(picture: DynamicImage) -> RgbImage {
    let rgba = picture.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, alpha] = from.0;
        to.0 = [r, g, b].map(|colour| blend(colour, alpha));
    }
    rgb
}

/// `colour` at `alpha` over white, rounded to the nearest level.
fn blend(colour: u8, alpha: u8) -> u8 {
    let (colour, alpha) = (u16::from(colour), u16::from(alpha));
    // At most 255 * 255 + 127, divided by 255: always fits.
    u8::try_from((colour * alpha + 255 * (255 - alpha) + 127) / 255).unwrap_or(u8::MAX)
}

fn rejected(format: Format, error: ImageError) -> BadImage {
    let fault = match &error {
        ImageError::Limits(_) => Fault::TooLarge,
        ImageError::Unsupported(_) => Fault::Unsupported,
        ImageError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => Fault::Truncated,
        _ => Fault::Damaged,
    };
    BadImage::new(fault, format!("{format}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_shows_white() {
        assert_eq!(blend(0, 0), 255);
        assert_eq!(blend(200, 255), 200);
        assert_eq!(blend(0, 128), 127);
        assert_eq!(blend(255, 7), 255);
    }
}
