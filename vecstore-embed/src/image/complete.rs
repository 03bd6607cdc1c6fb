//! Does a file end where its picture ends?
//!
//! Decoders are made to show as much as they can: they stop at the last row they need, or paint what is
//! missing grey. For an embedding that is a wrong vector that goes unnoticed. So before a file is decoded,
//! its outer structure is walked, without looking at pixels, to the mark or the length that says "here it
//! ends".

use super::{BadImage, Fault, Format, tiff_extent};

/// What the walk learnt beside "whole".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completeness {
    /// JPEG only: bytes lie between header segments that belong to none. Legal decoders skip them.
    pub(super) stray_header_bytes: bool,
}

/// Refuses a file that ends early. A structure that makes no sense is left for the decoder to name.
pub(super) fn check(format: Format, bytes: &[u8]) -> Result<Completeness, BadImage> {
    let mut stray = false;
    let missing = match format {
        Format::Jpeg => jpeg(bytes, &mut stray),
        Format::Png => png(bytes),
        Format::WebP => webp(bytes),
        Format::Gif => gif(bytes),
        Format::Bmp => bmp(bytes),
        Format::Tiff => tiff_extent::missing(bytes),
    };
    match missing {
        None => Ok(Completeness { stray_header_bytes: stray }),
        Some(what) => {
            let reason = format!("the {format} file ends after {} bytes, before {what}", bytes.len());
            Err(BadImage::new(Fault::Truncated, reason))
        }
    }
}

/// Walks markers to the end-of-image marker. Inside entropy-coded data a 0xff is always followed by a zero or
/// a restart marker, and thumbnails lie inside segments whose length is skipped, so the first end-of-image
/// marker met this way is the picture's own. What follows it (a second picture, a depth map) is not needed.
fn jpeg(bytes: &[u8], stray: &mut bool) -> Option<&'static str> {
    const MISSING: Option<&str> = Some("its end-of-image marker");
    let mut at = 2;
    let mut in_scan = false;
    loop {
        let Some(skip) = bytes.get(at..).and_then(mark) else {
            return MISSING;
        };
        *stray |= skip > 0 && !in_scan;
        at += skip;
        while bytes.get(at) == Some(&0xff) {
            at += 1;
        }
        match bytes.get(at) {
            None => return MISSING,
            Some(0xd9) => return None,
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(marker) => {
                in_scan |= *marker == 0xda;
                let Some(length) = be16(bytes, at + 1) else { return MISSING };
                at += 1 + length.max(2);
            }
        }
    }
}

/// Where the first 0xff is. Most of a JPEG is walked by this, so blocks without one are passed as a whole.
fn mark(bytes: &[u8]) -> Option<usize> {
    let is_mark = |byte: &u8| *byte == 0xff;
    let (blocks, rest) = bytes.as_chunks::<32>();
    match blocks.iter().position(|block| block.iter().fold(false, |any, byte| any | is_mark(byte))) {
        Some(at) => blocks.get(at)?.iter().position(is_mark).map(|mark| at * 32 + mark),
        None => rest.iter().position(is_mark).map(|mark| bytes.len() - rest.len() + mark),
    }
}

/// Walks chunks to `IEND`, its checksum included.
fn png(bytes: &[u8]) -> Option<&'static str> {
    let mut at = 8usize;
    loop {
        let header = bytes.get(at..).and_then(|rest| rest.get(..8));
        let Some([a, b, c, d, kind @ ..]) = header else { return Some("its IEND chunk") };
        let length = u32::from_be_bytes([*a, *b, *c, *d]);
        let next =
            usize::try_from(length).ok().and_then(|n| n.checked_add(12)).and_then(|n| at.checked_add(n));
        match next {
            Some(next) if next <= bytes.len() => at = next,
            _ => return Some("the end of a chunk"),
        }
        if kind == b"IEND" {
            return None;
        }
    }
}

/// The RIFF header says how long the file is.
fn webp(bytes: &[u8]) -> Option<&'static str> {
    match le32(bytes, 4) {
        Some(length) if length.saturating_add(8) <= bytes.len() => None,
        _ => Some("the length its header gives"),
    }
}

