//! What an entry has beside its rows, and how a batch keeps the attributes of its entries.

use std::ops::Range;

use crate::base::escaped;
use crate::types::attribute::{MAX_ATTRIBUTE_NAME_LEN, MAX_ATTRIBUTES, is_attribute_name};
use crate::types::{AttributeType, MAX_PAYLOAD_LEN, Value};

/// What an entry has beside its rows: a payload, which the store keeps and does not look into, and attributes,
/// named values for filters.
///
/// Bytes by themselves become `Details` with that payload. A payload has up to 16 MiB. Names of attributes are
/// UTF-8 of 1 to 255 bytes without control characters, and a store has up to 256 of them. Values of one name have one
/// type, in a batch and in the store: an append refuses others. The texts of an entry have up to 16 MiB together, those of lists counted with 8 bytes more each.
///
/// ```
/// use vecstore::{Batch, DType, Details, Value};
/// let mut batch = Batch::new(2, DType::F32);
/// let details = Details::new()
///     .payload(b"any bytes")
///     .attribute("year", 2024)
///     .attribute("tags", vec!["cat", "sofa"])
///     .attribute("taken", Value::Time(1_718_000_000_000_000));
/// batch.push_with("cat.jpg", &[0.1f32, 0.2], details)?;
/// batch.push_with("dog.jpg", &[0.1f32, 0.2], b"a payload and nothing else")?;
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details<'a> {
    pub(super) payload: &'a [u8],
    pub(super) attributes: Vec<(&'a str, Value<'a>)>,
}

impl<'a> Details<'a> {
    /// No payload, and no attributes.
    pub fn new() -> Self {
        Details::default()
    }

    /// With this payload.
    pub fn payload(mut self, payload: &'a [u8]) -> Self {
        self.payload = payload;
        self
    }

    /// With one attribute more.
    pub fn attribute(mut self, name: &'a str, value: impl Into<Value<'a>>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }
}

macro_rules! from {
    ($([$($n:tt)*] $type:ty),*) => {$(
        impl<'a, $($n)*> From<&'a $type> for Details<'a> {
            fn from(payload: &'a $type) -> Self {
                Details::new().payload(payload)
            }
        }
    )*};
}

from! { [] [u8], [const N: usize] [u8; N], [] Vec<u8> }

/// The attributes of a batch's entries, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes {
    /// Names and types, in the order in which they came.
    names: Vec<(String, AttributeType)>,
    /// The number of its name, and what is kept of the value.
    values: Vec<(usize, Kept)>,
    texts: String,
    /// Where each text ends.
    ends: Vec<usize>,
}

/// A value, its texts by their numbers.
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

    /// The number of a name. Entries mostly have theirs in the same order: then `guess` is right.
    fn find(&self, name: &str, guess: usize) -> Option<usize> {
        let is_it = |(known, _): &(String, AttributeType)| known == name;
        if self.names.get(guess).is_some_and(is_it) { Some(guess) } else { self.names.iter().position(is_it) }
    }

    /// Says what is wrong with the attributes of an entry to be added.
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
                return wrong(format!("is {value}; find out what made it, or allow such values"));
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

    /// Adds the attributes of an entry, which were checked.
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

    /// Some of the values, in their order.
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

    /// Names and values, in the order in which they were given.
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
    use crate::types::Batch;

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
        let details = |these: &[usize]| {
            let these = these.iter().map(|at| all[*at].clone());
            these.fold(Details::new(), |details, (name, value)| details.attribute(name, value))
        };
        batch.push_with("a", &[1.0f32], details(&[0, 1, 2, 3, 4, 5])).unwrap();
        batch.push_empty("b", details(&[4, 2])).unwrap();
        batch.push("c", &[1.0f32]).unwrap();
        batch.push_rejected("d", "why", details(&[3])).unwrap();
        let found: Vec<Vec<_>> = batch.entries().map(|entry| entry.attributes.iter().collect()).collect();
        let expected = [&[0, 1, 2, 3, 4, 5][..], &[4, 2], &[], &[3]];
        assert_eq!(found, expected.map(|these| details(these).attributes));
        batch.clear();
        assert_eq!(batch.byte_len(), 0);
        batch.push_empty("a", Details::new().attribute("t", 1)).unwrap();
        assert!(batch.entries().all(|entry| entry.attributes.iter().eq([("t", Value::I64(1))])));
    }

    #[test]
    fn bad_attributes_leave_the_batch_as_it_was() {
        let long = "x".repeat(MAX_PAYLOAD_LEN + 1);
        let names: Vec<String> = (0..257).map(|number| number.to_string()).collect();
        let mut batch = Batch::new(1, DType::F32);
        batch.push_empty("k", Details::new().attribute("n", 1)).unwrap();
        let before = (batch.byte_len(), batch.attributes.clone());
        let mut refuses = |what: &str, attributes: &[(&str, Value<'_>)]| {
            let good = Details::new().payload(b"payload").attribute("good", true);
            let details =
                attributes.iter().fold(good, |all, (name, value)| all.attribute(name, value.clone()));
            let error = batch.push_empty("k", details).unwrap_err();
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
        let most =
            numbered(255).into_iter().fold(Details::new(), |all, (name, value)| all.attribute(name, value));
        batch.push_empty("most", most).unwrap();
        let mut batch = batch.allow_non_finite(true);
        batch.push_empty("l", Details::new().attribute("254", true)).unwrap();
        assert!(batch.push_empty("m", Details::new().attribute("255", true)).is_err());
        batch.clear();
        batch.push_empty("n", Details::new().attribute("f", f64::NAN)).unwrap();
    }
}
