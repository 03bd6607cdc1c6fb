//! The handle on a store: what its threads share, and the threads that work for it.

pub(crate) mod merger;
pub(crate) mod open;
pub(crate) mod queue;
pub(crate) mod shared;
pub(crate) mod store;
pub(crate) mod ticket;
pub(crate) mod upkeep;

pub(crate) use merger::{Merger, Signal};
pub use open::{Merging, OpenOptions, Reading};
pub(crate) use queue::{Leading, Queue, Waiting};
pub(crate) use shared::Shared;
pub use store::Store;
pub(crate) use ticket::Committer;
pub use ticket::Ticket;
pub use upkeep::{DerivedInfo, VersionInfo};
