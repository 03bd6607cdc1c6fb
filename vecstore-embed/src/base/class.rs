//! Verdicts on inputs.

use super::names;

/// Why an input was rejected: what would have to change for it to be worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RejectionClass {
    /// Its content cannot be decoded.
    Decode,
    /// It is larger than the limits allow.
    Size,
    /// The model gives nothing for it that can be stored.
    Model,
}

names!(RejectionClass "class" { Decode "decode", Size "size" or Model "model" });

/// Why the content of an input gives no vectors. A result that a store remembers, not a failure of the run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
#[non_exhaustive]
pub struct Rejected {
    /// The kind of reason.
    pub class: RejectionClass,
    /// The reason in one line.
    pub reason: String,
}

impl Rejected {
    /// A verdict with its reason.
    pub fn new(class: RejectionClass, reason: impl Into<String>) -> Self {
        Rejected { class, reason: reason.into() }
    }
}
