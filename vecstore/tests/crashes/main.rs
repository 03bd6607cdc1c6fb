//! Power cuts, failing calls and misreported calls: acknowledged changes stay, and failures are reported.

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

mod crash_states;
mod empty_folder;
mod failing_calls;
mod failing_openings;
mod filters;
mod interrupted;
mod misreported;
mod old_manifest;
mod told;
