//! JPEG, decoded strictly: where the data contradict themselves the usual decoders paint the rest grey and
//! call it a success.

use image::RgbImage;
use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::{ZByteIoError, ZByteReaderTrait, ZCursor, ZSeekFrom};
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::complete::Completeness;
use super::decode::upright;
use super::{BadImage, DecodeLimits, Fault, spare};

pub(super) fn decode(bytes: &[u8], whole: Completeness, limits: &DecodeLimits) -> Result<RgbImage, BadImage> {
    let options = DecoderOptions::default()
        // Strict also refuses stray bytes between header segments, which do no harm and do occur.
        .set_strict_mode(!whole.stray_header_bytes)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(Reader(ZCursor::new(bytes)), options);
    decoder.decode_headers().map_err(rejected)?;
    let Some((width, height)) = decoder.dimensions() else {
        return Err(BadImage::new(Fault::Damaged, "the JPEG header gives no size"));
    };
    limits.check(width as u64, height as u64)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));

    let Some(length) = decoder.output_buffer_size() else {
        return Err(BadImage::new(Fault::Damaged, "the JPEG header gives no size"));
    };
    // A strict decoder writes every pixel or fails. Of another one that is not known, so it finds them
    // cleared.
    let mut pixels = if whole.stray_header_bytes { vec![0; length] } else { spare::take(length) };
    decoder.decode_into(&mut pixels).map_err(rejected)?;
    let side = |side: usize| u32::try_from(side).unwrap_or(0);
    let Some(picture) = RgbImage::from_raw(side(width), side(height), pixels) else {
        let reason = format!("the JPEG data are not those of a {width}x{height} picture");
        return Err(BadImage::new(Fault::Damaged, reason));
    };
    Ok(upright(picture, orientation))
}

/// A [`ZCursor`] that reads four bytes, as the decoder does at a time, with one move. By itself it calls
/// a function to copy them, which is a twentieth of the time of decoding.
struct Reader<'a>(ZCursor<&'a [u8]>);

impl ZByteReaderTrait for Reader<'_> {
    #[inline]
    fn read_exact_bytes(&mut self, to: &mut [u8]) -> Result<(), ZByteIoError> {
        let Some(bytes) = self.0.split().1.get(..to.len()) else { return self.0.read_exact_bytes(to) };
        to.copy_from_slice(bytes);
        self.0.skip(to.len());
        Ok(())
    }
    #[inline]
    fn read_byte_no_error(&mut self) -> u8 {
        self.0.read_byte_no_error()
    }
    fn read_bytes(&mut self, to: &mut [u8]) -> Result<usize, ZByteIoError> {
        self.0.read_bytes(to)
    }
    fn peek_bytes(&mut self, to: &mut [u8]) -> Result<usize, ZByteIoError> {
        self.0.peek_bytes(to)
    }
    fn peek_exact_bytes(&mut self, to: &mut [u8]) -> Result<(), ZByteIoError> {
        self.0.peek_exact_bytes(to)
    }
    #[inline]
    fn z_seek(&mut self, to: ZSeekFrom) -> Result<u64, ZByteIoError> {
        self.0.z_seek(to)
    }
    #[inline]
    fn is_eof(&mut self) -> Result<bool, ZByteIoError> {
        self.0.is_eof()
    }
    fn z_position(&mut self) -> Result<u64, ZByteIoError> {
        self.0.z_position()
    }
    fn read_remaining(&mut self, to: &mut Vec<u8>) -> Result<usize, ZByteIoError> {
        self.0.read_remaining(to)
    }
}

/// Width and height as the first frame header gives them, found without copying or decoding anything.
pub(super) fn sides(bytes: &[u8]) -> Option<(u32, u32)> {
    const BEGIN: u8 = 0xd8;
    const SCAN: u8 = 0xda;
    let mut rest = bytes.strip_prefix(&[0xff, BEGIN])?;
    loop {
        // Segments may have stray bytes between them.
        let at =
            rest.windows(2).position(|pair| matches!(pair, [0xff, kind] if !matches!(kind, 0 | 0xff)))?;
        let (marker, after) = rest.get(at + 1..)?.split_first()?;
        rest = after;
        match marker {
            0x01 | 0xd0..=0xd7 => continue,
            &SCAN => return None,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
        if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            let [_, _, _, a, b, c, d] = *rest.first_chunk()?;
            return Some((u16::from_be_bytes([c, d]).into(), u16::from_be_bytes([a, b]).into()));
        }
        rest = rest.get(length..)?;
    }
}

