//! Types of attributes: an attribute has the same type in all segments of a store.

use std::collections::BTreeMap;

use crate::base::escaped;
use crate::format::columns::Column;
use crate::types::AttributeType;

/// Types of the attributes in the segments added so far.
#[derive(Debug, Default)]
pub(super) struct Types(BTreeMap<Box<str>, AttributeType>);

impl Types {
    /// Adds the attribute types of the next segment. Returns what is wrong if a type is not that of an
    /// earlier segment. Types that only a later version of the program knows are not judged.
    pub fn add(&mut self, columns: &[Column]) -> Option<String> {
        let mut wrong = Vec::new();
        for column in columns {
            let Some(found) = column.kind else { continue };
            let known = *self.0.entry(column.name.clone()).or_insert(found);
            if known != found {
                let name = escaped(column.name.as_bytes());
                wrong.push(format!("attribute \"{name}\" is {found}, and {known} in a file before it"));
            }
        }
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}
