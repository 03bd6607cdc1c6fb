//! JPEG, decoded strictly: where the data contradict themselves the usual decoders paint the rest grey and call it
//! a success.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::whole::Whole;
use super::{Class, DecodeLimits, Rejected};

pub(super) fn decode(bytes: &[u8], whole: Whole, limits: &DecodeLimits) -> Result<RgbImage, Rejected> {
    let options = DecoderOptions::default()
        // Strict also refuses stray bytes between header segments, which do no harm and do occur.
        .set_strict_mode(!whole.stray_header_bytes)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(rejected)?;
    let Some((width, height)) = decoder.dimensions() else {
        return Err(Rejected::new(Class::Damaged, "the JPEG header gives no size"));
    };
    limits.check(width as u64, height as u64)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));

    let pixels = decoder.decode().map_err(rejected)?;
    let side = |side: usize| u32::try_from(side).unwrap_or(0);
    let Some(picture) = RgbImage::from_raw(side(width), side(height), pixels) else {
        let reason = format!("the JPEG data are not those of a {width}x{height} picture");
        return Err(Rejected::new(Class::Damaged, reason));
    };
    match orientation {
        None | Some(Orientation::NoTransforms) => Ok(picture),
        Some(orientation) => {
            let mut picture = DynamicImage::from(picture);
            picture.apply_orientation(orientation);
            Ok(picture.into_rgb8())
        }
    }
}

fn rejected(error: DecodeErrors) -> Rejected {
    match error {
        DecodeErrors::Unsupported(scheme) => Rejected::new(Class::Unsupported, format!("JPEG: {scheme:?}")),
        error => Rejected::new(Class::Damaged, format!("JPEG: {error}")),
    }
}
