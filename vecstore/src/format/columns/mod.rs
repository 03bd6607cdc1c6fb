//! The sections ATTR and ATTD: attributes of entries, one column for each, in the layout of Arrow's columns.
//!
//! ATTR is the directory: the number of columns (u32), zero (u32), a [`Record`] for each column in ascending
//! order of names, then the names. ATTD has the buffers of the columns in the same order, each at a multiple
//! of 64, with zeros between them. For E entries:
//!
//! * *validity*: one bit for each entry, the lowest first, set if it has a value; in whole words of 64 bits;
//! * *values*: bits as in validity (bool), 8 bytes for each entry (i64, f64, time), or UTF-8 (text, texts);
//! * *ends*: E + 1 numbers, the first 0: the end of each entry in values (text) or among the items (texts);
//! * *item ends*: one number more than items, the first 0: the end of each item in values (texts).
//!
//! An entry without a value has zeros in values (bool, i64, f64, time), or no text. Every column has at least
//! one value.

mod fresh;
mod join;
mod read;
#[cfg(test)]
mod tests;

use std::iter::once;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::base::escaped;
use crate::types::{AttributeType, is_attribute_name};

pub(crate) use fresh::FreshColumns;
pub(crate) use join::JoinedColumns;
use read::Buffers;

/// Buffers begin at multiples of this.
const ALIGN: u64 = 64;
/// Length of ATTR before the records.
const HEAD_LEN: usize = 8;

/// A column in the directory. `docs/FORMAT.md` has the offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Record {
    /// Offset of the name in ATTR.
    name: u32,
    /// Length of the name in bytes.
    name_len: u32,
    /// Code of the type.
    kind: u8,
    zero: [u8; 7],
    /// Entries without a value.
    nulls: u64,
    /// Offset of validity in ATTD, as for the other buffers below; 0 for buffers that the type does not have.
    validity: u64,
    values: u64,
    values_len: u64,
    ends: u64,
    items: u64,
}

/// Ranges of validity, values, ends and item ends of a column in ATTD; empty for buffers that its type does
/// not have.
type Places = [Range<u64>; 4];

/// Sizes that determine, together with its type, the places of a column.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    entries: u64,
    text_bytes: u64,
    items: u64,
}

impl Sizes {
    /// The places of a column whose first buffer begins at the next multiple of [`ALIGN`] from `at`.
    fn places(self, kind: AttributeType, mut at: u64) -> Option<Places> {
        use AttributeType::{Bool, F64, I64, Text, Texts, Time};
        let (bits, numbers) = (self.entries.div_ceil(64) * 8, self.entries.checked_mul(8)?);
        let values = match kind {
            Bool => bits,
            I64 | F64 | Time => numbers,
            Text | Texts => self.text_bytes,
        };
        let ends = numbers.checked_add(8).filter(|_| matches!(kind, Text | Texts));
        let items = self.items.checked_add(1)?.checked_mul(8).filter(|_| kind == Texts);
        let mut places = Places::default();
        for (place, len) in places.iter_mut().zip([Some(bits), Some(values), ends, items]) {
            if let Some(len) = len {
                let start = at.checked_next_multiple_of(ALIGN)?;
                at = start.checked_add(len)?;
                *place = start..at;
            }
        }
        Some(places)
    }
}

impl Record {
    fn of(kind: u8, nulls: u64, places: &Places) -> Self {
        let [_, values, _, _] = places;
        let values_len = values.end - values.start;
        let [validity, values, ends, items] = places.each_ref().map(|place| place.start);
        Record { kind, nulls, validity, values, values_len, ends, items, ..Record::default() }
    }
}

/// A column, and the places of its buffers.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub name: Box<str>,
    /// Type of the values; `None` for a type of a later version, whose values cannot be read.
    pub kind: Option<AttributeType>,
    /// Ranges of the buffers. Item ends reach to the next column: the directory has no number of items.
    places: Places,
}

/// The directory of a segment: its columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    entries: usize,
    attd_len: u64,
    columns: Vec<Column>,
}

/// The columns of a segment, all of known types.
pub(crate) type Columns<'a> = Vec<(&'a str, Buffers<'a>)>;

