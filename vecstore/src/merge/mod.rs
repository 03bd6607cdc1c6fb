//! Merging: neighbouring segments become one, without their superseded entries.
//!
//! One merge of small files at a time and one of large ones, each under the lock of its lane, while appends
//! go on:
//!
//! 1. Choose neighbours among the segments that the manifest lists; if these are not worth a merge, after a
//!    checkpoint. So every input, and every segment that kills entries of an input, is listed.
//! 2. Check every byte of the inputs.
//! 3. Write the live entries into a temporary file, flushing as it grows; give it its final name; flush the
//!    directory.
//! 4. Under the manifest lock, put the output in place of the inputs in the manifest. Then remove the inputs
//!    that no version needs.
//!
//! A crash leaves files that the manifest does not list; a later merger removes them. `docs/DURABILITY.md`
//! argues each step.

mod copy;
mod damaged;
mod drive;
mod going;
mod host;
mod housekeeping;
mod pace;
pub(crate) mod plan;
mod report;
mod run;
mod throttled;

pub(crate) use drive::MAX_SEGMENT;
pub(crate) use host::{Host, Merges, State};
pub(crate) use housekeeping::drop_pins;
pub(crate) use pace::Pace;
pub(crate) use plan::Lane;
pub use report::CompactReport;
