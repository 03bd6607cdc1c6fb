//! How exactly a model is computed.

use std::fmt;
use std::str::FromStr;

use crate::base::{Error, Result};

/// How exactly a model is computed that was exported in f32.
///
/// Vectors of another precision are other vectors, so all but [`Full`](Self::Full) are part of the
/// [fingerprint](crate::Model::fingerprint). (That cards multiply f32 by way of TF32, unless the variable
/// `NVIDIA_TF32_OVERRIDE` is 0, is not: sums and everything between two operators stay f32.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// As it was exported.
    #[default]
    Full,
    /// TensorRT may compute in f16.
    F16,
    /// TensorRT may compute in bf16.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::Full => "full",
            Precision::F16 => "fp16",
            Precision::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "full" => Ok(Precision::Full),
            "fp16" => Ok(Precision::F16),
            "bf16" => Ok(Precision::Bf16),
            _ => Err(Error::BadValue {
                what: "precision",
                expected: "full, fp16 or bf16",
                found: text.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_read_as_they_are_written() {
        for precision in [Precision::Full, Precision::F16, Precision::Bf16] {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        assert!("f16".parse::<Precision>().is_err());
    }
}
