//! The commit: what becomes of batches, under the commit lock.

pub(crate) mod group;
mod manifest;
pub(crate) mod resolve;
pub(crate) mod session;

pub use group::Appended;
