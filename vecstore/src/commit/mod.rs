//! The commit: turns batches into one durable segment, under the commit lock.

mod doubt;
mod group;
mod manifest;
mod others;
mod resolve;
mod session;

pub use group::Appended;
pub(crate) use group::{Committed, Request};
pub(crate) use resolve::{Overlay, Resolved, resolve};
pub(crate) use session::{TMP_PREFIX, Writer};
