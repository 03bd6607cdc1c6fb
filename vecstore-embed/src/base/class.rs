//! Verdicts on inputs.

use std::fmt;
use std::str::FromStr;

use super::Error;

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

impl RejectionClass {
    /// All of them.
    pub const ALL: [RejectionClass; 3] =
        [RejectionClass::Decode, RejectionClass::Size, RejectionClass::Model];
}

impl fmt::Display for RejectionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RejectionClass::Decode => "decode",
            RejectionClass::Size => "size",
            RejectionClass::Model => "model",
        })
    }
}

impl FromStr for RejectionClass {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|class| class.to_string() == text).ok_or_else(|| Error::BadValue {
            what: "class",
            expected: "decode, size or model",
            found: text.to_owned(),
        })
    }
}

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
