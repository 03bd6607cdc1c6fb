//! Columns made of single values, entry by entry.

use std::collections::BTreeMap;
use std::iter::once;

use super::{Buffers, JoinedColumns};
use crate::base::escaped;
use crate::types::{AttributeType, Value};

/// The attributes of the entries of a new segment.
#[derive(Debug, Default)]
pub(crate) struct FreshColumns {
    columns: BTreeMap<String, Fresh>,
}

#[derive(Debug)]
struct Fresh {
    kind: AttributeType,
    /// Number of entries that the buffers cover so far.
    entries: usize,
    validity: Vec<u8>,
    values: Vec<u8>,
    ends: Vec<u64>,
    items: Vec<u64>,
}

fn set(bits: &mut [u8], at: usize) {
    if let Some(byte) = bits.get_mut(at / 8) {
        *byte |= 1 << (at % 8);
    }
}

impl Fresh {
    fn new(kind: AttributeType) -> Self {
        let (validity, values) = Default::default();
        Fresh { kind, entries: 0, validity, values, ends: vec![0], items: vec![0] }
    }

    /// Extends the buffers to this many entries; the new entries have no value.
    fn fill(&mut self, entries: usize) {
        let bits = entries.div_ceil(64) * 8;
        self.entries = entries;
        self.validity.resize(bits, 0);
        match self.kind {
            AttributeType::Bool => self.values.resize(bits, 0),
            AttributeType::Text => self.ends.resize(entries + 1, self.values.len() as u64),
            AttributeType::Texts => self.ends.resize(entries + 1, self.items.len() as u64 - 1),
            _ => self.values.resize(entries * 8, 0),
        }
    }

    fn add(&mut self, entry: usize, value: &Value<'_>) {
        self.fill(entry);
        match value {
            Value::I64(value) | Value::Time(value) => self.values.extend(value.to_le_bytes()),
            Value::F64(value) => self.values.extend(value.to_le_bytes()),
            Value::Text(text) => self.values.extend(text.as_bytes()),
            Value::Texts(texts) => texts.iter().for_each(|text| {
                self.values.extend(text.as_bytes());
                self.items.push(self.values.len() as u64);
            }),
            Value::Bool(_) => {}
        }
        self.fill(entry + 1);
        set(&mut self.validity, entry);
        if *value == Value::Bool(true) {
            set(&mut self.values, entry);
        }
    }

    fn buffers(&self) -> Buffers<'_> {
        let (ends, items) = (bytemuck::cast_slice(&self.ends), bytemuck::cast_slice(&self.items));
        Buffers { kind: self.kind, validity: &self.validity, values: &self.values, ends, items }
    }
}

impl FreshColumns {
    /// Adds an attribute of an entry. Entries must come in ascending order.
    ///
    /// # Errors
    /// The entry already has the attribute, or the attribute has another type in an earlier entry.
    pub fn add(&mut self, entry: usize, name: &str, value: &Value<'_>) -> Result<(), String> {
        let kind = value.attribute_type();
        let column = match self.columns.get_mut(name) {
            Some(column) => column,
            None => self.columns.entry(name.to_owned()).or_insert_with(|| Fresh::new(kind)),
        };
        if column.kind != kind || column.entries > entry {
            let name = escaped(name.as_bytes());
            return Err(format!("attribute \"{name}\" of entry {entry} is {kind}, after a {}", column.kind));
        }
        column.add(entry, value);
        Ok(())
    }

    /// ATTR and ATTD for this many entries; both empty if no entry has an attribute.
    pub fn finish(mut self, entries: usize) -> Result<(Vec<u8>, Vec<u8>), String> {
        self.columns.values_mut().for_each(|column| column.fill(entries));
        let columns = self.columns.iter().map(|(name, column)| (name.as_str(), column.buffers())).collect();
        let all = once((0, 0..entries));
        let joined = JoinedColumns::new([columns], all.clone()).map_err(|(_, what)| what)?;
        let mut attd = Vec::new();
        joined.write(all, &mut attd).map_err(|error| error.to_string())?;
        Ok((joined.attr, attd))
    }
}