/// Walks blocks to the trailer.
fn gif(bytes: &[u8]) -> Option<&'static str> {
    const MISSING: Option<&str> = Some("its trailer");
    let Some(flags) = bytes.get(10) else { return MISSING };
    let mut at = 13 + colour_table(*flags);
    loop {
        match bytes.get(at) {
            None => return MISSING,
            Some(0x3b) => return None,
            Some(0x21) => at += 2,
            Some(0x2c) => match bytes.get(at + 9) {
                None => return MISSING,
                Some(flags) => at += 10 + colour_table(*flags) + 1,
            },
            // Not a cut: something foreign, which the decoder may or may not get as far as.
            Some(_) => return None,
        }
        // Data follow in sub-blocks: a length byte, as many bytes, and at last a length of zero.
        loop {
            match bytes.get(at) {
                None => return MISSING,
                Some(0) => break at += 1,
                Some(length) => at += 1 + usize::from(*length),
            }
        }
    }
}

/// Bytes of a GIF colour table, from the flags of the block before it.
fn colour_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// The header says how long the file is. Some writers leave it zero: then the decoder misses rows by itself.
fn bmp(bytes: &[u8]) -> Option<&'static str> {
    match le32(bytes, 2) {
        Some(length) if length <= bytes.len() => None,
        _ => Some("the length its header gives"),
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<usize> {
    let two: [u8; 2] = bytes.get(at..)?.get(..2)?.try_into().ok()?;
    Some(usize::from(u16::from_be_bytes(two)))
}

fn le32(bytes: &[u8], at: usize) -> Option<usize> {
    let four: [u8; 4] = bytes.get(at..)?.get(..4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(four)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start of image, a comment, a scan with a stuffed 0xff and a restart marker, end of image.
    const JPEG: &[u8] =
        b"\xff\xd8\xff\xfe\x00\x06\xff\xd9\xff\xd9\xff\xda\x00\x02abc\xff\x00d\xff\xd0e\xff\xff\xd9";

    #[test]
    fn an_end_marker_inside_a_segment_is_not_the_end() {
        assert_eq!(check(Format::Jpeg, JPEG), Ok(Completeness { stray_header_bytes: false }));
        for cut in 3..JPEG.len() {
            let refused = check(Format::Jpeg, &JPEG[..cut]).unwrap_err();
            assert_eq!(refused.fault, Fault::Truncated, "cut at {cut}");
        }
    }

    #[test]
    fn marks_are_found_wherever_they_lie() {
        for length in 0..100 {
            let mut bytes = vec![0xfe; length];
            assert_eq!(mark(&bytes), None);
            for at in (0..length).rev() {
                bytes[at] = 0xff;
                assert_eq!(mark(&bytes), Some(at), "of {length}");
            }
        }
    }

    #[test]
    fn bytes_after_the_end_do_not_matter() {
        let mut long = JPEG.to_vec();
        long.extend(b"\xff\xd8 a second picture, cut off");
        assert!(check(Format::Jpeg, &long).is_ok());
    }

    #[test]
    fn stray_bytes_count_in_the_header_only() {
        let stray = b"\xff\xd8\xff\xfe\x00\x02....\xff\xda\x00\x02abc\xff\xd9";
        assert_eq!(check(Format::Jpeg, stray), Ok(Completeness { stray_header_bytes: true }));
    }

    #[test]
    fn a_png_chunk_may_not_point_past_the_file() {
        let mut png = b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIDAT".to_vec();
        png.extend([0; 64]);
        let refused = check(Format::Png, &png).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "truncated: the PNG file ends after 80 bytes, before the end of a chunk"
        );
    }

    #[test]
    fn gif_blocks_are_walked_to_the_trailer() {
        let mut gif = b"GIF89a\x01\0\x01\0\x80\0\0".to_vec();
        gif.extend([0; 6]); // two colours
        gif.extend(b"!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;");
        assert!(check(Format::Gif, &gif).is_ok());
        for cut in 6..gif.len() {
            assert!(check(Format::Gif, &gif[..cut]).is_err(), "cut at {cut}");
        }
    }
}
