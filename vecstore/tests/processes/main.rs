//! Several handles and processes on one store, at any moment of each other's work.

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod clocks;
mod following;
mod moving;
mod three;
mod waiting;
mod wrong_moment;
mod wrong_moment_pins;
