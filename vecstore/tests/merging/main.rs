//! Merges and liveness bitmaps: files stay few, and no answer changes.

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod beside;
mod bitmaps;
mod filters;
mod liveness;
mod removing;
mod steps;
