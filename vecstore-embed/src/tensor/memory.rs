//! The memory of a tensor.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::slice;

use bytemuck::{Pod, Zeroable};

use super::{Element, View, ViewMut};

/// Numbers of one type in ordinary memory, or in memory that a card reads without help of the processor.
pub struct Tensor {
    element: Element,
    length: usize,
    first: NonNull<u8>,
    /// Keeps the memory.
    _owner: Box<dyn Any + Send + Sync>,
}

/// Ordinary memory, aligned for every element type and for vector instructions.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: the memory belongs to the owner, which may go to another thread and be shared; the pointer is
// handed out only as slices that borrow the tensor, and to slots, which keep it alive.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// `length` zeros in ordinary memory.
    ///
    /// # Panics
    /// There is not as much memory.
    pub fn plain(element: Element, length: usize) -> Self {
        Self::try_plain(element, length).expect("memory for a tensor")
    }

    /// `length` zeros in ordinary memory, if there is as much.
    pub(crate) fn try_plain(element: Element, length: usize) -> Option<Self> {
        let lines = length.checked_mul(element.size())?.div_ceil(size_of::<Line>());
        let mut memory: Box<[Line]> = bytemuck::try_zeroed_slice_box(lines).ok()?;
        let first = NonNull::from(&mut *memory).cast();
        Some(Tensor { element, length, first, _owner: Box::new(memory) })
    }

    /// `length` zeros in memory that belongs to `owner`.
    ///
    /// # Safety
    /// `first` is aligned for `element` and points at room for `length` numbers, which stays where it is
    /// until `owner` is dropped, and which nothing else reads or writes until then.
    pub unsafe fn in_memory_of(
        first: NonNull<u8>,
        element: Element,
        length: usize,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Self {
        // SAFETY: there is room for that many. Zeros, because a view must not read what was never written.
        unsafe { first.write_bytes(0, length * element.size()) };
        Tensor { element, length, first, _owner: owner }
    }

    /// The type of the numbers.
    pub fn element(&self) -> Element {
        self.element
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The numbers.
    pub fn view(&self) -> View<'_> {
        // SAFETY: all bytes are there and written (see the constructors), and slots exist only while the
        // tensor is inside `Parts`, which gives no view.
        let bytes = unsafe { slice::from_raw_parts(self.first.as_ptr(), self.bytes()) };
        View::of_bytes(self.element, bytes)
    }

    /// The numbers, to be written.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        // SAFETY: all bytes are there and written, and the tensor is borrowed mutably.
        unsafe { self.part(0, self.length) }
    }

    /// Moves the numbers `from..from + length` to `to`; both lie within the tensor.
    pub(crate) fn copy_within(&mut self, from: usize, to: usize, length: usize) {
        let (element, size) = (self.element, self.element.size());
        let end = self.length.saturating_sub(length);
        debug_assert!(from <= end && to <= end, "{from} and {to} lie within {element} x {}", self.length);
        // SAFETY: all bytes are there and written, and the tensor is borrowed mutably.
        let bytes = unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.bytes()) };
        if from <= end && to <= end {
            bytes.copy_within(from * size..(from + length) * size, to * size);
        }
    }

    /// `length` numbers from number `start` on.
    ///
    /// # Safety
    /// `start + length` is at most the tensor's length, and while the view is used nothing else reads or
    /// writes that part.
    pub(super) unsafe fn part(&self, start: usize, length: usize) -> ViewMut<'_> {
        let size = self.element.size();
        // SAFETY: the bytes lie within the tensor's memory and are written; that no other view overlaps is
        // promised.
        let bytes =
            unsafe { slice::from_raw_parts_mut(self.first.add(start * size).as_ptr(), length * size) };
        ViewMut::of_bytes(self.element, bytes)
    }

    fn bytes(&self) -> usize {
        self.length * self.element.size()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} numbers of {}", self.length, self.element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use std::sync::Arc;

    #[test]
    fn numbers_stay_with_their_owner() {
        let mut memory = vec![7.0f32; 3];
        let first = NonNull::new(memory.as_mut_ptr()).unwrap().cast();
        let alive = Arc::new(());
        let owner = (memory, Arc::clone(&alive));
        // SAFETY: a vector's numbers do not move when the vector does, and nothing else looks at it.
        let mut tensor = unsafe { Tensor::in_memory_of(first, Element::F32, 3, Box::new(owner)) };
        assert_eq!(tensor.view(), View::new(&[0.0f32; 3]), "what was there before is not seen");
        tensor.view_mut().into_slice::<f32>().unwrap()[1] = 2.0;
        let moved = tensor;
        assert_eq!(moved.view(), View::new(&[0.0f32, 2.0, 0.0]));
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(moved);
        assert_eq!(Arc::strong_count(&alive), 1);
        assert!(Tensor::plain(Element::F32, 0).is_empty());
    }

    #[test]
    fn every_type_has_room_in_any_number() {
        for length in [0, 1, 2, 3, 147] {
            let mut tensor = Tensor::plain(Element::F16, length);
            assert_eq!(tensor.view(), View::new(&vec![f16::ZERO; length]));
            tensor.view_mut().into_slice::<f16>().unwrap().fill(f16::from_f32(0.5));
            assert_eq!(tensor.view().to_f32()[..], vec![0.5; length]);
            let mut tensor = Tensor::plain(Element::I64, length);
            tensor.view_mut().into_slice::<i64>().unwrap().fill(-2);
            assert_eq!(tensor.view().to_f32()[..], vec![-2.0; length]);
        }
    }
}
