//! Memory of batches that are done with, for the next ones.
//!
//! The system gives memory page by page, when it is first written, and zeroes it: for the rows of a batch that costs more
//! than to copy them there. Whoever appends one batch after the other fills the same memory again and again.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::sync::Mutex;

/// Bytes that are kept at most, of all batches of a handle together.
const MOST: usize = 16 << 20;
/// So little is not worth it.
const LEAST: usize = 4 << 10;

/// Where a handle's batches leave their memory.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// Room for the rows of a batch: what the last one left, if it left any.
    pub fn room(self: &Arc<Self>) -> Room {
        let bytes = self.0.lock().pop().unwrap_or_default();
        Room { bytes, home: Some(Arc::clone(self)) }
    }

    fn give(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut all = self.0.lock();
        let kept: usize = all.iter().map(Vec::capacity).sum();
        if bytes.capacity() >= LEAST && kept + bytes.capacity() <= MOST {
            all.push(bytes);
        }
    }
}

/// Bytes whose memory goes back where it came from.
#[derive(Debug, Default)]
pub(crate) struct Room {
    bytes: Vec<u8>,
    home: Option<Arc<Spare>>,
}

impl From<Vec<u8>> for Room {
    fn from(bytes: Vec<u8>) -> Self {
        Room { bytes, home: None }
    }
}

impl Clone for Room {
    fn clone(&self) -> Self {
        self.bytes.clone().into()
    }
}

impl Deref for Room {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(spare: &Arc<Spare>, len: usize) -> Room {
        let mut room = spare.room();
        assert!(room.is_empty(), "nothing of another batch");
        room.resize(len, 7);
        room
    }

    #[test]
    fn memory_is_used_again_and_is_empty_then() {
        let spare = Arc::new(Spare::default());
        let first = filled(&spare, 1 << 16);
        let address = first.as_ptr();
        let clone = first.clone();
        drop(first);
        assert_eq!(filled(&spare, 1000).as_ptr(), address);
        assert_eq!(*clone, vec![7; 1 << 16]);
        drop(clone);
        assert_eq!(spare.0.lock().len(), 1, "a clone's memory is its own");
    }

    #[test]
    fn no_more_is_kept_than_a_few_batches_need() {
        let spare = Arc::new(Spare::default());
        drop((filled(&spare, 100), filled(&spare, MOST + 1)));
        assert_eq!(spare.0.lock().len(), 0, "too little, and too much");
        drop([filled(&spare, MOST / 2), filled(&spare, MOST / 4), filled(&spare, MOST / 2)]);
        let kept: usize = spare.0.lock().iter().map(Vec::capacity).sum();
        assert!((MOST / 2..=MOST).contains(&kept), "{kept}");
    }
}
