//! Types of attributes: each has the same one in all segments of a store.

use std::collections::BTreeMap;

use crate::base::escaped;
use crate::format::columns::Column;
use crate::types::AttributeType;

/// Types in the segments so far.
#[derive(Debug, Default)]
pub(super) struct Types(BTreeMap<Box<str>, Option<AttributeType>>);

impl Types {
    /// Adds those of the next segment. Says what is wrong where one is another than before.
    pub fn add(&mut self, columns: &[Column]) -> Option<String> {
        let mut wrong = None;
        for column in columns {
            if *self.0.entry(column.name.clone()).or_insert(column.kind) != column.kind {
                wrong = Some(&column.name);
            }
        }
        let told = |name: &str| {
            format!("attribute \"{}\" has another type than in an earlier segment", escaped(name.as_bytes()))
        };
        wrong.map(|name| told(name))
    }
}
