//! Numbers on their way to a model: their types, their memory, and slots of a batch that many threads write
//! at once.

mod element;
mod memory;
mod slots;

pub use self::element::{Element, Number, TensorSpec, View, ViewMut};
pub use self::memory::Tensor;
pub use self::slots::Slot;

pub(crate) use self::element::for_element;
pub(crate) use self::slots::{Parts, split};
