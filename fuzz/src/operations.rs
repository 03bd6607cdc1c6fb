//! The operation model: bytes are what two processes do to a store and what happens to them, held against a map.

use crate::memory::bounded;
use crate::sim::act::{LEN, acts};
use crate::sim::trial::run;

/// Each eight bytes are one act; see `vecstore/tests/sim/act.rs`.
pub fn operations(data: &[u8]) {
    if data.len() < LEN {
        return;
    }
    let acts = acts(data);
    if let Err(wrong) = bounded(data.len(), "a trial", || run(&acts)) {
        panic!("{wrong}");
    }
}
