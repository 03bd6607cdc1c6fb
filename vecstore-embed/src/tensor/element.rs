//! What tensors are made of, and views of their numbers.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytemuck::{AnyBitPattern, NoUninit};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::Tensor;
use crate::base::names;

/// The type of the numbers in a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Element {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, 11 of them digits.
    F16,
    /// 16 bits, 8 of them digits, and the range of f32.
    Bf16,
    /// Whole numbers of 32 bits.
    I32,
    /// Whole numbers of 64 bits, as models of text take tokens.
    I64,
}

impl Element {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        for_element!(self, T => size_of::<T>())
    }
}

names!(Element { F32 "f32", F16 "f16", Bf16 "bf16", I32 "i32", I64 "i64" });

/// A type of numbers that a tensor can hold.
pub trait Number: AnyBitPattern + NoUninit {
    /// What a tensor calls it.
    const ELEMENT: Element;
}

/// The types, with what a tensor calls them.
macro_rules! numbers {
    ($($kind:ty: $name:ident),+) => {
        $(impl Number for $kind {
            const ELEMENT: Element = Element::$name;
        })+
    };
}
numbers!(f32: F32, f16: F16, bf16: Bf16, i32: I32, i64: I64);

/// Evaluates an expression with `$T` as the Rust type of an element type.
macro_rules! for_element {
    ($element:expr, $T:ident => $body:expr) => {
        $crate::tensor::for_element!(
            $element, $T, $body; F32 f32, F16 half::f16, Bf16 half::bf16, I32 i32, I64 i64
        )
    };
    ($element:expr, $T:ident, $body:expr; $($name:ident $kind:ty),+) => {
        match $element {
            $($crate::tensor::Element::$name => {
                type $T = $kind;
                $body
            })+
        }
    };
}
pub(crate) use for_element;

/// One input or output of an encoder: its name, its element type, and the shape of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name the model gives it.
    pub name: String,
    /// What it is made of.
    pub element: Element,
    /// Lengths of the dimensions of one item, without that of the batch; `None` where any length will do.
    pub shape: Vec<Option<usize>>,
}

impl TensorSpec {
    /// A tensor whose items have the lengths `shape`.
    pub fn new(name: impl Into<String>, element: Element, shape: &[usize]) -> Self {
        TensorSpec { name: name.into(), element, shape: shape.iter().copied().map(Some).collect() }
    }
}

/// Numbers of one type, to be read.
#[derive(Clone, Copy, PartialEq)]
pub struct View<'a> {
    element: Element,
    bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// These numbers.
    pub fn new<T: Number>(numbers: &'a [T]) -> Self {
        View { element: T::ELEMENT, bytes: bytemuck::cast_slice(numbers) }
    }

    pub(super) fn of_bytes(element: Element, bytes: &'a [u8]) -> Self {
        View { element, bytes }
    }

    /// The type of the numbers.
    pub fn element(self) -> Element {
        self.element
    }

    /// How many numbers there are.
    pub fn len(self) -> usize {
        self.bytes.len() / self.element.size()
    }

    /// True when there are none.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// The numbers; `None` where they are of another type.
    pub fn as_slice<T: Number>(self) -> Option<&'a [T]> {
        (self.element == T::ELEMENT).then(|| bytemuck::try_cast_slice(self.bytes).ok())?
    }

    /// Some of the numbers; none where the range reaches beyond them.
    pub fn part(self, range: Range<usize>) -> Self {
        let size = self.element.size();
        let bytes = range.start.checked_mul(size).zip(range.end.checked_mul(size));
        let bytes = bytes.and_then(|(start, end)| self.bytes.get(start..end)).unwrap_or_default();
        View { bytes, ..self }
    }

    /// With zeros behind them, `length` numbers in all; `room` keeps them where they are too few.
    pub(crate) fn padded<'b>(self, length: usize, room: &'b mut Option<Tensor>) -> View<'b>
    where
        'a: 'b,
    {
        if self.len() >= length {
            return self;
        }
        let tensor = room.insert(Tensor::plain(self.element, length));
        tensor.view_mut().bytes.iter_mut().zip(self.bytes).for_each(|(to, from)| *to = *from);
        tensor.view()
    }

    /// The numbers in f32, rounded where that has fewer digits.
    pub fn to_f32(self) -> Cow<'a, [f32]> {
        match self.element {
            Element::F32 => self.as_slice().unwrap_or_default().into(),
            Element::F16 => Cow::Owned(self.as_slice::<f16>().unwrap_or_default().to_f32_vec()),
            Element::Bf16 => Cow::Owned(self.as_slice::<bf16>().unwrap_or_default().to_f32_vec()),
            Element::I32 => self.as_slice::<i32>().unwrap_or_default().iter().map(|x| *x as f32).collect(),
            Element::I64 => self.as_slice::<i64>().unwrap_or_default().iter().map(|x| *x as f32).collect(),
        }
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.element, self.to_f32())
    }
}

/// Numbers of one type, to be written.
pub struct ViewMut<'a> {
    element: Element,
    bytes: &'a mut [u8],
}

impl<'a> ViewMut<'a> {
    /// Room for these numbers.
    pub fn new<T: Number>(numbers: &'a mut [T]) -> Self {
        ViewMut { element: T::ELEMENT, bytes: bytemuck::cast_slice_mut(numbers) }
    }

    pub(super) fn of_bytes(element: Element, bytes: &'a mut [u8]) -> Self {
        ViewMut { element, bytes }
    }

    /// The type of the numbers.
    pub fn element(&self) -> Element {
        self.element
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.element.size()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The numbers; `None` where they are of another type.
    pub fn into_slice<T: Number>(self) -> Option<&'a mut [T]> {
        (self.element == T::ELEMENT).then(|| bytemuck::try_cast_slice_mut(self.bytes).ok())?
    }

    /// Sets every number to zero.
    pub fn clear(&mut self) {
        self.bytes.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_parts_and_f32_is_not_copied() {
        let numbers = [0.5f32, 1.0, -2.0];
        let view = View::new(&numbers);
        assert_eq!((view.len(), view.part(1..3)), (3, View::new(&[1.0f32, -2.0])));
        assert!(view.part(2..4).is_empty() && view.part(usize::MAX..usize::MAX).is_empty());
        assert!(matches!(view.to_f32(), Cow::Borrowed(_)));
        assert_eq!(View::new(&numbers.map(f16::from_f32)).part(2..3).to_f32()[..], [-2.0]);
        assert_eq!(View::new(&numbers.map(bf16::from_f32)).to_f32()[..], numbers);
        assert_eq!(View::new(&[7i64, -1]).to_f32()[..], [7.0, -1.0]);
        assert_eq!(View::new(&[7i32]).to_f32()[..], [7.0]);
    }

    #[test]
    fn what_is_too_short_is_filled_up_with_zeros() {
        let (halves, mut room) = ([f16::ONE; 3], None);
        assert_eq!(View::new(&halves).padded(5, &mut room).to_f32()[..], [1.0, 1.0, 1.0, 0.0, 0.0]);
        let mut unused = None;
        assert_eq!(View::new(&halves).padded(3, &mut unused), View::new(&halves));
        assert!(unused.is_none());
    }

    #[test]
    fn numbers_of_another_type_are_not_given() {
        let mut numbers = [1.0f32, 2.0];
        assert_eq!(View::new(&numbers).as_slice::<i32>(), None);
        assert!(ViewMut::new(&mut numbers).into_slice::<f16>().is_none());
        ViewMut::new(&mut numbers).into_slice::<f32>().unwrap()[1] = 5.0;
        assert_eq!(numbers, [1.0, 5.0]);
    }
}
