//! From the bytes of a file to an upright RGB picture, or to the reason why not.
//!
//! Nothing here touches a disk: the caller reads the file, so that "the file could not be read" (try again)
//! and "what the file holds is bad" (remember it, never ask again) cannot be confused.
//!
//! - The format is what the first bytes say ([`sniff`]); names and extensions mean nothing.
//! - The size is checked against [`DecodeLimits`] from the header, before pixels are allocated.
//! - A file that ends too early is refused in every format, also where decoders would fill the rest with
//!   grey.
//! - The EXIF orientation is applied; of an animation the first frame counts; transparency is laid over
//!   white; grey, palette, CMYK, 16-bit and float pixels become 8-bit RGB. Colour profiles are not applied.
//!
//! ```
//! use vecstore_embed::image::{DecodeLimits, decode};
//!
//! // A 1x1 red picture, as small as BMP gets.
//! let mut bmp = b"BM:\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
//! bmp.resize(54, 0);
//! bmp.extend([0, 0, 255, 0]);
//! let picture = decode(&bmp, &DecodeLimits::default())?;
//! assert_eq!(picture.get_pixel(0, 0).0, [255, 0, 0]);
//!
//! let refused = decode(b"Dear diary", &DecodeLimits::default()).unwrap_err();
//! assert_eq!(refused.to_string(), "not a picture: begins like a text file");
//! # Ok::<(), vecstore_embed::image::BadImage>(())
//! ```

mod complete;
mod decode;
mod jpeg;
pub mod preprocess;
mod sniff;
mod spare;
mod tiff_extent;
#[cfg(feature = "turbojpeg")]
mod turbo;

use std::fmt;

use crate::base::{Rejected, RejectionClass, names};

pub(crate) use decode::sides;
pub use decode::{decode, decode_at_least};
pub use sniff::{Format, sniff};
pub use spare::recycle;

/// What the decoded picture depends on beside the file: part of every fingerprint, so that vectors made under
/// other rules are never mixed. Raise the number when a rule in the head of this module changes.
pub(crate) const RULES: &str = "decode 1: upright, first frame, over white";

/// How large a picture may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodeLimits {
    /// Width times height, at most. A file may claim 65535 x 65535 in a few hundred bytes; this is checked
    /// before memory for pixels is allocated. The default is 200 million.
    pub max_pixels: u64,
}

impl DecodeLimits {
    /// Pictures of at most `max_pixels` pixels.
    pub fn new(max_pixels: u64) -> Self {
        DecodeLimits { max_pixels }
    }

    /// Checks what a header claims.
    fn check(&self, width: u64, height: u64) -> Result<(), BadImage> {
        match width.saturating_mul(height) {
            0 => Err(BadImage::new(Fault::Damaged, format!("{width}x{height} has no pixels"))),
            pixels if pixels > self.max_pixels => {
                let limit = self.max_pixels;
                let reason = format!("{width}x{height} is {pixels} pixels, the limit is {limit}");
                Err(BadImage::new(Fault::TooLarge, reason))
            }
            _ => Ok(()),
        }
    }

    /// The most a decoder may allocate at a time, pixels of 16 bytes (RGBA in f32) being the largest there
    /// are.
    fn max_alloc(&self) -> u64 {
        self.max_pixels.saturating_mul(16)
    }
}

impl Default for DecodeLimits {
    fn default() -> Self {
        DecodeLimits::new(200_000_000)
    }
}

/// The kinds of bad content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// No bytes at all.
    Empty,
    /// The first bytes are not those of a picture.
    NotAPicture,
    /// The file ends before the picture does.
    Truncated,
    /// More pixels than [`DecodeLimits`] allow.
    TooLarge,
    /// A picture, but of a sort that is not decoded here.
    Unsupported,
    /// A decoder found a contradiction.
    Damaged,
}

names!(Fault {
    Empty "empty file", NotAPicture "not a picture", Truncated "truncated", TooLarge "too large",
    Unsupported "unsupported", Damaged "damaged"
});

/// Why the content of a file gives no picture. The text is the same each time for the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadImage {
    /// What kind of fault it is.
    pub fault: Fault,
    /// The details in words; empty when the fault says it all.
    pub reason: String,
}

impl BadImage {
    pub(crate) fn new(fault: Fault, reason: impl AsRef<str>) -> Self {
        // Decoders have texts of several lines, and some with what they found in the file; a reason is one
        // line.
        let words: Vec<&str> = reason
            .as_ref()
            .split(|c: char| c.is_whitespace() || c.is_control())
            .filter(|w| !w.is_empty())
            .collect();
        BadImage { fault, reason: words.join(" ") }
    }
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.is_empty() {
            true => self.fault.fmt(f),
            false => write!(f, "{}: {}", self.fault, self.reason),
        }
    }
}

impl std::error::Error for BadImage {}

impl From<BadImage> for Rejected {
    fn from(bad: BadImage) -> Self {
        let class = match bad.fault {
            Fault::TooLarge => RejectionClass::Size,
            _ => RejectionClass::Decode,
        };
        Rejected::new(class, bad.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_the_edge() {
        let limits = DecodeLimits::new(100);
        assert_eq!(limits.check(10, 10), Ok(()));
        assert_eq!(limits.check(101, 1).unwrap_err().fault, Fault::TooLarge);
        assert_eq!(limits.check(u64::MAX, u64::MAX).unwrap_err().fault, Fault::TooLarge);
        assert_eq!(limits.check(0, 7).unwrap_err().fault, Fault::Damaged);
    }

    #[test]
    fn a_rejection_reads_as_one_line() {
        let over = DecodeLimits::default().check(20_000, 20_000).unwrap_err();
        assert_eq!(over.to_string(), "too large: 20000x20000 is 400000000 pixels, the limit is 200000000");
        assert_eq!(BadImage::new(Fault::Empty, "").to_string(), "empty file");
        assert_eq!(
            BadImage::new(Fault::Damaged, "PNG: two\n\tlines\0").to_string(),
            "damaged: PNG: two lines"
        );
    }
}
