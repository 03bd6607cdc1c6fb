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

/// Memory this many times as large as what is in it is too large to wait with it.
const TOO_LARGE: usize = 4;

/// Where a handle's batches leave their memory.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    all: Vec<Vec<u8>>,
    /// Bytes that batches have which are not filled yet. Nobody knows how much of them they will need: somebody who keeps
    /// many small batches must not thereby keep the memory of as many large ones.
    lent: usize,
}

impl Spare {
    /// Room for the rows of a batch: what the last one left, if it left any.
    pub fn room(self: &Arc<Self>) -> Room {
        let mut kept = self.0.lock();
        let most = MOST - kept.lent.min(MOST);
        let bytes = kept.all.pop_if(|bytes| bytes.capacity() <= most).unwrap_or_default();
        let lent = bytes.capacity();
        kept.lent += lent;
        Room { bytes, lent, home: Some(Arc::clone(self)) }
    }

    /// Takes back memory, of which so much was lent.
    fn give(&self, mut bytes: Vec<u8>, lent: usize) {
        bytes.clear();
        let mut kept = self.0.lock();
        kept.lent -= lent;
        let there: usize = kept.all.iter().map(Vec::capacity).sum();
        if bytes.capacity() >= LEAST && there + bytes.capacity() <= MOST {
            kept.all.push(bytes);
        }
    }
}

/// Bytes whose memory goes back where it came from.
#[derive(Debug, Default)]
pub(crate) struct Room {
    bytes: Vec<u8>,
    /// Bytes of memory that came from there, as long as it is not known how much is needed.
    lent: usize,
    home: Option<Arc<Spare>>,
}

impl Room {
    /// Nothing more comes in, and what is there may have to wait: memory that is much too large for it goes back.
    pub fn settle(&mut self) {
        let Some(home) = &self.home else { return };
        let lent = std::mem::take(&mut self.lent);
        if self.bytes.capacity() / TOO_LARGE > self.bytes.len().max(LEAST) {
            let small = self.bytes.as_slice().to_vec();
            home.give(std::mem::replace(&mut self.bytes, small), lent);
        } else if lent > 0 {
            home.0.lock().lent -= lent;
        }
    }
}

impl From<Vec<u8>> for Room {
    fn from(bytes: Vec<u8>) -> Self {
        Room { bytes, lent: 0, home: None }
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
            home.give(std::mem::take(&mut self.bytes), self.lent);
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
        assert_eq!(spare.0.lock().all.len(), 1, "a clone's memory is its own");
    }

    #[test]
    fn no_more_is_kept_than_a_few_batches_need() {
        let spare = Arc::new(Spare::default());
        drop((filled(&spare, 100), filled(&spare, MOST + 1)));
        assert_eq!(spare.0.lock().all.len(), 0, "too little, and too much");
        drop([filled(&spare, MOST / 2), filled(&spare, MOST / 4), filled(&spare, MOST / 2)]);
        let kept: usize = spare.0.lock().all.iter().map(Vec::capacity).sum();
        assert!((MOST / 2..=MOST).contains(&kept), "{kept}");
    }

    /// What a handle's small batches keep for themselves beyond what they need.
    fn wasted(rooms: &[Room]) -> usize {
        rooms.iter().map(|room| room.capacity() - room.len()).sum()
    }

    #[test]
    fn small_batches_that_wait_do_not_keep_the_memory_of_large_ones() {
        let spare = Arc::new(Spare::default());
        let mut waiting = Vec::new();
        for _ in 0..50 {
            drop(filled(&spare, MOST / 2));
            let mut small = filled(&spare, 100);
            small.settle();
            assert_eq!(*small, [7; 100]);
            waiting.push(small);
        }
        assert!(wasted(&waiting) < 50 * LEAST, "{}", wasted(&waiting));
        assert_eq!(spare.0.lock().lent, 0);
        let large = filled(&spare, MOST / 2);
        let address = large.as_ptr();
        drop(large);
        let mut large = filled(&spare, MOST / 4);
        large.settle();
        assert_eq!((large.as_ptr(), large.len()), (address, MOST / 4), "large enough to keep it");
    }

    #[test]
    fn batches_that_are_not_filled_yet_keep_no_more_than_there_may_be() {
        let spare = Arc::new(Spare::default());
        let mut open = Vec::new();
        for _ in 0..50 {
            drop(filled(&spare, MOST / 4));
            open.push(filled(&spare, 100));
        }
        assert!(wasted(&open) <= MOST, "{}", wasted(&open));
        drop(open);
        assert_eq!(spare.0.lock().lent, 0);
    }
}
