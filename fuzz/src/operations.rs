//! The operation model: the input is a list of acts of two processes and of mishaps; a map tells the right
//! answers.

use crate::memory::bounded;
use crate::sim::act::{LEN, acts};
use crate::sim::trial::run;

/// Runs the input, in which each eight bytes are one act; see `vecstore/tests/sim/act.rs`.
pub fn operations(data: &[u8]) {
    if data.len() < LEN {
        return;
    }
    let acts = acts(data);
    if let Err(wrong) = bounded(data.len(), "a trial", || run(&acts)) {
        panic!("{wrong}");
    }
}
