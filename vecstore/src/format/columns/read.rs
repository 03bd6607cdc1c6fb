//! Reading the values of a column. Every read checks the offsets that it uses, and that texts are UTF-8.

use std::ops::Range;

use super::Column;
use crate::types::{AttributeType, Value};

/// The bytes of a column's buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers<'a> {
    pub(super) kind: AttributeType,
    /// Empty if the segment does not have the column: no entry has a value.
    pub(super) validity: &'a [u8],
    pub(super) values: &'a [u8],
    pub(super) ends: &'a [u8],
    pub(super) items: &'a [u8],
}

impl Column {
    /// The buffers; `None` if the type is unknown.
    pub fn buffers<'a>(&self, attd: &'a [u8]) -> Option<Buffers<'a>> {
        let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let of = |place: &Range<u64>| attd.get(at(place.start)..at(place.end)).unwrap_or_default();
        let [validity, values, ends, items] = self.places.each_ref().map(of);
        Some(Buffers { kind: self.kind?, validity, values, ends, items })
    }

    /// The value of an entry, or `None` if it has none. `is_sound` says which bytes of ATTD are intact.
    ///
    /// # Errors
    /// Some bytes of the value, or bytes that give its place, are not intact; or the value is invalid.
    pub fn sound_value<'a>(
        &self,
        attd: &'a [u8],
        entry: usize,
        is_sound: impl Fn(Range<usize>) -> bool,
    ) -> Result<Option<Value<'a>>, String> {
        match self.buffers(attd).filter(|of| self.is_sound(of, entry, is_sound).is_some()) {
            Some(buffers) => buffers.value(entry),
            None => Err(format!("the value of entry {entry} is not intact")),
        }
    }

    /// `None` if a value is read from bytes that are not intact. Each buffer is checked before its numbers
    /// are used to find the place in the next one.
    fn is_sound(
        &self,
        of: &Buffers<'_>,
        entry: usize,
        is_sound: impl Fn(Range<usize>) -> bool,
    ) -> Option<()> {
        let [validity, values, ends, items] = &self.places;
        let look = |place: &Range<u64>, range: Range<usize>, width: usize| {
            let at = |at: usize| usize::try_from(place.start).ok()?.checked_add(at.checked_mul(width)?);
            is_sound(at(range.start)?..at(range.end)?).then_some(())
        };
        look(validity, entry / 8..entry / 8 + 1, 1)?;
        if !bit(of.validity, entry)? {
            return Some(());
        }
        match of.kind {
            AttributeType::Bool => return look(values, entry / 8..entry / 8 + 1, 1),
            AttributeType::Text | AttributeType::Texts => look(ends, entry..entry + 2, 8)?,
            _ => {}
        }
        if of.kind == AttributeType::Texts {
            let (_, texts) = of.texts(entry..entry + 1)?;
            look(items, texts.start..texts.end.checked_add(1)?, 8)?;
        }
        look(values, of.span(entry..entry + 1)?, 1)
    }
}

/// Bit `at`, counted from the lowest bit of the first byte.
pub(super) fn bit(bits: &[u8], at: usize) -> Option<bool> {
    bits.get(at / 8).map(|byte| byte >> (at % 8) & 1 == 1)
}

fn number(numbers: &[u8], at: usize) -> Option<[u8; 8]> {
    numbers.get(at.checked_mul(8)?..)?.first_chunk().copied()
}

/// Range from end number `range.start` to end number `range.end`; `None` if they descend or are missing.
pub(super) fn between(ends: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    let end = |at| usize::try_from(u64::from_le_bytes(number(ends, at)?)).ok();
    let range = end(range.start)?..end(range.end)?;
    (range.start <= range.end).then_some(range)
}

impl<'a> Buffers<'a> {
    /// Buffers for a segment without the column.
    pub(super) fn blank(kind: AttributeType) -> Self {
        Buffers { kind, validity: &[], values: &[], ends: &[], items: &[] }
    }

    /// The buffer with the ends of texts, and the range of these entries' texts in it.
    pub(super) fn texts(&self, entries: Range<usize>) -> Option<(&'a [u8], Range<usize>)> {
        match self.kind {
            AttributeType::Texts if self.validity.is_empty() => Some((&[], 0..0)),
            AttributeType::Texts => Some((self.items, between(self.ends, entries)?)),
            _ => Some((self.ends, entries)),
        }
    }

    /// Range of these entries in the values. Not for bool, whose values are single bits.
    fn span(&self, entries: Range<usize>) -> Option<Range<usize>> {
        match self.kind {
            AttributeType::Text | AttributeType::Texts => {
                let (ends, texts) = self.texts(entries)?;
                if ends.is_empty() { Some(0..0) } else { between(ends, texts) }
            }
            _ => Some(entries.start.checked_mul(8)?..entries.end.checked_mul(8)?),
        }
    }

    /// Bytes of these entries in the values. Not for bool, whose values are single bits.
    pub(super) fn bytes(&self, entries: Range<usize>) -> Option<&'a [u8]> {
        self.values.get(self.span(entries)?)
    }

    /// The value of an entry; `None` if it has none.
    pub fn value(&self, entry: usize) -> Result<Option<Value<'a>>, String> {
        let value = || match bit(self.validity, entry)? {
            true => self.present(entry).map(Some),
            false => Some(None),
        };
        value().ok_or_else(|| format!("the value of entry {entry} points outside, or is no UTF-8"))
    }

    fn present(&self, entry: usize) -> Option<Value<'a>> {
        let fixed = || number(self.values, entry);
        let (ends, texts) = self.texts(entry..entry.checked_add(1)?)?;
        let text = |at: usize| std::str::from_utf8(self.values.get(between(ends, at..at + 1)?)?).ok();
        Some(match self.kind {
            AttributeType::Bool => Value::Bool(bit(self.values, entry)?),
            AttributeType::I64 => Value::I64(i64::from_le_bytes(fixed()?)),
            AttributeType::F64 => Value::F64(f64::from_le_bytes(fixed()?)),
            AttributeType::Time => Value::Time(i64::from_le_bytes(fixed()?)),
            AttributeType::Text => Value::Text(text(entry)?),
            AttributeType::Texts => Value::Texts(texts.map(text).collect::<Option<_>>()?),
        })
    }

    /// Checks that all values can be read, and that entries without a value have only zeros or no text.
    pub(super) fn check(&self, entries: usize) -> Result<(), String> {
        for entry in 0..entries {
            let is_nothing = || match self.kind {
                AttributeType::Bool => bit(self.values, entry) == Some(false),
                AttributeType::Text | AttributeType::Texts => {
                    between(self.ends, entry..entry + 1).is_some_and(|texts| texts.is_empty())
                }
                _ => number(self.values, entry) == Some([0; 8]),
            };
            if self.value(entry)?.is_none() && !is_nothing() {
                return Err(format!("entry {entry} has no value, but something of one"));
            }
        }
        Ok(())
    }
}
