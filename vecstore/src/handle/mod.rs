//! The handle on a store: what its threads share, and the threads that work for it.

pub(crate) mod merger;
pub(crate) mod named;
pub(crate) mod open;
pub(crate) mod queue;
pub(crate) mod shared;
pub(crate) mod store;
pub(crate) mod ticket;

pub use named::CheckpointInfo;
pub use open::{Merging, OpenOptions, Reading};
pub use store::Store;
pub use ticket::Ticket;
