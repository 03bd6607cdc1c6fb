//! The kind of an entry, and the address of a row.

use std::fmt;

use crate::base::{Error, Result};

/// Kind of an entry: the outcome for one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The input has one or more vectors.
    Rows,
    /// The input has no vectors (a picture without faces, say). The entry is kept so that the input is not
    /// processed again.
    Empty,
    /// The input's content is bad; the entry has the reason.
    Rejected,
    /// The key was deleted.
    Tombstone,
}

impl Kind {
    /// All kinds, in order of their codes; `NAMES` is in the same order.
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

/// The permanent address of a row: merges move rows between files, but never change addresses.
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
            return Err(Error::invalid(format!("\"{text}\" is no address; write COMMIT:ROW, as in 17:3")));
        };
        Ok(Address { commit, row })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_codes_round_trip() {
        for kind in [Kind::Rows, Kind::Empty, Kind::Rejected, Kind::Tombstone] {
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(Kind::from_code(4), None);
    }
}
