//! What a store remembers of the file an entry was made from, so that a changed file is noticed.
//!
//! Length and time of the last change say in a moment that a file is the one it was. Where they differ, the
//! hash of the content decides: a copy, or a touched file, is not embedded again.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use vecstore::Field;

use crate::base::RejectionClass;

/// The field of a payload that says which file the entry was made from.
const STAMP: [u8; 4] = *b"STMP";
/// The field that says which kind of reason an input was rejected for.
const CLASS: [u8; 4] = *b"CLAS";

/// Length of an encoded record.
const ENCODED: usize = 8 + 8 + 4 + 16;

/// Length and time of the last change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub length: u64,
    /// Seconds since 1970, and nanoseconds.
    pub changed: (i64, u32),
}

impl Stamp {
    /// What the file system says of a file.
    pub fn of(about: &Metadata) -> Self {
        let nanoseconds = u32::try_from(about.mtime_nsec()).unwrap_or_default();
        Stamp { length: about.len(), changed: (about.mtime(), nanoseconds) }
    }
}

/// What is remembered of the file behind an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its length and time.
    pub stamp: Stamp,
    /// The first half of the blake3 hash of its content.
    pub hash: [u8; 16],
}

impl Record {
    /// The record of a file with this content.
    pub fn new(stamp: Stamp, content: &[u8]) -> Self {
        let mut hash = [0; 16];
        let whole = *blake3::hash(content).as_bytes();
        for (half, byte) in hash.iter_mut().zip(whole) {
            *half = byte;
        }
        Record { stamp, hash }
    }

    /// Length, seconds, nanoseconds, hash; little-endian.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENCODED);
        bytes.extend(self.stamp.length.to_le_bytes());
        bytes.extend(self.stamp.changed.0.to_le_bytes());
        bytes.extend(self.stamp.changed.1.to_le_bytes());
        bytes.extend(self.hash);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk().filter(|_| bytes.len() == ENCODED)?;
        let (seconds, rest) = rest.split_first_chunk()?;
        let (nanoseconds, rest) = rest.split_first_chunk()?;
        let changed = (i64::from_le_bytes(*seconds), u32::from_le_bytes(*nanoseconds));
        let stamp = Stamp { length: u64::from_le_bytes(*length), changed };
        Some(Record { stamp, hash: *rest.first_chunk()? })
    }
}

/// What a run leaves in the payload of an entry, as [fields](vecstore::Field).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The file it was made from, where it is known.
    pub record: Option<Record>,
    /// The kind of reason a rejected input was rejected for, where it is known.
    pub class: Option<RejectionClass>,
}

impl Remembered {
    /// The payload.
    ///
    /// ```
    /// use vecstore_embed::keys::{Record, Remembered, Stamp};
    ///
    /// let record = Record::new(Stamp { length: 3, changed: (1_700_000_000, 5) }, b"abc");
    /// let remembered = Remembered { record: Some(record), class: Some("decode".parse()?) };
    /// assert_eq!(Remembered::decode(&remembered.encode()), remembered);
    /// assert_eq!(Remembered::decode(b"something else"), Remembered::default());
    /// # Ok::<(), vecstore_embed::Error>(())
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        self.put_into(b"")
    }

    /// Reads a payload; what was not left there by a run is not known.
    pub fn decode(payload: &[u8]) -> Self {
        let class =
            Field::find(payload, &CLASS).and_then(|class| std::str::from_utf8(class).ok()?.parse().ok());
        Remembered { record: Field::find(payload, &STAMP).and_then(Record::decode), class }
    }

    /// A payload with this in place of what a run left there before; other fields stay.
    pub(crate) fn put_into(&self, payload: &[u8]) -> Vec<u8> {
        let (record, class) =
            (self.record.map(|record| record.encode()), self.class.map(|class| class.to_string()));
        let mut fields = Field::decode(payload).unwrap_or_default();
        fields.retain(|field| ![STAMP, CLASS].contains(&field.tag));
        let field = |tag, value| Field { tag, row: None, value };
        fields.extend(record.as_ref().map(|record| field(STAMP, record.as_slice())));
        fields.extend(class.as_ref().map(|class| field(CLASS, class.as_bytes())));
        Field::encode(&fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_others_say_nothing() {
        let record = Record::new(Stamp { length: u64::MAX, changed: (-5, 999_999_999) }, b"content");
        let remembered = Remembered { record: Some(record), class: Some(RejectionClass::Size) };
        let bytes = remembered.encode();
        assert_eq!(Remembered::decode(&bytes), remembered);
        for other in [&bytes[..36], &[&bytes[..], &[0]].concat(), b""] {
            assert_eq!(Remembered::decode(other), Remembered::default());
        }
        let unknown = Field { tag: CLASS, row: None, value: b"a later class" };
        assert_eq!(Remembered::decode(&Field::encode(&[unknown])), Remembered::default());
    }

    #[test]
    fn fields_of_others_stay() {
        let theirs = Field { tag: *b"face", row: Some(0), value: b"a box" };
        let record = Record::new(Stamp { length: 1, changed: (2, 3) }, b"");
        let before = Remembered { record: Some(record), class: Some(RejectionClass::Size) };
        let after = Remembered { record: Some(Record { hash: [7; 16], ..record }), class: None };
        let payload = after.put_into(&before.put_into(&Field::encode(&[theirs])));
        assert_eq!(Remembered::decode(&payload), after);
        assert_eq!(Field::decode(&payload).unwrap().len(), 2);
        assert_eq!(Field::decode(&payload).unwrap()[0], theirs);
    }
}
