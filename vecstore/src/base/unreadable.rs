//! What a disk cannot read.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::Error;

/// Bytes that cannot be read, and the operating system's word for it.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub ranges: Vec<Range<usize>>,
    pub error: io::Error,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes ")?;
        for (number, range) in self.ranges.iter().enumerate() {
            let and = if number > 0 { ", " } else { "" };
            write!(f, "{and}{} to {}", range.start, range.end.saturating_sub(1))?;
        }
        write!(f, " of the file cannot be read: {}", self.error)
    }
}

impl std::error::Error for Unreadable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Unreadable {
    /// What the operating system said.
    pub fn into_error(self) -> io::Error {
        self.error
    }

    /// The error of whoever needed these bytes.
    pub fn at(self, path: &Path) -> Error {
        Error::io(path, "read the segment", io::Error::new(self.error.kind(), self))
    }
}
