//! Bytes of a file that the disk cannot read.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::Error;

/// Bytes that the disk cannot read, and what the operating system said.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub ranges: Vec<Range<usize>>,
    pub error: io::Error,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges.iter();
        let ranges: Vec<String> =
            ranges.map(|range| format!("{} to {}", range.start, range.end.saturating_sub(1))).collect();
        write!(f, "bytes {} of the file cannot be read: {}", ranges.join(", "), self.error)
    }
}

impl std::error::Error for Unreadable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Unreadable {
    /// The error of a caller that needs these bytes.
    pub fn at(self, path: &Path) -> Error {
        Error::io(path, "read the segment", io::Error::new(self.error.kind(), self))
    }
}
