//! The Euclidean length of each row, computed from the bytes of rows as they go by.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::base::DType;

/// Sums that are kept beside each other, so that the processor adds several at once.
const LANES: usize = 16;

/// Lengths of rows whose bytes arrive in pieces.
#[derive(Debug)]
pub(crate) struct Norms {
    dtype: DType,
    row_bytes: usize,
    /// The beginning of a row whose end has not arrived.
    partial: Vec<u8>,
    values: Vec<f32>,
    /// Without the scales of the rows, where the element type has them.
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
        // Copied into place: bytes of a batch need not be aligned for their elements.
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

    /// The lengths of all rows, given the scale of each for element types that have scales.
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

/// The square root of the sum of squares.
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

/// True when a stored length is that of a row, up to the order of adding and rounding.
pub(crate) fn is_norm(stored: f32, computed: f32) -> bool {
    let (stored, computed) = (f64::from(stored), f64::from(computed));
    stored == computed || stored.is_nan() && computed.is_nan() || (stored - computed).abs() <= 1e-5 * computed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_matter_and_every_type_is_right() {
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
    fn what_is_near_enough() {
        assert!(is_norm(0.0, 0.0) && is_norm(f32::INFINITY, f32::INFINITY) && is_norm(f32::NAN, f32::NAN));
        assert!(
            is_norm(1.000_001, 1.0) && !is_norm(1.001, 1.0) && !is_norm(-1.0, 1.0) && !is_norm(1e-9, 0.0)
        );
        assert!(!is_norm(f32::NAN, 1.0) && !is_norm(1.0, f32::NAN));
    }
}
