//! Lists that may be long, of which the beginning is shown.

use std::path::{Path, PathBuf};

/// An input with the reason for what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// The file or folder.
    pub path: PathBuf,
    /// Why it was rejected, or could not be read.
    pub reason: String,
}

/// The first few of a list that may be long, and how many there were in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstFew {
    first: Vec<Listed>,
    count: u64,
}

impl FirstFew {
    /// How many are kept.
    pub const KEPT: usize = 20;

    pub(crate) fn push(&mut self, path: &Path, reason: impl Into<String>) {
        self.count += 1;
        if self.first.len() < Self::KEPT {
            self.first.push(Listed { path: path.to_owned(), reason: reason.into() });
        }
    }

    pub(crate) fn extend(&mut self, other: FirstFew) {
        self.count += other.count;
        let room = Self::KEPT.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
    }

    /// The first of them.
    pub fn first(&self) -> &[Listed] {
        &self.first
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }
}
