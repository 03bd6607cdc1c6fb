//! Values that callers pass in and get back; none of them depends on files.

pub(crate) mod attribute;
pub(crate) mod batch;
pub(crate) mod config;
pub(crate) mod details;
pub(crate) mod entry_builder;
pub(crate) mod field;
pub(crate) mod kind;
pub(crate) mod metric;
pub(crate) mod policy;

pub use attribute::{AttributeType, Value};
pub(crate) use attribute::{MAX_ATTRIBUTES, is_attribute_name};
pub use batch::Batch;
pub(crate) use batch::{BatchEntry, Condition};
pub use config::{Fingerprint, MAX_DIM, MAX_KEY_LEN, MAX_PAYLOAD_LEN, StoreConfig};
pub(crate) use config::{MAX_SETTINGS_LEN, check_description, check_settings};
pub(crate) use details::EntryAttributes;
pub use entry_builder::EntryBuilder;
pub use field::Field;
pub use kind::{Address, Kind};
pub use metric::Metric;
pub use policy::OnDuplicate;
