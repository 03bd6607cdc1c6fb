//! Promises to callers: a batch is stored whole or not at all, reads back as it was written, and keeps its
//! addresses. The command keeps the same promises.

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod addresses;
mod append_and_read;
mod attributes;
mod bad_batches;
mod batches;
mod command;
mod kept;
mod looking;
mod opening;
mod reading;
mod searching;
#[cfg(feature = "cli")]
mod terminal;
mod tickets;
mod versions;
