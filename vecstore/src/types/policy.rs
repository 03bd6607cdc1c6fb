//! How an append treats keys that are stored already.

/// What an append does with keys that are stored already.
///
/// Empty and rejected entries count as stored, a deleted key does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDuplicate {
    /// Leave the stored entry, drop the new one: for a job that is resumed.
    Skip,
    /// The new entry supersedes the stored one.
    Replace,
    /// Refuse the whole batch.
    Error,
}
