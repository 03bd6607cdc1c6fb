//! The kinds of reasons to reject an input.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Why an input was rejected: what would have to change for it to be worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Its content is no picture that can be decoded.
    Decode,
    /// It is larger than the limits allow.
    Size,
    /// The model gives nothing for it that can be stored.
    Model,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 3] = [Class::Decode, Class::Size, Class::Model];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Decode => "decode",
            Class::Size => "size",
            Class::Model => "model",
        })
    }
}

impl FromStr for Class {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Class::ALL.into_iter().find(|class| class.to_string() == text).ok_or_else(|| Error::BadValue {
            what: "class",
            expected: "decode, size or model",
            found: text.to_owned(),
        })
    }
}
