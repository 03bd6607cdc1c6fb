//! What prepared pictures are made of: numbers of f32, or of half precision where a model wants those.
//!
//! A picture is written in its model's type at once, by the thread that decodes it, so that whoever owns the model has
//! nothing left to convert.

use std::borrow::Cow;
use std::iter;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};

/// The type of the numbers a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PixelType {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, 11 of them digits.
    F16,
    /// 16 bits, 8 of them digits, and the range of f32.
    Bf16,
}

impl PixelType {
    /// Bytes of one number.
    pub(crate) fn size(self) -> usize {
        match self {
            PixelType::F32 => size_of::<f32>(),
            PixelType::F16 => size_of::<f16>(),
            PixelType::Bf16 => size_of::<bf16>(),
        }
    }
}

/// Prepared pictures, laid one behind the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pixels<'a> {
    /// As [`PixelType::F32`].
    F32(&'a [f32]),
    /// As [`PixelType::F16`].
    F16(&'a [f16]),
    /// As [`PixelType::Bf16`].
    Bf16(&'a [bf16]),
}

impl<'a> Pixels<'a> {
    /// How many numbers there are.
    pub fn len(self) -> usize {
        match self {
            Pixels::F32(numbers) => numbers.len(),
            Pixels::F16(numbers) => numbers.len(),
            Pixels::Bf16(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Some of the numbers; none where the range reaches beyond them.
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Pixels::F32(numbers) => Pixels::F32(numbers.get(range).unwrap_or_default()),
            Pixels::F16(numbers) => Pixels::F16(numbers.get(range).unwrap_or_default()),
            Pixels::Bf16(numbers) => Pixels::Bf16(numbers.get(range).unwrap_or_default()),
        }
    }

    /// With blank pictures behind them, `length` numbers in all. Graphs whose batch is fixed get it full.
    pub(crate) fn padded(self, length: usize) -> Converted<'a> {
        match self {
            Pixels::F32(numbers) => Converted::F32(padded(numbers, length)),
            Pixels::F16(numbers) => Converted::F16(padded(numbers, length)),
            Pixels::Bf16(numbers) => Converted::Bf16(padded(numbers, length)),
        }
    }

    /// The same numbers in another type, rounded where it has fewer digits. What is of that type already is not copied.
    pub(crate) fn converted(self, to: PixelType) -> Converted<'a> {
        match (to, self) {
            (PixelType::F16, Pixels::F16(numbers)) => Converted::F16(numbers.into()),
            (PixelType::Bf16, Pixels::Bf16(numbers)) => Converted::Bf16(numbers.into()),
            (PixelType::F32, numbers) => Converted::F32(numbers.to_f32()),
            (PixelType::F16, numbers) => Converted::F16(Vec::from_f32_slice(&numbers.to_f32()).into()),
            (PixelType::Bf16, numbers) => Converted::Bf16(Vec::from_f32_slice(&numbers.to_f32()).into()),
        }
    }

    /// The same numbers in f32, which every other type fits into.
    pub fn to_f32(self) -> Cow<'a, [f32]> {
        match self {
            Pixels::F32(numbers) => Cow::Borrowed(numbers),
            Pixels::F16(numbers) => Cow::Owned(numbers.to_f32_vec()),
            Pixels::Bf16(numbers) => Cow::Owned(numbers.to_f32_vec()),
        }
    }
}

fn padded<T: Copy + Default>(numbers: &[T], length: usize) -> Cow<'_, [T]> {
    match numbers.len() < length {
        true => Cow::Owned(numbers.iter().copied().chain(iter::repeat(T::default())).take(length).collect()),
        false => Cow::Borrowed(numbers),
    }
}

/// Pictures that had to be made into others, or did not.
#[derive(Debug)]
pub(crate) enum Converted<'a> {
    F32(Cow<'a, [f32]>),
    F16(Cow<'a, [f16]>),
    Bf16(Cow<'a, [bf16]>),
}

impl Converted<'_> {
    pub(crate) fn pixels(&self) -> Pixels<'_> {
        match self {
            Converted::F32(numbers) => Pixels::F32(numbers),
            Converted::F16(numbers) => Pixels::F16(numbers),
            Converted::Bf16(numbers) => Pixels::Bf16(numbers),
        }
    }
}

/// Room for prepared pictures.
#[derive(Debug)]
pub(crate) enum PixelsMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    Bf16(&'a mut [bf16]),
}

impl<'a> PixelsMut<'a> {
    /// Some of the numbers; none where the range reaches beyond them.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        match self {
            PixelsMut::F32(numbers) => PixelsMut::F32(numbers.get_mut(range).unwrap_or_default()),
            PixelsMut::F16(numbers) => PixelsMut::F16(numbers.get_mut(range).unwrap_or_default()),
            PixelsMut::Bf16(numbers) => PixelsMut::Bf16(numbers.get_mut(range).unwrap_or_default()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            PixelsMut::F32(numbers) => numbers.len(),
            PixelsMut::F16(numbers) => numbers.len(),
            PixelsMut::Bf16(numbers) => numbers.len(),
        }
    }

    /// Copies some numbers to another place among them. Both have to lie within.
    pub(crate) fn copy_within(&mut self, from: Range<usize>, to: usize) {
        match self {
            PixelsMut::F32(numbers) => numbers.copy_within(from, to),
            PixelsMut::F16(numbers) => numbers.copy_within(from, to),
            PixelsMut::Bf16(numbers) => numbers.copy_within(from, to),
        }
    }

    #[cfg(test)]
    pub(crate) fn fill(&mut self, number: f32) {
        match self {
            PixelsMut::F32(numbers) => numbers.fill(number),
            PixelsMut::F16(numbers) => numbers.fill(f16::from_f32(number)),
            PixelsMut::Bf16(numbers) => numbers.fill(bf16::from_f32(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_parts_and_f32_is_not_copied() {
        let numbers = [0.5f32, 1.0, -2.0];
        let pixels = Pixels::F32(&numbers);
        assert_eq!((pixels.len(), pixels.part(1..3)), (3, Pixels::F32(&[1.0, -2.0])));
        assert!(pixels.part(2..4).is_empty());
        assert!(matches!(pixels.to_f32(), Cow::Borrowed(_)));
        let halves = numbers.map(f16::from_f32);
        assert_eq!(Pixels::F16(&halves).part(2..3).to_f32()[..], [-2.0]);
        let brains = numbers.map(bf16::from_f32);
        assert_eq!(Pixels::Bf16(&brains).to_f32()[..], numbers);
    }

    #[test]
    fn what_is_right_already_is_not_copied() {
        let numbers = [0.1f32, 1.0, -2.0];
        let halves = Pixels::F32(&numbers).converted(PixelType::F16);
        assert_eq!(halves.pixels(), Pixels::F16(&numbers.map(f16::from_f32)));
        assert!(matches!(halves.pixels().converted(PixelType::F16), Converted::F16(Cow::Borrowed(_))));
        assert!(matches!(halves.pixels().padded(3), Converted::F16(Cow::Borrowed(_))));
        assert_eq!(halves.pixels().padded(5).pixels().part(3..5), Pixels::F16(&[f16::ZERO; 2]));
    }
}
