//! How an append treats keys that are stored already.

/// What an append does with an entry whose key is stored already.
///
/// Empty and rejected entries count as stored, a deleted key does not. Entries of one batch take effect in
/// their order, so that an earlier entry of the batch counts as stored too.
/// [`EntryBuilder::on_duplicate`](crate::EntryBuilder::on_duplicate) decides for a single entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDuplicate {
    /// Keep the stored entry, leave the new one out: for a job that is resumed. Within a batch the first
    /// entry wins.
    Skip,
    /// The new entry supersedes the stored one. Within a batch the last entry wins.
    Replace,
    /// Refuse the whole batch.
    Error,
}
