//! The handles on a store, what a handle's threads share, and the threads that work for it.

mod look;
pub(crate) mod merger;
pub(crate) mod open;
pub(crate) mod queue;
pub(crate) mod read_options;
mod reader;
pub(crate) mod shared;
pub(crate) mod store;
pub(crate) mod ticket;
mod upkeep;
mod versions;

pub use look::{DerivedInfo, VersionInfo};
pub(crate) use merger::{Merger, Signal};
pub use open::{MergePolicy, OpenOptions};
pub(crate) use queue::{Leading, Queue, Waiting};
pub use read_options::{ReadMode, ReadOptions};
pub use reader::Reader;
pub(crate) use shared::Shared;
pub use store::Store;
pub(crate) use ticket::Committer;
pub use ticket::Ticket;
pub use upkeep::CompactOptions;
