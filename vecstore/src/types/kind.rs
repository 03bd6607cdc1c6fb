//! What an input left behind, and where a row is.

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
    /// The input's content is bad; the reason is the payload.
    Rejected,
    /// The key was deleted.
    Tombstone,
}

impl Kind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Kind::Rows => 0,
            Kind::Empty => 1,
            Kind::Rejected => 2,
            Kind::Tombstone => 3,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Kind::Rows),
            1 => Some(Kind::Empty),
            2 => Some(Kind::Rejected),
            3 => Some(Kind::Tombstone),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Rows => "rows",
            Kind::Empty => "empty",
            Kind::Rejected => "rejected",
            Kind::Tombstone => "tombstone",
        })
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
        text.split_once(':')
            .and_then(|(commit, row)| Some(Address { commit: commit.parse().ok()?, row: row.parse().ok()? }))
            .ok_or_else(|| {
                Error::bad_input(format!("\"{text}\" is no address; write COMMIT:ROW, as in 17:3"))
            })
    }
}
