//! Full disks: nothing is lost, the error says how much room is needed, and work continues once there is
//! room.

#[path = "../sim/mod.rs"]
mod sim;

#[cfg(feature = "cli")]
mod file_limit;
mod full;
mod full_mapped;
