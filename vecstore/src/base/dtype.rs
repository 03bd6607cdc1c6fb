//! Element types of rows, and conversion between them.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use crate::base::{Error, Result};

/// Type of the elements of every row of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single precision, 4 bytes (NumPy `<f4`).
    F32,
    /// IEEE 754 half precision, 2 bytes (NumPy `<f2`).
    F16,
    /// The upper half of an `f32`, 2 bytes. NumPy has no such type: segments name `<u2`.
    BF16,
    /// Integers from -127 to 127, 1 byte (NumPy `|i1`), with one scale (`f32`) per row: a value is the
    /// integer times the scale.
    I8,
}

impl DType {
    /// All element types.
    pub const ALL: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::I8];

    /// Bytes of one element.
    ///
    /// ```
    /// assert_eq!(vecstore::DType::F16.size(), 2);
    /// ```
    pub const fn size(self) -> usize {
        self.facts().0
    }

    /// True if each row has a scale.
    pub(crate) const fn has_scales(self) -> bool {
        matches!(self, DType::I8)
    }

    /// The type's name in the NumPy header of a segment.
    pub(crate) const fn descr(self) -> &'static str {
        self.facts().1
    }

    /// Code of the type on disk.
    pub(crate) const fn code(self) -> u8 {
        self.facts().2
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.code() == code)
    }

    /// Bytes of one element, NumPy's name, code on disk, and short and long name.
    const fn facts(self) -> (usize, &'static str, u8, [&'static str; 2]) {
        match self {
            DType::F32 => (4, "<f4", 1, ["f32", "float32"]),
            DType::F16 => (2, "<f2", 2, ["f16", "float16"]),
            DType::BF16 => (2, "<u2", 3, ["bf16", "bfloat16"]),
            DType::I8 => (1, "|i1", 4, ["i8", "int8"]),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [name, _] = self.facts().3;
        f.write_str(name)
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.facts().3.contains(&text)).ok_or_else(|| {
            Error::invalid(format!("unknown element type \"{text}\"; use f32, f16, bf16 or i8"))
        })
    }
}

/// Name of an element type whose code is reserved in `docs/FORMAT.md`, but which this version does not read.
pub(crate) fn reserved_name(code: u8) -> Option<&'static str> {
    let names = ["u8", "f8e4m3", "f8e5m2", "bits", "f64"];
    names.get(usize::from(code.checked_sub(5)?)).copied()
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A Rust type that rows can be made of: [`f32`], [`half::f16`] or [`half::bf16`]. Rows of `i8` have scales,
/// and methods of their own.
pub trait Element: bytemuck::Pod + sealed::Sealed + Send + Sync {
    /// The element type of rows of this Rust type.
    const DTYPE: DType;
    /// The value as `f32` (exact for all three types).
    fn widen(self) -> f32;
    /// The nearest value of this type.
    fn narrow(value: f32) -> Self;
    /// True if no element is NaN or infinite.
    #[doc(hidden)]
    fn are_finite(rows: &[Self]) -> bool;
}

