//! Basics that all other modules use: errors, events, element types, synchronization.

pub(crate) mod bug;
pub(crate) mod dtype;
pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod event;
pub(crate) mod holder;
pub(crate) mod progress;
mod remedy;
pub(crate) mod sync;
pub(crate) mod unreadable;

pub(crate) use bug::{Bug, unless};
pub(crate) use dtype::narrow_into;
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub(crate) use error::{IoContext, ROW};
pub use escape::{escaped, one_line};
pub use event::Event;
pub(crate) use event::Observer;
pub use holder::LockHolder;
pub(crate) use progress::Part;
pub use progress::Progress;
pub(crate) use remedy::is_no_space;
pub(crate) use unreadable::Unreadable;
