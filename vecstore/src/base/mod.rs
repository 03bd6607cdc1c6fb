//! What every room uses: errors, events, element types, and what threads meet at.

pub(crate) mod bug;
pub(crate) mod dtype;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod holder;
pub(crate) mod sync;
pub(crate) mod unreadable;

pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use event::Event;
pub use holder::Holder;
