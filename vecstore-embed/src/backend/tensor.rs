//! The memory that pictures are prepared into.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::slice;

use crate::pixels::{PixelType, Pixels, PixelsMut};

/// Numbers in memory that somebody chose: the program's, or such that a card copies from without help of the processor.
pub struct Tensor {
    first: NonNull<u8>,
    length: usize,
    pixel_type: PixelType,
    /// Whose the memory is. `None`: it was a `Box<[f32]>` with room for all numbers.
    owner: Option<Box<dyn Any + Send + Sync>>,
}

// SAFETY: a tensor owns its numbers as `Box<[f32]>` does, or by way of an owner that is both; the pointer is to nothing
// else, and is not handed out but as slices that are borrowed from the tensor (see `Tensor::first`).
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// `length` zeros of f32 in ordinary memory.
    pub fn plain(length: usize) -> Self {
        Tensor::plain_of(PixelType::F32, length)
    }

    /// `length` zeros of another type in ordinary memory.
    pub fn plain_of(pixel_type: PixelType, length: usize) -> Self {
        // All bits zero is zero in each of the types.
        let memory: Box<[f32]> = vec![0.0; words(pixel_type, length)].into_boxed_slice();
        Tensor { first: NonNull::from(Box::leak(memory)).cast(), length, pixel_type, owner: None }
    }

    /// `length` zeros in memory that belongs to `owner`.
    ///
    /// # Safety
    /// `first` has to be aligned for the type, and to point at room for `length` numbers of it which stays where it is until
    /// `owner` is dropped, and which nobody else reads or writes until then.
    pub(crate) unsafe fn of(
        first: NonNull<u8>,
        pixel_type: PixelType,
        length: usize,
        owner: Box<dyn Any + Send + Sync>,
    ) -> Self {
        // SAFETY: room for that many, as the caller promises. Zeros: nobody may read what was never written.
        unsafe { first.write_bytes(0, length * pixel_type.size()) };
        Tensor { first, length, pixel_type, owner: Some(owner) }
    }

    /// Where the numbers begin. They do not move when the tensor does.
    pub(crate) fn first(&self) -> NonNull<u8> {
        self.first
    }

    /// The type of the numbers.
    pub fn pixel_type(&self) -> PixelType {
        self.pixel_type
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The numbers.
    pub fn pixels(&self) -> Pixels<'_> {
        let (first, length) = (self.first, self.length);
        // SAFETY: so many numbers are there, aligned, and all of them written (see the constructors).
        unsafe {
            match self.pixel_type {
                PixelType::F32 => Pixels::F32(slice::from_raw_parts(first.cast().as_ptr(), length)),
                PixelType::F16 => Pixels::F16(slice::from_raw_parts(first.cast().as_ptr(), length)),
                PixelType::Bf16 => Pixels::Bf16(slice::from_raw_parts(first.cast().as_ptr(), length)),
            }
        }
    }

    /// The numbers, to be written.
    pub(crate) fn pixels_mut(&mut self) -> PixelsMut<'_> {
        // SAFETY: so many numbers are there, aligned, and all of them written; and the tensor is borrowed mutably.
        unsafe { part(self.first, self.pixel_type, 0, self.length) }
    }
}

/// `length` numbers from the number `start` on.
///
/// # Safety
/// At `first` there have to be numbers of that type, `start` + `length` of them, aligned and written, which stay, and which
/// nobody else reads or writes in that part, as long as the slice is used.
pub(crate) unsafe fn part<'a>(
    first: NonNull<u8>,
    pixel_type: PixelType,
    start: usize,
    length: usize,
) -> PixelsMut<'a> {
    // SAFETY: as the caller promises.
    unsafe {
        match pixel_type {
            PixelType::F32 => {
                PixelsMut::F32(slice::from_raw_parts_mut(first.cast().add(start).as_ptr(), length))
            }
            PixelType::F16 => {
                PixelsMut::F16(slice::from_raw_parts_mut(first.cast().add(start).as_ptr(), length))
            }
            PixelType::Bf16 => {
                PixelsMut::Bf16(slice::from_raw_parts_mut(first.cast().add(start).as_ptr(), length))
            }
        }
    }
}

/// How many f32 have room for so many numbers.
fn words(pixel_type: PixelType, length: usize) -> usize {
    length.saturating_mul(pixel_type.size()).div_ceil(size_of::<f32>())
}

impl From<Box<[f32]>> for Tensor {
    fn from(numbers: Box<[f32]>) -> Self {
        let length = numbers.len();
        let first = NonNull::from(Box::leak(numbers)).cast();
        Tensor { first, length, pixel_type: PixelType::F32, owner: None }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        if self.owner.is_none() {
            let length = words(self.pixel_type, self.length);
            let numbers = std::ptr::slice_from_raw_parts_mut(self.first.cast::<f32>().as_ptr(), length);
            // SAFETY: without an owner the memory came from `Box::leak`, with this address and length.
            drop(unsafe { Box::from_raw(numbers) });
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.owner.is_some() { "a device's" } else { "plain" };
        write!(f, "{} numbers of {:?} in {whose} memory", self.length, self.pixel_type)
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
        // SAFETY: a vector's numbers do not move when the vector does, and nobody looks at it any more.
        let mut tensor = unsafe { Tensor::of(first, PixelType::F32, 3, Box::new(owner)) };
        assert_eq!(tensor.pixels(), Pixels::F32(&[0.0; 3]), "what was there before is not seen");
        let PixelsMut::F32(numbers) = tensor.pixels_mut() else { panic!("{tensor:?}") };
        numbers[1] = 2.0;
        let moved = tensor;
        assert_eq!(moved.pixels(), Pixels::F32(&[0.0, 2.0, 0.0]));
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(moved);
        assert_eq!(Arc::strong_count(&alive), 1);
        assert!(Tensor::plain(0).is_empty());
    }

    #[test]
    fn half_numbers_have_room_in_odd_numbers_too() {
        for length in [0, 1, 2, 3, 147] {
            let mut tensor = Tensor::plain_of(PixelType::F16, length);
            assert_eq!(tensor.pixels(), Pixels::F16(&vec![f16::ZERO; length]));
            tensor.pixels_mut().fill(0.5);
            assert_eq!(tensor.pixels().to_f32()[..], vec![0.5; length]);
            let mut tensor = Tensor::plain_of(PixelType::Bf16, length);
            tensor.pixels_mut().fill(-2.0);
            assert_eq!(tensor.pixels().to_f32()[..], vec![-2.0; length]);
        }
    }
}
