//! Which format a file is, by its first bytes.

use super::{BadImage, Fault};
use crate::base::names;

/// The formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// JPEG, baseline and progressive.
    Jpeg,
    /// PNG; of an animated one the default picture.
    Png,
    /// WebP, lossy and lossless; of an animated one the first frame.
    WebP,
    /// GIF; the first frame.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF and BigTIFF; the first page.
    Tiff,
}

names!(Format { Jpeg "JPEG", Png "PNG", WebP "WebP", Gif "GIF", Bmp "BMP", Tiff "TIFF" });

/// The format that the first bytes of a file promise, or `None` if it is none that is decoded here. 32 bytes
/// are enough; with fewer the answer may be `None` for a file that would be recognised.
pub fn sniff(head: &[u8]) -> Option<Format> {
    match head {
        [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
        // Two letters prove little. The two reserved fields are zero in every bitmap, and its header has one
        // of few lengths: without this a text that begins with "BM" would be called a damaged picture.
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, _, _, _, _, 12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0, ..] => {
            Some(Format::Bmp)
        }
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Format::Tiff),
        _ => None,
    }
}

/// What to say of a file that [`sniff`] does not know.
pub(super) fn unknown(bytes: &[u8]) -> BadImage {
    let head = bytes.get(..32).unwrap_or(bytes);
    let known_elsewhere = match head {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand {
            [b'a', b'v', b'i', b'f' | b's', ..] => Some("AVIF"),
            [b'h', b'e', b'i' | b'v', ..] | [b'm', b'i', b'f', b'1', ..] | [b'm', b's', b'f', b'1', ..] => {
                Some("HEIC")
            }
            _ => None,
        },
        [0xff, 0x0a, ..] | [0, 0, 0, 0x0c, b'J', b'X', b'L', b' ', ..] => Some("JPEG XL"),
        [0, 0, 0, 0x0c, b'j', b'P', ..] => Some("JPEG 2000"),
        [b'8', b'B', b'P', b'S', ..] => Some("Photoshop"),
        _ => None,
    };
    if let Some(name) = known_elsewhere {
        let reason =
            format!("{name} pictures are not decoded; convert it to JPEG, PNG, WebP, GIF, BMP or TIFF");
        return BadImage::new(Fault::Unsupported, reason);
    }
    // A character cut in half at the end of `head` still counts as text.
    let text = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(e) => e.error_len().is_none(),
    };
    let reason = if text && !head.iter().any(|b| *b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) {
        "begins like a text file".to_owned()
    } else {
        let hex: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
        format!("begins with {}, which is no JPEG, PNG, WebP, GIF, BMP or TIFF", hex.join(" "))
    };
    BadImage::new(Fault::NotAPicture, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_nothing_and_bytes_everything() {
        assert_eq!(sniff(b"\xff\xd8\xff\xe0\0\x10JFIF"), Some(Format::Jpeg));
        assert_eq!(sniff(b"RIFF\x10\0\0\0WEBPVP8 "), Some(Format::WebP));
        assert_eq!(sniff(b"RIFF\x10\0\0\0WAVEfmt "), None);
        assert_eq!(sniff(b"GIF88a"), None);
        assert_eq!(sniff(b"MM\0\x2b\0\x08\0\0"), Some(Format::Tiff));
        assert_eq!(sniff(b""), None);
    }

    #[test]
    fn a_text_that_begins_with_bm_is_no_bitmap() {
        let text = b"BMW 320, 1979, to be sold to a good home";
        assert_eq!(sniff(text), None);
        assert_eq!(unknown(text).to_string(), "not a picture: begins like a text file");
    }

    #[test]
    fn formats_of_others_are_named() {
        let heic = unknown(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
        assert_eq!(heic.fault, Fault::Unsupported);
        assert!(heic.reason.contains("HEIC"), "{heic}");
        let elf = unknown(b"\x7fELF\x02\x01\x01\0");
        assert!(elf.reason.starts_with("begins with 7f 45 4c 46"), "{elf}");
    }

    #[test]
    fn umlauts_cut_at_the_window_are_still_text() {
        let text = "x".repeat(31) + "ü and so on";
        assert_eq!(unknown(text.as_bytes()).reason, "begins like a text file");
    }
}
