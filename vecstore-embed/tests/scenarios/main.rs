//! Scenarios of a run, one file each. One program, because linking is what takes time.

mod background;
mod bad_inputs;
mod changed;
mod command;
mod common;
mod doctor;
mod fed;
mod file_limit;
mod interrupted;
mod kept;
mod kills;
mod lanes;
mod mounted;
mod options;
mod ordinary;
mod roots;
mod saving;
mod sharing;
mod signals;
mod stopping;
mod three_processes;
mod told;
mod upkeep;
