//! How exactly a model is computed.

use crate::base::names;

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

names!(Precision "precision" { Full "full", F16 "fp16" or Bf16 "bf16" });
