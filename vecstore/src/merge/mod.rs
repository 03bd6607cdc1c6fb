//! Merging: neighbouring segments become one, superseded entries go.
//!
//! One merge of small files at a time and one of large ones, each under the lock of its lane, while appends go on:
//!
//! 1. Choose neighbours among what the manifest lists, after a checkpoint if that is not worth a merge. So every input, and
//!    whatever kills entries in it, is listed.
//! 2. Check every byte of them.
//! 3. Write what is live into a temporary file, flushing as it grows; give it its final name; flush the directory.
//! 4. Under the manifest lock: put the output in place of the inputs in the manifest; then remove the inputs, unless a
//!    version needs them.
//!
//! A crash leaves files that no manifest lists, which a later merger removes. `docs/DURABILITY.md` argues each step.

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
pub use report::Compacted;
