//! NVIDIA's side of a card: the driver, and the libraries that ONNX Runtime's providers are linked with.

mod driver;
pub(super) mod libraries;

pub(super) use self::driver::driver;
