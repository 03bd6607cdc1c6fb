//! JPEG decoded smaller than it is, by libjpeg-turbo.
//!
//! A JPEG holds frequencies of blocks of 8 x 8 pixels. Leaving the high ones out gives the picture at a half,
//! a quarter or an eighth of its sides for a fraction of the time, but not the pixels that resizing the whole
//! one would.

use image::RgbImage;
use image::metadata::Orientation;
use turbojpeg::{Decompressor, Image, PixelFormat, ScalingFactor};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::decode::upright;
use super::{BadImage, DecodeLimits, spare};

/// The picture at the smallest scale at which both sides have `least` pixels or more. `None` where that is
/// its full size, and where something is wrong or unusual: then the exact decoder has its say.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    least: usize,
) -> Result<Option<RgbImage>, BadImage> {
    let options = DecoderOptions::default().set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut header = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let Some((width, height)) = header.decode_headers().ok().and_then(|()| header.dimensions()) else {
        return Ok(None);
    };
    limits.check(width as u64, height as u64)?;
    let orientation = header.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let scales = [ScalingFactor::ONE_EIGHTH, ScalingFactor::ONE_QUARTER, ScalingFactor::ONE_HALF];
    let Some(scale) = scales.into_iter().find(|scale| scale.scale(width.min(height)) >= least) else {
        return Ok(None);
    };
    let Some(picture) = decompress(bytes, scale, (width, height)) else { return Ok(None) };
    Ok(Some(upright(picture, orientation)))
}

fn decompress(bytes: &[u8], scale: ScalingFactor, sides: (usize, usize)) -> Option<RgbImage> {
    let mut decompressor = Decompressor::new().ok()?;
    let header = decompressor.read_header(bytes).ok()?;
    // Two decoders that do not agree on this: something is unusual.
    if (header.width, header.height) != sides || header.is_lossless {
        return None;
    }
    decompressor.set_scaling_factor(scale).ok()?;
    let (width, height) = (scale.scale(header.width), scale.scale(header.height));
    let pitch = width.checked_mul(3)?;
    let mut pixels = spare::take(pitch.checked_mul(height)?);
    let image = Image { pixels: &mut pixels[..], width, pitch, height, format: PixelFormat::RGB };
    // A warning is an error here too.
    decompressor.decompress(bytes, image).ok()?;
    RgbImage::from_raw(u32::try_from(width).ok()?, u32::try_from(height).ok()?, pixels)
}
