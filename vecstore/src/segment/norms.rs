//! The Euclidean length of each row, computed from the rows' bytes while these are written or checked.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::base::DType;

/// Number of sums that are computed in parallel, so that the processor adds several values at once.
const LANES: usize = 16;

/// Lengths of rows whose bytes arrive in pieces.
#[derive(Debug)]
pub(crate) struct Norms {
    dtype: DType,
    row_bytes: usize,
    /// The first bytes of a row whose last bytes have not arrived yet.
    partial: Vec<u8>,
    values: Vec<f32>,
    /// Lengths before multiplication by the rows' scales, if the element type has scales.
    norms: Vec<f32>,
}

impl Norms {
    pub fn new(dtype: DType, dim: usize) -> Self {
        let row_bytes = (dim * dtype.size()).max(1);
        Norms { dtype, row_bytes, partial: Vec::new(), values: vec![0.0; dim], norms: Vec::new() }
    }

    /// Adds the next bytes of rows.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.row_bytes - self.partial.len()));
            self.partial.extend_from_slice(now);
            bytes = later;
            if self.partial.len() == self.row_bytes {
                let row = std::mem::take(&mut self.partial);
                self.add(&row);
            }
        }
        let rows = bytes.chunks_exact(self.row_bytes);
        self.partial.extend_from_slice(rows.remainder());
        rows.for_each(|row| self.add(row));
    }

    fn add(&mut self, row: &[u8]) {
        // Copied, because the bytes of a batch need not be aligned for their element type.
        match self.dtype {
            DType::F32 => bytemuck::cast_slice_mut(&mut self.values).copy_from_slice(row),
            DType::F16 => widen::<f16>(row, &mut self.values, |row, values| row.convert_to_f32_slice(values)),
            DType::BF16 => {
                widen::<bf16>(row, &mut self.values, |row, values| row.convert_to_f32_slice(values))
            }
            DType::I8 => {
                let numbers = row.iter().map(|byte| f32::from(byte.cast_signed()));
                self.values.iter_mut().zip(numbers).for_each(|(value, number)| *value = number);
            }
        }
        self.norms.push(norm(&self.values));
    }

    /// The lengths of all rows. `scales` has one scale per row if the element type has scales, and is unused
    /// otherwise.
    pub fn finish(mut self, scales: &[f32]) -> Vec<f32> {
        if self.dtype.has_scales() {
            self.norms.iter_mut().zip(scales).for_each(|(norm, scale)| *norm *= scale.abs());
        }
        self.norms
    }
}

fn widen<T: bytemuck::Pod>(row: &[u8], values: &mut [f32], convert: impl Fn(&[T], &mut [f32])) {
    match bytemuck::try_cast_slice(row) {
        Ok(row) => convert(row, values),
        Err(_) => {
            let row: Vec<T> = row.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
            convert(&row, values);
        }
    }
}

/// The square root of the sum of squares, summed in `f64`.
fn norm(values: &[f32]) -> f32 {
    let mut sums = [0.0f64; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += f64::from(*value) * f64::from(*value));
    }
    #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is what is stored")]
    let norm = (sums.iter().sum::<f64>() + rest).sqrt() as f32;
    norm
}

/// True if a stored length equals the computed one, up to rounding and the order of the additions.
pub(crate) fn is_norm(stored: f32, computed: f32) -> bool {
    let (stored, computed) = (f64::from(stored), f64::from(computed));
    stored == computed || stored.is_nan() && computed.is_nan() || (stored - computed).abs() <= 1e-5 * computed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_right_for_every_type_and_piece_length() {
        let rows: Vec<f32> = (0..5 * 37).map(|at| (at % 23) as f32 - 11.0).collect();
        let expected: Vec<f32> =
            rows.chunks(37).map(|row| row.iter().map(|value| value * value).sum::<f32>().sqrt()).collect();
        for dtype in DType::ALL {
            let (mut bytes, mut scales) = (Vec::new(), Vec::new());
            crate::base::dtype::narrow_into(dtype, 37, &rows, &mut bytes, &mut scales);
            for piece in [1, 7, 37, 100, bytes.len()] {
                let mut norms = Norms::new(dtype, 37);
                bytes.chunks(piece).for_each(|piece| norms.update(piece));
                let found = norms.finish(&scales);
                assert_eq!(found.len(), 5);
                let near =
                    |(a, b): (&f32, &f32)| (a - b).abs() <= if dtype == DType::I8 { 0.2 } else { 1e-3 };
                assert!(found.iter().zip(&expected).all(near), "{dtype}: {found:?} {expected:?}");
            }
        }
    }

    #[test]
    fn norms_are_compared_with_a_tolerance() {
        assert!(is_norm(0.0, 0.0) && is_norm(f32::INFINITY, f32::INFINITY) && is_norm(f32::NAN, f32::NAN));
        assert!(
            is_norm(1.000_001, 1.0) && !is_norm(1.001, 1.0) && !is_norm(-1.0, 1.0) && !is_norm(1e-9, 0.0)
        );
        assert!(!is_norm(f32::NAN, 1.0) && !is_norm(1.0, f32::NAN));
    }
}
