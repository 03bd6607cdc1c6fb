//! Attributes: named, typed values of an entry, for filters.

use std::fmt;

/// Largest number of attribute names in a store, and in a batch.
pub(crate) const MAX_ATTRIBUTES: usize = 256;
/// Longest name of an attribute, in bytes.
pub(crate) const MAX_ATTRIBUTE_NAME_LEN: usize = 255;

/// The value of an attribute.
///
/// ```
/// use vecstore::{AttributeType, Value};
/// assert_eq!(Value::from(2024), Value::I64(2024));
/// assert_eq!(Value::from(vec!["cat", "sofa"]).attribute_type(), AttributeType::Texts);
/// assert_eq!(Value::Time(0).attribute_type().to_string(), "time");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    I64(i64),
    /// A floating-point number.
    F64(f64),
    /// A text.
    Text(&'a str),
    /// A list of texts, which keeps its order.
    Texts(Vec<&'a str>),
    /// A point in time: microseconds since 1970-01-01 UTC.
    Time(i64),
}

impl Value<'_> {
    /// The type of the value.
    pub fn attribute_type(&self) -> AttributeType {
        match self {
            Value::Bool(_) => AttributeType::Bool,
            Value::I64(_) => AttributeType::I64,
            Value::F64(_) => AttributeType::F64,
            Value::Text(_) => AttributeType::Text,
            Value::Texts(_) => AttributeType::Texts,
            Value::Time(_) => AttributeType::Time,
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident)*) => {$(
        impl<'a> From<$type> for Value<'a> {
            fn from(value: $type) -> Self {
                Value::$variant(value.into())
            }
        }
    )*};
}

from! { bool => Bool  i64 => I64  i32 => I64  u32 => I64  f64 => F64  f32 => F64 }
from! { &'a str => Text  Vec<&'a str> => Texts }

/// Type of an attribute: the same for all entries of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttributeType {
    /// [`Value::Bool`].
    Bool,
    /// [`Value::I64`].
    I64,
    /// [`Value::F64`].
    F64,
    /// [`Value::Text`].
    Text,
    /// [`Value::Texts`].
    Texts,
    /// [`Value::Time`].
    Time,
}

impl AttributeType {
    /// All types, in order of their codes; `NAMES` is in the same order.
    const ALL: [AttributeType; 6] = [
        AttributeType::Bool,
        AttributeType::I64,
        AttributeType::F64,
        AttributeType::Text,
        AttributeType::Texts,
        AttributeType::Time,
    ];
    const NAMES: [&str; 6] = ["bool", "i64", "f64", "text", "texts", "time"];

    /// Number on disk, counted from 1.
    pub(crate) const fn code(self) -> u8 {
        self as u8 + 1
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

impl fmt::Display for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.get(*self as usize).unwrap_or(&""))
    }
}

/// True for a valid name of an attribute: 1 to 255 bytes without control characters.
pub(crate) fn is_attribute_name(name: &str) -> bool {
    (1..=MAX_ATTRIBUTE_NAME_LEN).contains(&name.len()) && !name.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_name_the_type() {
        for (code, name) in (1..).zip(["bool", "i64", "f64", "text", "texts", "time"]) {
            let found = AttributeType::from_code(code).unwrap();
            assert_eq!((found.code(), found.to_string().as_str()), (code, name));
        }
        assert_eq!(AttributeType::from_code(0), None);
        assert_eq!(AttributeType::from_code(7), None);
    }
}
