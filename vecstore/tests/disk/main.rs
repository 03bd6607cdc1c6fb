//! Full disks: nothing is lost, the error says how much room is needed, and work goes on when there is room.

#[path = "../sim/mod.rs"]
mod sim;

mod full;
mod full_mapped;
