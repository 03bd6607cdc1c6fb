//! Caps on what a run holds at once.

mod memory;

pub(crate) use self::memory::{Budget, Taken};
