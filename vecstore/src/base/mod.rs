//! What every room uses: errors, events, element types, and what threads meet at.

pub(crate) mod bug;
pub(crate) mod dtype;
pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod event;
pub(crate) mod sync;

pub(crate) use bug::{Bug, unless};
pub(crate) use dtype::narrow_into;
pub use dtype::{DType, Element};
pub use error::{Error, Holder, Result};
pub(crate) use error::{IoContext, Unreadable, is_no_space};
pub use escape::{escaped, one_line};
pub use event::Event;
pub(crate) use event::Observer;
