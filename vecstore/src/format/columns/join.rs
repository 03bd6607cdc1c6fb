//! Columns made of the kept entries of other columns. Values are made as they are written: only the directory
//! is held in memory.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;

use super::read::{between, bit};
use super::{ALIGN, Buffers, Columns, HEAD_LEN, Record, Sizes};
use crate::base::escaped;
use crate::types::AttributeType;

/// The columns of a new segment, made of the columns of one or more inputs.
#[derive(Debug, Default)]
pub(crate) struct JoinedColumns<'a> {
    columns: Vec<Joined<'a>>,
    /// The bytes of ATTR; empty if no entry has a value.
    pub attr: Vec<u8>,
    /// Length of ATTD.
    pub attd_len: u64,
}

/// A joined column.
#[derive(Debug)]
struct Joined<'a> {
    name: &'a str,
    kind: AttributeType,
    /// Buffers by number of the input; inputs without the column are missing.
    inputs: BTreeMap<usize, Buffers<'a>>,
}

impl<'a> Joined<'a> {
    /// The stretches of kept entries, each with the buffers of its input.
    fn pieces(
        &self,
        staying: impl Iterator<Item = (usize, Range<usize>)> + Clone,
    ) -> impl Iterator<Item = (Buffers<'a>, Range<usize>)> + Clone {
        staying.map(|(input, entries)| {
            (self.inputs.get(&input).copied().unwrap_or(Buffers::blank(self.kind)), entries)
        })
    }
}

impl Sizes {
    /// Adds entries of an input, and returns how many of them have a value.
    fn add(&mut self, of: &Buffers<'_>, entries: Range<usize>) -> Option<u64> {
        self.entries = self.entries.checked_add(entries.len() as u64)?;
        if of.validity.is_empty() {
            return Some(0);
        }
        if matches!(of.kind, AttributeType::Text | AttributeType::Texts) {
            self.text_bytes = self.text_bytes.checked_add(of.bytes(entries.clone())?.len() as u64)?;
            self.items = self.items.checked_add(of.texts(entries.clone())?.1.len() as u64)?;
        }
        entries.map(|entry| bit(of.validity, entry).map(u64::from)).sum()
    }
}

impl<'a> JoinedColumns<'a> {
    /// Lays out the joined columns, for which it reads every kept entry. `staying` has the kept entries in
    /// order: number of the input, and a stretch of its entries. Entries of an input without a column have no
    /// value in it; a column without any value is left out.
    ///
    /// # Errors
    /// Returns the number of the faulty input, and why its columns cannot be joined.
    pub fn new(
        inputs: impl IntoIterator<Item = Columns<'a>>,
        staying: impl Iterator<Item = (usize, Range<usize>)> + Clone,
    ) -> Result<Self, (usize, String)> {
        let mut all: BTreeMap<&str, Joined<'_>> = BTreeMap::new();
        for (number, columns) in inputs.into_iter().enumerate() {
            for (name, buffers) in columns {
                let kind = buffers.kind;
                let joined = all.entry(name).or_insert(Joined { name, kind, inputs: BTreeMap::new() });
                if joined.kind != kind {
                    let name = escaped(name.as_bytes());
                    return Err((
                        number,
                        format!("column \"{name}\" is {kind}, and {} elsewhere", joined.kind),
                    ));
                }
                joined.inputs.insert(number, buffers);
            }
        }
        let mut records = Vec::new();
        let mut joined = JoinedColumns { columns: Vec::new(), attr: Vec::new(), attd_len: 0 };
        for column in all.into_values() {
            let wrong = || format!("column \"{}\" points outside", escaped(column.name.as_bytes()));
            let (mut sizes, mut present) = (Sizes::default(), 0);
            for ((buffers, entries), (input, _)) in column.pieces(staying.clone()).zip(staying.clone()) {
                present += sizes.add(&buffers, entries).ok_or_else(|| (input, wrong()))?;
            }
            if present > 0 {
                let places = sizes.places(column.kind, joined.attd_len).ok_or_else(|| (0, wrong()))?;
                joined.attd_len = places.iter().fold(0, |end, place| place.end.max(end));
                records.push(Record::of(column.kind.code(), sizes.entries - present, &places));
                joined.columns.push(column);
            }
        }
        joined.attr = joined.directory(records).ok_or_else(|| (0, "names are too long".to_owned()))?;
        Ok(joined)
    }

