//! How a run ended.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Gone;
use crate::base::{FirstFew, RejectionClass, names};
use crate::pipeline::report::Stages;
use crate::source::Kinds;

/// Why a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// It came to the end of its source.
    #[default]
    Finished,
    /// It was asked to stop.
    Stopped,
    /// Too many files in a row could not be read.
    ReadFailures,
}

names!(Ended { Finished "finished", Stopped "stopped", ReadFailures "read failures" });

/// What a run did. Every input that was found is in exactly one of `already`, `embedded`, `rejected` and
/// `unread`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Why it ended.
    pub ended: Ended,
    /// Inputs found: files that are pictures, or are called so. Of a run that stopped early, those it came
    /// to.
    pub found: u64,
    /// In the store before, or put there by another run meanwhile.
    pub already: u64,
    /// Embedded and committed, also those without a row.
    pub embedded: u64,
    /// Rows committed.
    pub rows: u64,
    /// Of those embedded or rejected: their files changed, and their entries took the place of older ones.
    pub changed: u64,
    /// Recorded as rejected, because their content is bad.
    pub rejected: u64,
    /// By class, those that this run came across; another run may have stored some of them first.
    pub classes: BTreeMap<RejectionClass, u64>,
    /// The first of the rejected ones, with their reasons.
    pub rejections: FirstFew,
    /// Files and folders that could not be read. They stay missing; a later run tries them again.
    pub unread: FirstFew,
    /// Inputs a run that stopped early left undone, as far as it had counted.
    pub left: u64,
    /// Other files: not pictures by extension, nor by content.
    pub ignored: Kinds,
    /// Symbolic links, and things that are no files. They are not followed.
    pub skipped: u64,
    /// Files and folders that options leave out.
    pub excluded: u64,
    /// Pictures in folders that have fewer than were asked for.
    pub too_few: u64,
    /// Entries of the folder whose files are not there any more.
    pub gone: Gone,
    /// Commits made.
    pub commits: u64,
    /// How the threads of each stage spent their time.
    pub stages: Stages,
    /// How long it took.
    pub elapsed: Duration,
}

impl Summary {
    /// True when every input is accounted for, so that another run would find nothing to do.
    pub fn is_complete(&self) -> bool {
        self.ended == Ended::Finished && self.unread.count() == 0
    }
}
