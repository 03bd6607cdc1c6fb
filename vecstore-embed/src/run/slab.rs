//! The input tensor of a batch, written by many threads at once: each picture into its own slot.
//!
//! Without this every picture would be written twice: into a buffer of its own, and from there into the batch.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::backend::{Tensor, part};
use crate::pixels::PixelsMut;

/// The numbers of one batch while its slots are out.
#[derive(Debug)]
struct Numbers {
    /// Only kept while slots are out.
    tensor: Tensor,
    /// Where its numbers begin.
    first: NonNull<u8>,
}

// SAFETY: the only access while the value is shared is through `Slot::numbers`. Slots of one value reach parts that do
// not overlap (`split` makes one per place, and they cannot be cloned), and each is borrowed mutably for as long as its
// part is. The whole is reached only by `Whole::join`, which owns the value alone by then.
unsafe impl Sync for Numbers {}
// SAFETY: the tensor may go to another thread, and the pointer is to what it owns.
unsafe impl Send for Numbers {}

/// The whole of a tensor whose slots are out.
#[derive(Debug)]
pub(crate) struct Whole(Arc<Numbers>);

/// One picture's part of the tensor. Dropping it gives it back.
pub(crate) struct Slot {
    numbers: Arc<Numbers>,
    at: usize,
    length: usize,
}

/// Hands out `tensor` in slots of `length` numbers; what is left over at its end belongs to none.
pub(crate) fn split(tensor: Tensor, length: usize) -> (Whole, Vec<Slot>) {
    let count = tensor.len().checked_div(length).unwrap_or(0);
    let numbers = Arc::new(Numbers { first: tensor.first(), tensor });
    let slot = |at| Slot { numbers: Arc::clone(&numbers), at, length };
    let slots = (0..count).map(slot).collect();
    (Whole(numbers), slots)
}

impl Whole {
    /// The tensor again, once all slots have been dropped. Before that, itself.
    pub(crate) fn join(self) -> Result<Tensor, Whole> {
        Arc::try_unwrap(self.0).map(|numbers| numbers.tensor).map_err(Whole)
    }
}

impl Slot {
    /// The numbers of this slot.
    pub(crate) fn numbers(&mut self) -> PixelsMut<'_> {
        // SAFETY: `split` made this slot with (at + 1) * length <= the tensor's length, so the part lies within its
        // memory, which `Arc` keeps alive. No reference to the numbers as a whole exists while a slot does: nobody
        // looks at the tensor's numbers. Nobody else reaches this part: `at` is unique among the slots, and this slot is
        // borrowed mutably.
        unsafe {
            part(self.numbers.first, self.numbers.tensor.pixel_type(), self.at * self.length, self.length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::PixelType;

    #[test]
    fn what_threads_write_into_slots_is_in_the_tensor() {
        let (whole, slots) = split(vec![-1.0; 3 * 100 + 2].into_boxed_slice().into(), 3);
        assert_eq!(slots.len(), 100);
        std::thread::scope(|scope| {
            let mut slots = slots.into_iter();
            for _ in 0..4 {
                let part: Vec<Slot> = slots.by_ref().take(25).collect();
                scope.spawn(move || {
                    for mut slot in part {
                        let at = slot.at as f32;
                        let PixelsMut::F32(numbers) = slot.numbers() else { panic!("of f32") };
                        numbers.copy_from_slice(&[at, at + 0.25, at + 0.5]);
                    }
                });
            }
        });
        let tensor = whole.join().unwrap();
        let numbers = tensor.pixels().to_f32();
        for (at, numbers) in numbers.chunks_exact(3).enumerate() {
            let at = at as f32;
            assert_eq!(numbers, [at, at + 0.25, at + 0.5]);
        }
        assert_eq!(numbers[300..], [-1.0, -1.0]);
    }

    /// Slots of an odd length begin in the middle of a word.
    #[test]
    fn slots_of_half_numbers_touch_and_do_not_overlap() {
        for pixel_type in [PixelType::F16, PixelType::Bf16] {
            let (whole, slots) = split(Tensor::plain_of(pixel_type, 5 * 3), 3);
            for mut slot in slots.into_iter().rev() {
                let at = slot.at as f32;
                slot.numbers().fill(at);
            }
            let tensor = whole.join().unwrap();
            let expected: Vec<f32> = (0..5).flat_map(|at| [at as f32; 3]).collect();
            assert_eq!(tensor.pixels().to_f32()[..], expected);
        }
    }

    #[test]
    fn a_tensor_is_whole_only_without_slots() {
        let (whole, mut slots) = split(Tensor::plain(4), 2);
        slots.pop();
        let whole = whole.join().expect_err("one slot is still out");
        drop(slots);
        assert_eq!(whole.join().unwrap().len(), 4);
        assert!(split(Tensor::plain(0), 0).1.is_empty());
    }
}
