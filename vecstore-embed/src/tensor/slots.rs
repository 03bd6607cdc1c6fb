//! The input tensors of a batch, written by many threads at once: each item into its own slot.
//!
//! Without this every item would be written twice: into a buffer of its own, and from there into the batch.

use std::sync::Arc;

use super::{Number, Tensor, ViewMut};
use crate::base::{Rejected, RejectionClass};

/// The tensors of a batch while its slots are out, with the numbers of one item in each.
#[derive(Debug)]
struct Tensors(Vec<(Tensor, usize)>);

/// All tensors of a batch whose slots are out.
#[derive(Debug)]
pub(crate) struct Parts(Arc<Tensors>);

/// The place of one item in the input tensors of a batch. Dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Tensors>,
    at: usize,
}

/// Hands out `tensors`, each with the numbers of one item in it, as slots for `items` items; fewer where a
/// tensor is too short for so many.
pub(crate) fn split(tensors: Vec<(Tensor, usize)>, items: usize) -> (Parts, Vec<Slot>) {
    let room = tensors.iter().filter_map(|(tensor, item)| tensor.len().checked_div(*item)).min().unwrap_or(0);
    let shared = Arc::new(Tensors(tensors));
    let slots = (0..items.min(room)).map(|at| Slot { shared: Arc::clone(&shared), at }).collect();
    (Parts(shared), slots)
}

impl Parts {
    /// The tensors again, once all slots have been dropped. Before that, itself.
    pub(crate) fn join(self) -> Result<Vec<(Tensor, usize)>, Parts> {
        Arc::try_unwrap(self.0).map(|shared| shared.0).map_err(Parts)
    }
}

impl Slot {
    /// Room for this item in the encoder's input of that number; none where there is no such input.
    pub fn input(&mut self, number: usize) -> ViewMut<'_> {
        match self.shared.0.get(number) {
            // SAFETY: `split` made this slot with (at + 1) * item <= the length of each tensor. `at` is
            // unique among the slots, which cannot be cloned, and this one is borrowed mutably, so no view
            // overlaps.
            Some((tensor, item)) => unsafe { tensor.part(self.at * item, *item) },
            None => ViewMut::new::<f32>(&mut []),
        }
    }

    /// The same as numbers of one type.
    ///
    /// # Errors
    /// The encoder takes another type there, or has no such input: a fault of the task, which rejects every
    /// input.
    pub fn numbers<T: Number>(&mut self, number: usize) -> Result<&mut [T], Rejected> {
        let view = self.input(number);
        let found = if view.is_empty() { "nothing".to_owned() } else { view.element().to_string() };
        view.into_slice().filter(|numbers| !numbers.is_empty()).ok_or_else(|| {
            let expected = T::ELEMENT;
            let reason =
                format!("the task writes {expected} for input {number}, where the encoder takes {found}");
            Rejected::new(RejectionClass::Model, reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Element;
    use super::*;
    use half::f16;

    #[test]
    fn what_threads_write_into_slots_is_in_the_tensors() {
        let tensors =
            vec![(Tensor::plain(Element::F32, 3 * 100 + 2), 3), (Tensor::plain(Element::I64, 100), 1)];
        let (parts, slots) = split(tensors, 1000);
        assert_eq!(slots.len(), 100);
        std::thread::scope(|scope| {
            let mut slots = slots.into_iter();
            for _ in 0..4 {
                let part: Vec<Slot> = slots.by_ref().take(25).collect();
                scope.spawn(move || {
                    for mut slot in part {
                        let at = slot.at as f32;
                        let numbers = slot.input(0).into_slice::<f32>().unwrap();
                        numbers.copy_from_slice(&[at, at + 0.25, at + 0.5]);
                        slot.input(1).into_slice::<i64>().unwrap()[0] = -(slot.at as i64);
                        assert!(slot.input(2).is_empty() && slot.numbers::<f32>(2).is_err());
                        let reason = slot.numbers::<f32>(1).unwrap_err().reason;
                        assert!(reason.contains("f32 for input 1, where the encoder takes i64"), "{reason}");
                    }
                });
            }
        });
        let tensors = parts.join().unwrap();
        let (numbers, whole) = (tensors[0].0.view().to_f32(), tensors[1].0.view().to_f32());
        for (at, (numbers, whole)) in numbers.chunks_exact(3).zip(whole.iter()).enumerate() {
            let at = at as f32;
            assert_eq!((numbers, *whole), (&[at, at + 0.25, at + 0.5][..], -at));
        }
        assert_eq!(numbers[300..], [0.0, 0.0]);
    }

    /// Slots of an odd length begin in the middle of a word.
    #[test]
    fn slots_of_half_numbers_touch_and_do_not_overlap() {
        let (parts, slots) = split(vec![(Tensor::plain(Element::F16, 5 * 3), 3)], 5);
        for mut slot in slots.into_iter().rev() {
            let at = f16::from_f32(slot.at as f32);
            slot.input(0).into_slice::<f16>().unwrap().fill(at);
        }
        let expected: Vec<f32> = (0..5).flat_map(|at| [at as f32; 3]).collect();
        assert_eq!(parts.join().unwrap()[0].0.view().to_f32()[..], expected);
    }

    #[test]
    fn tensors_are_whole_only_without_slots() {
        let (parts, mut slots) = split(vec![(Tensor::plain(Element::F32, 4), 2)], 2);
        slots.pop();
        let parts = parts.join().expect_err("one slot is still out");
        drop(slots);
        assert_eq!(parts.join().unwrap()[0].0.len(), 4);
        assert!(split(vec![(Tensor::plain(Element::F32, 0), 0)], 1).1.is_empty());
    }
}
