//! Care for whole stores: backups, restores and repairs.

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod backup_options;
mod backups;
mod repair;
mod repair_again;
mod repair_crashes;
mod repair_named;
mod salvage;
mod stopped;
