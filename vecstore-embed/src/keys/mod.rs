//! Keys of inputs, and what a store remembers beside their vectors.

mod record;
mod roots;

pub use self::record::{Record, Remembered, Stamp};
pub use self::roots::{FIRST_ROOT, Root, RootArg, Roots};

pub(crate) use self::roots::{canonical_folder, decode_path, encode_path};
