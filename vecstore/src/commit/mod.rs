//! The commit: what becomes of batches, under the commit lock.

pub(crate) mod group;
mod manifest;
pub(crate) mod resolve;
pub(crate) mod session;

pub use group::Appended;
pub(crate) use group::{Committed, Request};
pub(crate) use resolve::{Overlay, Resolved, resolve};
pub(crate) use session::{TMP_PREFIX, Writer};
