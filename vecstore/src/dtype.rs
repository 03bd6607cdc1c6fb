//! Element types of rows.

use std::fmt;
use std::str::FromStr;

use half::f16;

use crate::{Error, Result};

/// Type of the elements of every row of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single precision, 4 bytes (NumPy `<f4`).
    F32,
    /// IEEE 754 half precision, 2 bytes (NumPy `<f2`).
    F16,
}

impl DType {
    /// Bytes of one element.
    ///
    /// ```
    /// assert_eq!(vecstore::DType::F16.size(), 2);
    /// ```
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 => 2,
        }
    }

    /// What NumPy calls it in the header of a segment.
    pub(crate) const fn descr(self) -> &'static str {
        match self {
            DType::F32 => "<f4",
            DType::F16 => "<f2",
        }
    }

    /// Number on disk. 3 and 4 are set aside for bf16 and i8.
    pub(crate) const fn code(self) -> u8 {
        match self {
            DType::F32 => 1,
            DType::F16 => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(DType::F32),
            2 => Some(DType::F16),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
        })
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" | "float32" => Ok(DType::F32),
            "f16" | "float16" => Ok(DType::F16),
            other => Err(Error::bad_input(format!("unknown element type \"{other}\"; use f32 or f16"))),
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
}

/// A Rust type that rows can be made of: [`f32`] or [`half::f16`].
pub trait Element: bytemuck::Pod + sealed::Sealed + Send + Sync {
    /// The element type it stands for.
    const DTYPE: DType;
    /// The value as `f32` (exact for both types).
    fn widen(self) -> f32;
    /// The nearest value of this type.
    fn narrow(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    fn widen(self) -> f32 {
        self
    }
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(value: f32) -> Self {
        f16::from_f32(value)
    }
}

/// Widens rows of any element type, given as the bytes on disk, to `f32`.
///
/// `bytes` must be aligned for `dtype`; mapped rows are.
pub(crate) fn widen_bytes(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F32 => bytemuck::cast_slice::<u8, f32>(bytes).to_vec(),
        DType::F16 => bytemuck::cast_slice::<u8, f16>(bytes).iter().map(|x| x.to_f32()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for dtype in [DType::F32, DType::F16] {
            assert_eq!(DType::from_code(dtype.code()), Some(dtype));
            assert_eq!(dtype.to_string().parse::<DType>().unwrap(), dtype);
        }
        assert_eq!(DType::from_code(0), None);
        assert!("f64".parse::<DType>().unwrap_err().to_string().contains("f32 or f16"));
    }
}
