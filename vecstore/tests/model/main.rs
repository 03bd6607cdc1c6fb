//! Random operations, checked against a map in memory.

#[path = "../sim/mod.rs"]
mod sim;

mod handles;
mod trials;