    fn directory(&self, mut records: Vec<Record>) -> Option<Vec<u8>> {
        if records.is_empty() {
            return Some(Vec::new());
        }
        let mut names = String::new();
        let names_start = HEAD_LEN + size_of_val(&*records);
        for (record, column) in records.iter_mut().zip(&self.columns) {
            record.name = u32::try_from(names_start + names.len()).ok()?;
            record.name_len = u32::try_from(column.name.len()).ok()?;
            names.push_str(column.name);
        }
        let head = [u32::try_from(records.len()).ok()?, 0];
        Some([bytemuck::cast_slice(&head), bytemuck::cast_slice(&records), names.as_bytes()].concat())
    }

    /// Writes ATTD in small pieces. `staying` must be the same as in [`JoinedColumns::new`].
    pub fn write(
        &self,
        staying: impl Iterator<Item = (usize, Range<usize>)> + Clone,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        use AttributeType::{Bool, Text, Texts};
        let mut out = Out { out, at: 0 };
        for column in &self.columns {
            let pieces = column.pieces(staying.clone());
            out.bits(pieces.clone().map(|(of, entries)| (of.validity, entries)))?;
            match column.kind {
                Bool => out.bits(pieces.clone().map(|(of, entries)| (of.values, entries)))?,
                _ => out.values(pieces.clone())?,
            }
            if matches!(column.kind, Text | Texts) {
                out.ends(pieces.clone().map(|(of, entries)| Some((of.ends, entries))))?;
            }
            if column.kind == Texts {
                out.ends(pieces.map(|(of, entries)| of.texts(entries)))?;
            }
        }
        Ok(())
    }
}

fn contradiction() -> io::Error {
    io::Error::other("the columns of a segment are not what they were a moment ago")
}

/// Output for buffers, and the number of bytes written to it.
struct Out<'w> {
    out: &'w mut dyn Write,
    at: u64,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Pads with zeros up to the start of a buffer.
    fn begin(&mut self) -> io::Result<()> {
        while !self.at.is_multiple_of(ALIGN) {
            self.put(&[0])?;
        }
        Ok(())
    }

    /// Writes a buffer of bits, packed anew. Entries of an input without the buffer get zeros.
    fn bits<'a>(&mut self, pieces: impl Iterator<Item = (&'a [u8], Range<usize>)>) -> io::Result<()> {
        self.begin()?;
        let (mut word, mut filled) = (0u64, 0);
        for (bits, entries) in pieces {
            for entry in entries {
                let is_set = !bits.is_empty() && bit(bits, entry).ok_or_else(contradiction)?;
                word |= u64::from(is_set) << filled;
                filled += 1;
                if filled == 64 {
                    self.put(&word.to_le_bytes())?;
                    (word, filled) = (0, 0);
                }
            }
        }
        if filled > 0 { self.put(&word.to_le_bytes()) } else { Ok(()) }
    }

    fn values<'a>(&mut self, pieces: impl Iterator<Item = (Buffers<'a>, Range<usize>)>) -> io::Result<()> {
        self.begin()?;
        for (of, mut entries) in pieces {
            let has_texts = matches!(of.kind, AttributeType::Text | AttributeType::Texts);
            if of.validity.is_empty() && !has_texts {
                entries.try_for_each(|_| self.put(&[0; 8]))?;
            } else {
                self.put(of.bytes(entries).ok_or_else(contradiction)?)?;
            }
        }
        Ok(())
    }

    /// Writes a buffer of ends, counted from the start of the output. Entries of an input without the buffer
    /// have length 0.
    fn ends<'a>(&mut self, pieces: impl Iterator<Item = Option<(&'a [u8], Range<usize>)>>) -> io::Result<()> {
        let mut end = 0u64;
        self.begin()?;
        self.put(&end.to_le_bytes())?;
        for piece in pieces {
            let (ends, range) = piece.ok_or_else(contradiction)?;
            for at in range {
                if !ends.is_empty() {
                    let len = between(ends, at..at + 1).map(|text| text.len() as u64);
                    end = len.and_then(|len| end.checked_add(len)).ok_or_else(contradiction)?;
                }
                self.put(&end.to_le_bytes())?;
            }
        }
        Ok(())
    }
}

/// A writer that compares: a write fails unless these bytes begin with the written ones, which are cut off.
pub(super) struct Same<'a>(pub &'a [u8]);

impl Write for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
