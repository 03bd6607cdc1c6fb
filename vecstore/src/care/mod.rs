//! Care for whole stores: verifying, backing up, restoring, repairing.

mod attributes;
pub(crate) mod backup;
mod copy;
mod exclusive;
mod liveness;
pub(crate) mod pins;
pub(crate) mod repair;
mod restore;
mod rotate;
pub(crate) mod verify;

pub use backup::{BackupOptions, BackupReport};
pub use repair::{Finding, Loss, RepairOptions, RepairReport, repair, repair_on, repair_with, salvage};
pub use restore::{restore, restore_on, restore_with};
pub use verify::{Fault, VerifyReport, verify, verify_on, verify_with};