impl Directory {
    /// Reads and checks ATTR, trusting nothing in it. `entries` is the number of entries in the segment.
    pub fn parse(attr: &[u8], entries: u64, attd_len: u64) -> Result<Self, String> {
        let (head, rest) = attr.split_first_chunk::<HEAD_LEN>().ok_or("it is too short")?;
        let [count, zero]: [u32; 2] = bytemuck::cast(*head);
        let records = usize::try_from(count).ok().and_then(|count| count.checked_mul(size_of::<Record>()));
        let records = records.and_then(|len| rest.get(..len)).filter(|_| zero == 0);
        let records = records.ok_or_else(|| format!("{count} columns do not fit in it"))?;
        let mut names_end = HEAD_LEN + records.len();
        let mut columns: Vec<Column> = Vec::with_capacity(records.len() / size_of::<Record>());
        // End of the buffers so far. It is a lower bound (not exact) after a column of texts or of an unknown
        // type: the directory does not have the length of its last buffer.
        let (mut at, mut is_exact) = (0, true);
        for record in records.chunks_exact(size_of::<Record>()) {
            let record: Record = bytemuck::pod_read_unaligned(record);
            let wrong = || format!("column {} contradicts itself or those before it", columns.len());
            let start = names_end;
            names_end = start.saturating_add(record.name_len as usize);
            let name = attr.get(start..names_end).and_then(|name| std::str::from_utf8(name).ok());
            let name = name.filter(|name| is_attribute_name(name)).ok_or_else(wrong)?;
            let kind = AttributeType::from_code(record.kind);
            let sizes = Sizes { entries, text_bytes: record.values_len, items: 0 };
            let begins = if is_exact { at } else { record.validity.max(at) };
            let places = kind.map_or(Some(Places::default()), |kind| sizes.places(kind, begins));
            let places = places.ok_or_else(wrong)?;
            let expected = match kind {
                Some(_) => Record::of(record.kind, record.nulls, &places),
                None => Record { zero: [0; 7], ..record },
            };
            if record != (Record { name: record.name, name_len: record.name_len, ..expected })
                || record.name as usize != start
                || record.nulls > entries
                || columns.last().is_some_and(|last| *last.name >= *name)
            {
                return Err(wrong());
            }
            at = places.iter().fold(at, |at, place| at.max(place.end));
            is_exact = kind.is_some_and(|kind| kind != AttributeType::Texts);
            columns.push(Column { name: name.into(), kind, places });
        }
        if names_end != attr.len() || at > attd_len || is_exact && at != attd_len {
            return Err("it does not describe what is there".to_owned());
        }
        let mut next = attd_len;
        for Column { places: [validity, _, _, items], .. } in columns.iter_mut().rev() {
            if !items.is_empty() {
                items.end = next;
            }
            if !validity.is_empty() {
                next = validity.start;
            }
        }
        let entries = usize::try_from(entries).map_err(|_| "too many entries")?;
        Ok(Directory { entries, attd_len, columns })
    }

    /// The columns, by name in ascending order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        let at = self.columns.binary_search_by(|column| (*column.name).cmp(name)).ok()?;
        self.columns.get(at)
    }

    /// The first column of an unknown type, if there is one: merges leave such a file alone.
    pub fn unknown(&self) -> Option<&Column> {
        self.columns.iter().find(|column| column.kind.is_none())
    }

    /// The buffers of all columns, to be joined with those of other segments.
    ///
    /// # Errors
    /// A column has an unknown type, or ATTD has another length.
    pub fn known<'a>(&'a self, attd: &'a [u8]) -> Result<Columns<'a>, String> {
        if attd.len() as u64 != self.attd_len {
            return Err(format!("expected {} bytes of ATTD, found {}", self.attd_len, attd.len()));
        }
        let named = |column: &'a Column| Some((&*column.name, column.buffers(attd)?));
        let unknown = |column: &Column| {
            format!("column \"{}\" has a type that is not known", escaped(column.name.as_bytes()))
        };
        self.columns.iter().map(|column| named(column).ok_or_else(|| unknown(column))).collect()
    }

    /// Checks every value of a column.
    pub fn check(&self, column: &Column, attd: &[u8]) -> Result<(), String> {
        let wrong = |what: String| format!("column \"{}\": {what}", escaped(column.name.as_bytes()));
        column.buffers(attd).map_or(Ok(()), |buffers| buffers.check(self.entries)).map_err(wrong)
    }

    /// Checks that a writer of the same values would write the same ATTR and ATTD: counts, ends, spare bits,
    /// padding. Not checked if a column has an unknown type.
    pub fn check_layout(&self, attr: &[u8], attd: &[u8]) -> Result<(), String> {
        if self.unknown().is_some() {
            return Ok(());
        }
        let all = once((0, 0..self.entries));
        let joined = JoinedColumns::new([self.known(attd)?], all.clone()).map_err(|(_, what)| what)?;
        let mut rest = join::Same(attd);
        let is_same = joined.write(all, &mut rest).is_ok() && rest.0.is_empty() && joined.attr == attr;
        let at = attd.len() - rest.0.len();
        let wrong = || format!("byte {at} of ATTD, or ATTR, is not what the values are written as");
        is_same.then_some(()).ok_or_else(wrong)
    }
}
