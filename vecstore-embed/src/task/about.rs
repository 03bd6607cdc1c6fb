//! What a task says of an entry beside its vectors.

use std::collections::BTreeMap;

use vecstore::{Field, Value};

/// What is stored of an input beside its vectors: fields of the payload, and attributes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    fields: Vec<([u8; 4], Option<u32>, Vec<u8>)>,
    attributes: BTreeMap<String, Attribute>,
}

/// The value of an attribute; see [`vecstore::Value`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Attribute {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    I64(i64),
    /// A floating-point number.
    F64(f64),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A point in time: microseconds since 1970-01-01 UTC.
    Time(i64),
}

impl Attribute {
    /// As a store takes it.
    pub fn value(&self) -> Value<'_> {
        match self {
            Attribute::Bool(value) => Value::Bool(*value),
            Attribute::I64(value) => Value::I64(*value),
            Attribute::F64(value) => Value::F64(*value),
            Attribute::Text(value) => Value::Text(value),
            Attribute::Texts(value) => Value::Texts(value.iter().map(String::as_str).collect()),
            Attribute::Time(value) => Value::Time(*value),
        }
    }
}

impl From<i64> for Attribute {
    fn from(value: i64) -> Self {
        Attribute::I64(value)
    }
}

impl From<f64> for Attribute {
    fn from(value: f64) -> Self {
        Attribute::F64(value)
    }
}

impl From<&str> for Attribute {
    fn from(value: &str) -> Self {
        Attribute::Text(value.to_owned())
    }
}

impl About {
    /// Adds a field about the whole entry. Tags that begin with a capital letter belong to this project.
    pub fn field(&mut self, tag: [u8; 4], value: impl Into<Vec<u8>>) {
        self.fields.push((tag, None, value.into()));
    }

    /// Adds a field about one row.
    pub fn row_field(&mut self, row: u32, tag: [u8; 4], value: impl Into<Vec<u8>>) {
        self.fields.push((tag, Some(row), value.into()));
    }

    /// Sets an attribute of the entry.
    pub fn attribute(&mut self, name: impl Into<String>, value: impl Into<Attribute>) {
        self.attributes.insert(name.into(), value.into());
    }

    /// The fields, as they are encoded into a payload.
    pub fn fields(&self) -> Vec<Field<'_>> {
        self.fields.iter().map(|(tag, row, value)| Field { tag: *tag, row: *row, value }).collect()
    }

    /// The attributes by name.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &Attribute)> {
        self.attributes.iter().map(|(name, value)| (name.as_str(), value))
    }
}
