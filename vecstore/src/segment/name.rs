//! Names of segment files: `<first>-<last>.<generation>.npy`.

use std::ffi::OsStr;
use std::fmt;

use crate::format::MAX_COMMIT;

/// The commits that a segment covers and its generation, as in its file name. In records of the manifest the
/// order of the fields is the format.
///
/// In file names numbers are decimal, and commits are padded with zeros to ten digits so that a listing is in
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct SegmentName {
    pub first: u64,
    pub last: u64,
    pub generation: u32,
}

impl SegmentName {
    /// Parses a file name; `None` for any text that [`fmt::Display`] would not write.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let text = name.to_str()?;
        let (range, generation) = text.strip_suffix(".npy")?.split_once('.')?;
        let (first, last) = range.split_once('-')?;
        let name = SegmentName {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            generation: generation.parse().ok()?,
        };
        let possible = name.first >= 1 && name.first <= name.last && name.last <= MAX_COMMIT;
        (possible && name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{:010}.{}.npy", self.first, self.last, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_name_is_read() {
        let name = SegmentName { first: 7, last: 12_345_678_901, generation: 3 };
        assert_eq!(name.to_string(), "0000000007-12345678901.3.npy");
        assert_eq!(SegmentName::parse(OsStr::new(&name.to_string())), Some(name));
        for wrong in [
            "7-8.0.npy",
            "0000000007-0000000008.00.npy",
            "0000000008-0000000007.0.npy",
            "0000000000-0000000001.0.npy",
            "+000000007-0000000008.0.npy",
            "0000000007-0000000008.0.npy.tmp",
            "tmp-commit-00",
            "0000000001-18446744073709551615.0.npy",
        ] {
            assert_eq!(SegmentName::parse(OsStr::new(wrong)), None, "{wrong}");
        }
    }
}
