//! Care for whole stores: verifying, backing up, repairing.

mod attributes;
pub(crate) mod backup;
mod exclusive;
mod liveness;
pub(crate) mod pins;
pub(crate) mod repair;
pub(crate) mod rotate;
pub(crate) mod verify;

pub use backup::{BackupReport, restore, restore_with};
pub(crate) use backup::{Source, pinned};
pub use repair::{Finding, RepairReport, repair, repair_dry_run, repair_dry_run_with, repair_with};
pub use verify::{Fault, VerifyProgress, VerifyReport, verify, verify_with};
