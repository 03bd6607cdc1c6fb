//! Values that a user makes and gets, and that know nothing of files.

pub(crate) mod batch;
pub(crate) mod config;
pub(crate) mod kind;
pub(crate) mod metric;
pub(crate) mod policy;

pub use batch::Batch;
pub use config::{Fingerprint, MAX_DIM, MAX_KEY_LEN, MAX_PAYLOAD_LEN, StoreConfig};
pub use kind::{Address, Kind};
pub use metric::Metric;
pub use policy::OnDuplicate;
