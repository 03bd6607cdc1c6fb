//! How an append treats keys that are stored already.

/// How an append treats an entry whose key is stored already.
///
/// A key with an empty or rejected entry counts as stored, a deleted key does not. Entries of one batch take
/// effect in their order: an earlier entry of the batch counts as stored, too.
/// [`EntryBuilder::on_duplicate`](crate::EntryBuilder::on_duplicate) sets the policy of a single entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDuplicate {
    /// Keeps the stored entry and leaves the new one out: for jobs that are resumed. If a batch has a key
    /// twice, the first entry is stored.
    Skip,
    /// The new entry supersedes the stored one. If a batch has a key twice, the last entry is stored.
    Replace,
    /// Refuses the whole batch with [`Error::DuplicateKey`](crate::Error::DuplicateKey).
    Error,
}
