//! The payload and attributes of an entry, and the attributes of a whole batch.

use std::ops::Range;

use crate::base::escaped;
use crate::types::attribute::{MAX_ATTRIBUTE_NAME_LEN, MAX_ATTRIBUTES, is_attribute_name};
use crate::types::{AttributeType, MAX_PAYLOAD_LEN, Value};

/// The payload and attributes of an entry that a builder adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Details<'a> {
    pub payload: &'a [u8],
    pub attributes: Vec<(&'a str, Value<'a>)>,
}

/// The attributes of a batch's entries, in the order of the entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes {
    /// Names and types, in the order of their first use.
    names: Vec<(String, AttributeType)>,
    /// For each value its name, as an index in `names`, and the value itself.
    values: Vec<(usize, Kept)>,
    texts: String,
    /// The end of each text in `texts`.
    ends: Vec<usize>,
}

/// A value. Texts are numbers of texts in [`Attributes::texts`].
#[derive(Clone, Debug)]
enum Kept {
    Plain(Value<'static>),
    Text(usize),
    Texts(Range<usize>),
}

impl Attributes {
    pub fn clear(&mut self) {
        self.names.clear();
        self.values.clear();
        self.texts.clear();
        self.ends.clear();
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn byte_len(&self) -> usize {
        size_of_val(&*self.values) + self.texts.len() + size_of_val(&*self.ends)
    }

    /// Names and types.
    pub fn types(&self) -> impl Iterator<Item = (&str, AttributeType)> {
        self.names.iter().map(|(name, kind)| (name.as_str(), *kind))
    }

    /// The index of a name. Most entries have their attributes in the same order, so that `guess` is usually
    /// right.
    fn find(&self, name: &str, guess: usize) -> Option<usize> {
        let is_it = |(known, _): &(String, AttributeType)| known == name;
        if self.names.get(guess).is_some_and(is_it) { Some(guess) } else { self.names.iter().position(is_it) }
    }

    /// Checks the attributes of an entry before they are added. The error says what is wrong.
    pub fn check(&self, added: &[(&str, Value<'_>)], allow_non_finite: bool) -> Result<(), String> {
        let too_many =
            || Err(format!("more than {MAX_ATTRIBUTES} attributes in a batch; put some into the payload"));
        if added.len() > MAX_ATTRIBUTES {
            return too_many();
        }
        let (mut names, mut bytes) = (self.names.len(), 0);
        for (number, (name, value)) in added.iter().enumerate() {
            let wrong = |what: String| Err(format!("attribute \"{}\" {what}", escaped(name.as_bytes())));
            if !is_attribute_name(name) {
                let most = MAX_ATTRIBUTE_NAME_LEN;
                return wrong(format!("is no name; use 1 to {most} bytes without control characters"));
            }
            if added.iter().take(number).any(|(other, _)| other == name) {
                return wrong("is there twice; give each once, several texts as one list".to_owned());
            }
            if let Value::F64(value) = value
                && !value.is_finite()
                && !allow_non_finite
            {
                return wrong(format!("is {value}; find its cause, or allow such values"));
            }
            let found = value.attribute_type();
            match self.find(name, number).and_then(|at| self.names.get(at)) {
                None => names += 1,
                Some((_, known)) if *known == found => {}
                Some((_, known)) => {
                    return wrong(format!("is {found} here, and {known} in another entry of the batch"));
                }
            }
            bytes += match value {
                Value::Text(text) => text.len(),
                Value::Texts(texts) => texts.iter().map(|text| text.len() + 8).sum(),
                _ => 0,
            };
        }
        if names > MAX_ATTRIBUTES {
            return too_many();
        }
        if bytes > MAX_PAYLOAD_LEN {
            return Err(format!(
                "texts of {bytes} bytes are too long; together the limit is {MAX_PAYLOAD_LEN}"
            ));
        }
        Ok(())
    }

    /// Adds the attributes of an entry. They have passed [`Attributes::check`].
    pub fn add(&mut self, added: &[(&str, Value<'_>)]) {
        for (number, (name, value)) in added.iter().enumerate() {
            let name = self.find(name, number).unwrap_or_else(|| {
                self.names.push(((*name).to_owned(), value.attribute_type()));
                self.names.len() - 1
            });
            let start = self.ends.len();
            let kept = match value {
                Value::Bool(value) => Kept::Plain(Value::Bool(*value)),
                Value::I64(value) => Kept::Plain(Value::I64(*value)),
                Value::F64(value) => Kept::Plain(Value::F64(*value)),
                Value::Time(value) => Kept::Plain(Value::Time(*value)),
                Value::Text(text) => {
                    self.add_text(text);
                    Kept::Text(start)
                }
                Value::Texts(texts) => {
                    texts.iter().for_each(|text| self.add_text(text));
                    Kept::Texts(start..self.ends.len())
                }
            };
            self.values.push((name, kept));
        }
    }

    fn add_text(&mut self, text: &str) {
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
    }

    fn text(&self, number: usize) -> &str {
        let end = |number: usize| self.ends.get(number).copied().unwrap_or(0);
        let start = number.checked_sub(1).map_or(0, end);
        self.texts.get(start..end(number)).unwrap_or_default()
    }

    /// A range of the values: the attributes of one entry.
    pub fn range(&self, range: Range<usize>) -> EntryAttributes<'_> {
        EntryAttributes { all: self, values: self.values.get(range).unwrap_or_default() }
    }
}

/// The attributes of one entry, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryAttributes<'a> {
    all: &'a Attributes,
    values: &'a [(usize, Kept)],
}

impl<'a> EntryAttributes<'a> {
    /// Names and types.
    pub fn types(self) -> impl Iterator<Item = (&'a str, AttributeType)> {
        let names = self.values.iter().filter_map(move |(name, _)| self.all.names.get(*name));
        names.map(|(name, kind)| (name.as_str(), *kind))
    }

    /// Names and values, in the order in which the builder got them.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.values.iter().map(move |(name, kept)| {
            let value = match kept {
                Kept::Plain(value) => value.clone(),
                Kept::Text(number) => Value::Text(self.all.text(*number)),
                Kept::Texts(numbers) => {
                    Value::Texts(numbers.clone().map(|number| self.all.text(number)).collect())
                }
            };
            (self.all.names.get(*name).map_or("", |(name, _)| name.as_str()), value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DType;
    use crate::types::{Batch, EntryBuilder};

    fn with<'b, 'a>(entry: EntryBuilder<'b, 'a>, all: &[(&'a str, Value<'a>)]) -> EntryBuilder<'b, 'a> {
        all.iter().fold(entry, |entry, (name, value)| entry.attribute(name, value.clone()))
    }

    #[test]
    fn attributes_come_back_and_a_cleared_batch_has_none() {
        let mut batch = Batch::new(1, DType::F32);
        let all = [
            ("b", Value::Bool(true)),
            ("i", Value::from(-7)),
            ("f", Value::from(0.5f32)),
            ("t", Value::from("text")),
            ("l", Value::from(vec!["", "one"])),
            ("at", Value::Time(i64::MIN)),
        ];
        let these = |these: &[usize]| these.iter().map(|at| all[*at].clone()).collect::<Vec<_>>();
        with(batch.entry("a").row(&[1.0f32]), &these(&[0, 1, 2, 3, 4, 5])).push().unwrap();
        with(batch.entry("b"), &these(&[4, 2])).push_empty().unwrap();
        batch.push("c", &[1.0f32]).unwrap();
        with(batch.entry("d"), &these(&[3])).push_rejected("why").unwrap();
        let found: Vec<Vec<_>> = batch.entries().map(|entry| entry.attributes.iter().collect()).collect();
        let expected = [&[0, 1, 2, 3, 4, 5][..], &[4, 2], &[], &[3]];
        assert_eq!(found, expected.map(these));
        batch.clear();
        assert_eq!(batch.byte_len(), 0);
        batch.entry("a").attribute("t", 1).push_empty().unwrap();
        assert!(batch.entries().all(|entry| entry.attributes.iter().eq([("t", Value::I64(1))])));
    }

    #[test]
    fn bad_attributes_leave_the_batch_as_it_was() {
        let long = "x".repeat(MAX_PAYLOAD_LEN + 1);
        let names: Vec<String> = (0..257).map(|number| number.to_string()).collect();
        let mut batch = Batch::new(1, DType::F32);
        batch.entry("k").attribute("n", 1).push_empty().unwrap();
        let before = (batch.byte_len(), batch.attributes.clone());
        let mut refuses = |what: &str, attributes: &[(&str, Value<'_>)]| {
            let good = batch.entry("k").payload(b"payload").attribute("good", true);
            let error = with(good, attributes).push_empty().unwrap_err();
            assert!(error.to_string().contains(what), "{what}: {error}");
        };
        refuses("is no name", &[("", Value::I64(1))]);
        refuses("is no name", &[("a\nb", Value::I64(1))]);
        refuses("is no name", &[(&long[..256], Value::I64(1))]);
        refuses("\"m\" is there twice", &[("m", Value::I64(1)), ("m", Value::I64(1))]);
        refuses("\"n\" is text here, and i64 in another", &[("n", Value::Text("1"))]);
        refuses("\"f\" is NaN", &[("f", Value::F64(f64::NAN))]);
        refuses("\"f\" is inf", &[("f", Value::F64(f64::INFINITY))]);
        refuses("texts of 16777217 bytes", &[("t", Value::Text(&long))]);
        refuses("texts of 16777217 bytes", &[("l", Value::Texts(vec![&long[..MAX_PAYLOAD_LEN - 15], ""]))]);
        let numbered = |count: usize| -> Vec<_> {
            names.iter().take(count).map(|name| (name.as_str(), Value::Bool(true))).collect()
        };
        refuses("more than 256 attributes", &numbered(257));
        refuses("more than 256 attributes", &numbered(255));
        assert_eq!(batch.byte_len(), before.0);
        assert_eq!(format!("{:?}", batch.attributes), format!("{:?}", before.1));
        with(batch.entry("most"), &numbered(255)).push_empty().unwrap();
        let mut batch = batch.allow_non_finite(true);
        batch.entry("l").attribute("254", true).push_empty().unwrap();
        assert!(batch.entry("m").attribute("255", true).push_empty().is_err());
        batch.clear();
        batch.entry("n").attribute("f", f64::NAN).push_empty().unwrap();
    }
}
