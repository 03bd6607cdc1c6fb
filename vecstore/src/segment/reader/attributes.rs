//! Attributes of a segment's entries. The directory is read on first use, not when the segment is opened.

use std::ops::Range;

use super::Segment;
use crate::base::{Error, Result, escaped};
use crate::format::columns::{Column, Columns, Directory};
use crate::format::section;
use crate::types::Value;

impl Segment {
    /// The directory: which attributes there are, and where they lie. Its checksum is compared on first use.
    pub fn directory(&self) -> Result<&Directory> {
        let read = || {
            let (attr, attd) = (&self.tables.attributes, &self.tables.values);
            if *attr == Range::default() {
                return Ok(Directory::default());
            }
            self.check_section(section::ATTR, attr)?;
            Directory::parse(self.slice(attr), self.layout.footer.entries, attd.len() as u64)
                .map_err(|what| Error::damaged(&self.path, "ATTR", what))
        };
        self.directory.get_or_init(read).as_ref().map_err(Error::clone)
    }

    /// The bytes of ATTR and of ATTD.
    pub fn attribute_bytes(&self) -> (&[u8], &[u8]) {
        (self.slice(&self.tables.attributes), self.slice(&self.tables.values))
    }

    /// All columns, for joining them to those of other segments. A column of an unknown type is an error.
    pub fn columns(&self) -> Result<Columns<'_>> {
        let (_, attd) = self.attribute_bytes();
        self.directory()?.known(attd).map_err(|what| Error::damaged(&self.path, "ATTR", what))
    }

    /// The value of an entry in a column of this segment; `None` if there is none or its type is not known.
    pub fn value(&self, index: usize, column: &Column) -> Result<Option<Value<'_>>> {
        self.check_attributes()?;
        let (_, attd) = self.attribute_bytes();
        let value = column.buffers(attd).map_or(Ok(None), |buffers| buffers.value(index));
        value.map_err(|what| {
            let name = escaped(column.name.as_bytes());
            Error::damaged(&self.path, "ATTD", format!("attribute \"{name}\": {what}"))
        })
    }

    /// Describes a column of a type that only a later version knows; `None` if there is none.
    pub fn unknown_attribute(&self) -> Option<String> {
        // Damage is not reported here: a merge finds it when it reads all columns.
        let column = self.directory().ok()?.unknown()?;
        Some(format!("attribute \"{}\" of a type that is not known", escaped(column.name.as_bytes())))
    }
}