fn rejected(error: DecodeErrors) -> BadImage {
    match error {
        DecodeErrors::Unsupported(scheme) => BadImage::new(Fault::Unsupported, format!("JPEG: {scheme:?}")),
        error => BadImage::new(Fault::Damaged, format!("JPEG: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn sides_are_found_in_the_header() {
        let mut jpeg = std::io::Cursor::new(Vec::new());
        RgbImage::new(29, 23).write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
        let jpeg = jpeg.into_inner();
        assert_eq!(sides(&jpeg), Some((29, 23)));
        // A preview within the metadata is not the picture; stray bytes between segments are none of it.
        let mut held = vec![0xff, 0xd8, 0xff, 0xe1];
        held.extend(u16::try_from(jpeg.len() + 2).unwrap().to_be_bytes());
        held.extend(&jpeg);
        held.extend([7, 0xff, 0]);
        let mut other = std::io::Cursor::new(Vec::new());
        RgbImage::new(300, 17).write_to(&mut other, image::ImageFormat::Jpeg).unwrap();
        held.extend(&other.into_inner()[2..]);
        assert_eq!(sides(&held), Some((300, 17)));
        for end in 0..jpeg.len() {
            let found = sides(&jpeg[..end]);
            assert!(found.is_none_or(|found| found == (29, 23)), "{end}: {found:?}");
        }
        assert_eq!(sides(b"\xff\xd8\xff\xe0\0\0"), None);
    }

    #[test]
    fn the_reader_reads_as_the_cursor_does() {
        let bytes = [3, 1, 4, 1, 5, 9, 2];
        for start in 0..10 {
            for length in 0..10 {
                let (mut ours, mut theirs) = (Reader(ZCursor::new(&bytes[..])), ZCursor::new(&bytes[..]));
                let (mut found, mut wanted) = ([7; 10], [7; 10]);
                ours.z_seek(ZSeekFrom::Start(start)).unwrap();
                theirs.z_seek(ZSeekFrom::Start(start)).unwrap();
                let read = ours.read_exact_bytes(&mut found[..length]).map_err(|e| format!("{e:?}"));
                assert_eq!(
                    read,
                    theirs.read_exact_bytes(&mut wanted[..length]).map_err(|e| format!("{e:?}"))
                );
                assert_eq!(found, wanted, "{length} bytes at {start}");
                assert_eq!(ours.z_position().unwrap(), theirs.z_position().unwrap());
                assert_eq!(ours.read_byte_no_error(), theirs.read_byte_no_error());
                assert_eq!(ours.is_eof().unwrap(), theirs.is_eof().unwrap());
            }
        }
    }

    #[test]
    fn no_pixel_is_left_from_the_picture_before() {
        let picture =
            RgbImage::from_fn(29, 23, |x, y| Rgb([(x * 8) as u8, (y * 9) as u8, (x * y / 3) as u8]));
        let mut jpeg = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
        let jpeg = jpeg.into_inner();
        let over = |bytes: &[u8], level: u8| {
            spare::recycle(RgbImage::from_pixel(29, 23, Rgb([level; 3])));
            let strict = Completeness { stray_header_bytes: false };
            // A decoder that panics is answered for elsewhere.
            std::panic::catch_unwind(|| decode(bytes, strict, &DecodeLimits::default()).ok()).unwrap_or(None)
        };
        let mut decoded = 0;
        for at in (2..jpeg.len()).step_by(3) {
            for change in [0x01, 0xff] {
                let mut bytes = jpeg.clone();
                bytes[at] ^= change;
                let found = over(&bytes, 0);
                assert_eq!(found, over(&bytes, 0xa5), "byte {at} changed by {change:#x}");
                decoded += usize::from(found.is_some());
            }
        }
        assert!(decoded > 100, "{decoded} were still pictures");
    }
}
