//! Kinds of entries, and addresses of rows.

use std::fmt;

use crate::base::{Error, Result};

/// What an input left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// One vector or more.
    Rows,
    /// Done, and nothing was found in it (a picture without faces). Kept so that it is not done again.
    Empty,
    /// The input's content is bad, for a reason.
    Rejected,
    /// The key was deleted.
    Tombstone,
}

impl Kind {
    /// All kinds, and their names, each at the place of its code.
    const ALL: [Kind; 4] = [Kind::Rows, Kind::Empty, Kind::Rejected, Kind::Tombstone];
    const NAMES: [&str; 4] = ["rows", "empty", "rejected", "tombstone"];

    /// Number on disk.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.get(*self as usize).unwrap_or(&""))
    }
}

/// Where a row is, for ever: merges move rows between files, but never change addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Commit number of the batch, counted from 1.
    pub commit: u64,
    /// The row's number within the batch, counted from 0.
    pub row: u64,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.commit, self.row)
    }
}

impl std::str::FromStr for Address {
    type Err = Error;

    /// Reads `COMMIT:ROW`, as [`Address`] is displayed.
    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(':').map(|(commit, row)| (commit.parse(), row.parse()));
        let Some((Ok(commit), Ok(row))) = parts else {
            return Err(Error::bad_input(format!("\"{text}\" is no address; write COMMIT:ROW, as in 17:3")));
        };
        Ok(Address { commit, row })
    }
}
