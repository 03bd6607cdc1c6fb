//! What a caller is promised: batches go in whole or not at all, are read as they were written, and keep
//! their addresses; the command says the same.

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod addresses;
mod append_and_read;
mod attributes;
mod bad_batches;
mod command;
mod kept;
mod reading;
#[cfg(feature = "cli")]
mod terminal;
mod tickets;
