//! What a run tells about itself while it works.

use std::path::{Path, PathBuf};

use crate::forecast::Forecast;

/// Watches a run. Every method has an empty default; they are called from the run's own threads, so they should
/// return quickly.
pub trait Observer: Send + Sync {
    /// The folder was counted, and the work is about to begin.
    fn planned(&self, plan: &Plan) {
        let _ = plan;
    }

    /// Something was finished: a batch became durable, or a file could not be read.
    fn progress(&self, progress: &Progress) {
        let _ = progress;
    }
}

/// What a run is going to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// Pictures found, by extension. Pictures with another extension are found by content while the run goes on.
    pub found: u64,
    /// How many of them the store accounts for already.
    pub already: u64,
    /// How many are to do.
    pub to_do: u64,
    /// How many of those are in the store, but their files changed since.
    pub changed: u64,
    /// The room they will need.
    pub forecast: Forecast,
    /// Name of the model.
    pub model: String,
    /// Name of the backend.
    pub backend: String,
    /// The folder, absolute.
    pub folder: PathBuf,
    /// Files and folders that could not be read.
    pub unread: FirstFew,
}

/// How far a run has come. Counts are of this run, and of what is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Inputs this run will have to do, as far as is known.
    pub to_do: u64,
    /// Pictures embedded and committed.
    pub embedded: u64,
    /// Pictures recorded as rejected.
    pub rejected: u64,
    /// Files that could not be read, and stay missing.
    pub unread: u64,
    /// Pictures that somebody else stored in the meantime.
    pub overtaken: u64,
    /// Of those embedded: their entries took the place of older ones.
    pub changed: u64,
    /// Files that were touched, but hold what they held: their entries stay.
    pub same: u64,
    /// Pictures that other runs stored since this one counted, as far as it came across them.
    pub others: u64,
    /// Commits made.
    pub commits: u64,
}

impl Progress {
    /// Inputs that are settled for this run.
    pub fn done(&self) -> u64 {
        self.embedded + self.rejected + self.unread + self.overtaken + self.same + self.others
    }
}

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
