//! Files that are damaged, missing, foreign or unreadable: each is named, and none is believed.

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod checked;
mod contents;
mod files;
mod liveness;
mod unreadable;