/// True if the magnitude of every element is below `infinity`; both are bits without the sign. Each chunk is
/// reduced to its maximum first, many times faster than a test per element: every appended row comes here.
fn are_below<T: Copy, B: Ord + Default>(rows: &[T], infinity: &B, magnitude: impl Fn(T) -> B) -> bool {
    rows.chunks(1024).all(|piece| {
        piece.iter().fold(B::default(), |largest, element| largest.max(magnitude(*element))) < *infinity
    })
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    fn widen(self) -> f32 {
        self
    }
    fn narrow(value: f32) -> Self {
        value
    }
    fn are_finite(rows: &[Self]) -> bool {
        are_below(rows, &0x7f80_0000, |element| element.to_bits() & 0x7fff_ffff)
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
    fn are_finite(rows: &[Self]) -> bool {
        are_below(rows, &0x7c00, |element| element.to_bits() & 0x7fff)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
    fn widen(self) -> f32 {
        self.to_f32()
    }
    fn narrow(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn are_finite(rows: &[Self]) -> bool {
        are_below(rows, &0x7f80, |element| element.to_bits() & 0x7fff)
    }
}

/// Widens rows, given as their bytes on disk, to `f32`. `bytes` must be aligned for `dtype` (mapped rows
/// are); for types with scales, `scales` has one element per row of `dim` elements.
pub(crate) fn widen_bytes(dtype: DType, dim: usize, bytes: &[u8], scales: &[f32]) -> Vec<f32> {
    fn widened<T: Element>(bytes: &[u8]) -> Vec<f32> {
        bytemuck::cast_slice::<u8, T>(bytes).iter().map(|element| element.widen()).collect()
    }
    match dtype {
        DType::F32 => bytemuck::cast_slice::<u8, f32>(bytes).to_vec(),
        DType::F16 => widened::<f16>(bytes),
        DType::BF16 => widened::<bf16>(bytes),
        DType::I8 => {
            let rows = bytemuck::cast_slice::<u8, i8>(bytes).chunks_exact(dim);
            rows.zip(scales).flat_map(|(row, scale)| row.iter().map(move |q| f32::from(*q) * scale)).collect()
        }
    }
}

/// Narrows rows to the nearest values of `dtype`, and appends their bytes to `bytes`. For types with scales,
/// one scale per row is appended to `scales`.
///
/// For `i8` the scale of a row is its largest magnitude over 127, so the error is at most half a scale.
pub(crate) fn narrow_into(
    dtype: DType,
    dim: usize,
    rows: &[f32],
    bytes: &mut Vec<u8>,
    scales: &mut Vec<f32>,
) {
    fn narrowed<T: Element>(rows: &[f32], bytes: &mut Vec<u8>) {
        for value in rows {
            bytes.extend_from_slice(bytemuck::bytes_of(&T::narrow(*value)));
        }
    }
    match dtype {
        DType::F32 => bytes.extend_from_slice(bytemuck::cast_slice(rows)),
        DType::F16 => narrowed::<f16>(rows, bytes),
        DType::BF16 => narrowed::<bf16>(rows, bytes),
        DType::I8 => {
            for row in rows.chunks_exact(dim) {
                let largest = row.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                let scale = largest / 127.0;
                scales.push(scale);
                // The scale of a tiny row is rounded to zero; such a row is stored as zeros.
                let quantized = |value: &f32| if scale > 0.0 { value / scale } else { 0.0 };
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "clamped to the range of i8 just before"
                )]
                bytes.extend(
                    row.iter().map(|value| quantized(value).round().clamp(-127.0, 127.0) as i8 as u8),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_code(dtype.code()), Some(dtype));
            assert_eq!(dtype.to_string().parse::<DType>().unwrap(), dtype);
        }
        assert_eq!(DType::from_code(0), None);
        assert!("f64".parse::<DType>().unwrap_err().to_string().contains("f32, f16, bf16 or i8"));
    }

    #[test]
    fn narrowing_keeps_the_precision_of_the_type() {
        let rows: Vec<f32> = (0..60).map(|i| (i as f32 - 30.0) / 7.0).collect();
        for (dtype, error) in
            [(DType::F32, 0.0), (DType::F16, 0.002), (DType::BF16, 0.02), (DType::I8, 0.018)]
        {
            let (mut bytes, mut scales) = (Vec::new(), Vec::new());
            narrow_into(dtype, 20, &rows, &mut bytes, &mut scales);
            assert_eq!(bytes.len(), rows.len() * dtype.size());
            assert_eq!(scales.len(), if dtype.has_scales() { 3 } else { 0 });
            let mapping = crate::vfs::Mapping::copied(&bytes).unwrap();
            let wide = widen_bytes(dtype, 20, &mapping, &scales);
            for (wide, original) in wide.iter().zip(&rows) {
                assert!((wide - original).abs() <= error, "{dtype}: {wide} {original}");
            }
        }
    }

    #[test]
    fn one_non_finite_element_is_found_at_any_place() {
        fn check<T: Element>() {
            let mut rows = vec![T::narrow(1.0); 3000];
            rows.extend([T::narrow(-0.0), T::narrow(3e4), T::narrow(-3e4), T::narrow(1e-7)]);
            assert!(T::are_finite(&rows) && T::are_finite(&[]));
            for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 1, 1023, 1024, 2047, rows.len() - 1] {
                    let before = std::mem::replace(&mut rows[at], T::narrow(value));
                    assert!(!T::are_finite(&rows), "{} {value} at {at}", T::DTYPE);
                    rows[at] = before;
                }
            }
        }
        check::<f32>();
        check::<f16>();
        check::<bf16>();
        assert!(f32::are_finite(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE]));
        assert!(f16::are_finite(&[f16::MAX, f16::MIN]) && bf16::are_finite(&[bf16::MAX, bf16::MIN]));
    }

    #[test]
    fn a_row_of_zeros_has_scale_zero() {
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        narrow_into(DType::I8, 2, &[0.0, 0.0, -1.0, 0.5], &mut bytes, &mut scales);
        assert_eq!(scales, [0.0, 1.0 / 127.0]);
        assert_eq!(bytemuck::cast_slice::<u8, i8>(&bytes), [0, 0, -127, 64]);
    }

    #[test]
    fn the_smallest_rows_keep_their_direction() {
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        narrow_into(DType::I8, 2, &[1e-37, 1e-38], &mut bytes, &mut scales);
        assert_eq!(bytemuck::cast_slice::<u8, i8>(&bytes), [127, 13]);
    }
}
