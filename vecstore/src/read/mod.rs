//! Reading: entries, snapshots, which keys are missing, search.

pub(crate) mod entry;
pub(crate) mod missing;
pub(crate) mod search;
pub(crate) mod snapshot;

pub use entry::Entry;
pub(crate) use entry::SimpleEntries;
pub use search::Hit;
pub use snapshot::{Iter, SegmentInfo, Snapshot};
