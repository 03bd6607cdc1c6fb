//! The memory that pictures are prepared into.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

/// Numbers in memory that somebody chose: the program's, or such that a card copies from without help of the processor.
pub struct Tensor {
    first: NonNull<f32>,
    length: usize,
    /// Whose the memory is. `None`: it was a `Box<[f32]>`.
    owner: Option<Box<dyn Any + Send + Sync>>,
}

// SAFETY: a tensor owns its numbers as `Box<[f32]>` does, or by way of an owner that is both; the pointer is to nothing
// else, and is not handed out but as a slice that is borrowed from the tensor (see `Tensor::first`).
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// `length` zeros in ordinary memory.
    pub fn plain(length: usize) -> Self {
        vec![0.0; length].into_boxed_slice().into()
    }

    /// `length` zeros in memory that belongs to `owner`.
    ///
    /// # Safety
    /// `first` has to be aligned, and to point at room for `length` numbers which stays where it is until `owner` is
    /// dropped, and which nobody else reads or writes until then.
    pub(crate) unsafe fn of(first: NonNull<f32>, length: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        // SAFETY: room for that many, as the caller promises. Zeros: nobody may read what was never written.
        unsafe { first.write_bytes(0, length) };
        Tensor { first, length, owner: Some(owner) }
    }

    /// Where the numbers begin. They do not move when the tensor does.
    pub(crate) fn first(&self) -> NonNull<f32> {
        self.first
    }
}

impl From<Box<[f32]>> for Tensor {
    fn from(numbers: Box<[f32]>) -> Self {
        let length = numbers.len();
        let first = NonNull::from(Box::leak(numbers)).cast();
        Tensor { first, length, owner: None }
    }
}

impl Deref for Tensor {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: so many numbers are there, all of them written (see the constructors).
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl DerefMut for Tensor {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the tensor is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        if self.owner.is_none() {
            let numbers = std::ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.length);
            // SAFETY: without an owner the memory came from `Box::leak`, with this address and length.
            drop(unsafe { Box::from_raw(numbers) });
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.owner.is_some() { "a device's" } else { "plain" };
        write!(f, "{} numbers in {whose} memory", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn numbers_stay_with_their_owner() {
        let mut memory = vec![7.0f32; 3];
        let first = NonNull::new(memory.as_mut_ptr()).unwrap();
        let alive = Arc::new(());
        let owner = (memory, Arc::clone(&alive));
        // SAFETY: a vector's numbers do not move when the vector does, and nobody looks at it any more.
        let mut tensor = unsafe { Tensor::of(first, 3, Box::new(owner)) };
        assert_eq!(tensor[..], [0.0; 3], "what was there before is not seen");
        tensor[1] = 2.0;
        let moved = tensor;
        assert_eq!(moved[..], [0.0, 2.0, 0.0]);
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(moved);
        assert_eq!(Arc::strong_count(&alive), 1);
        assert_eq!(Tensor::plain(0)[..], [0.0; 0]);
    }
}
