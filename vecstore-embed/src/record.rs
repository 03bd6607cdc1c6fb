//! What a store remembers of the file an entry was made from, so that a changed file is noticed.
//!
//! Length and time of the last change say in a moment that a file is the one it was. Where they differ, the hash of the
//! content decides: a copy, or a touched file, is not embedded again.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use crate::Class;

/// First byte of the payload of an entry; another layout gets another number.
const VERSION: u8 = 1;

/// Length of an encoded record.
const ENCODED: usize = 1 + 8 + 8 + 4 + 16;

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

    /// The payload of an entry: `1`, length, seconds, nanoseconds, hash; little-endian.
    ///
    /// ```
    /// use vecstore_embed::record::{Record, Stamp};
    ///
    /// let record = Record::new(Stamp { length: 3, changed: (1_700_000_000, 5) }, b"abc");
    /// assert_eq!(Record::decode(&record.encode()), Some(record));
    /// assert_eq!(Record::decode(b"something else"), None);
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENCODED);
        bytes.push(VERSION);
        bytes.extend(self.stamp.length.to_le_bytes());
        bytes.extend(self.stamp.changed.0.to_le_bytes());
        bytes.extend(self.stamp.changed.1.to_le_bytes());
        bytes.extend(self.hash);
        bytes
    }

    /// Reads [`Record::encode`]; `None` for the payload of an entry that was not made by a run.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(&[VERSION]).filter(|_| payload.len() == ENCODED)?;
        let (length, rest) = rest.split_first_chunk()?;
        let (seconds, rest) = rest.split_first_chunk()?;
        let (nanoseconds, rest) = rest.split_first_chunk()?;
        let changed = (i64::from_le_bytes(*seconds), u32::from_le_bytes(*nanoseconds));
        let stamp = Stamp { length: u64::from_le_bytes(*length), changed };
        Some(Record { stamp, hash: *rest.first_chunk()? })
    }
}

/// Why an input was rejected, as a store keeps it: for people first, and behind that on a line of its own for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For people.
    pub reason: String,
    /// The kind of reason, where it is known.
    pub class: Option<Class>,
    /// The file that was rejected, where it is known.
    pub record: Option<Record>,
}

impl Rejection {
    /// What to store.
    ///
    /// ```
    /// use vecstore_embed::record::Rejection;
    ///
    /// let rejection = Rejection { reason: "cut off".into(), class: Some("decode".parse()?), record: None };
    /// assert_eq!(rejection.encode(), "cut off\n[decode]");
    /// assert_eq!(Rejection::decode("cut off\n[decode]"), rejection);
    /// assert_eq!(Rejection::decode("anything").reason, "anything");
    /// # Ok::<(), vecstore_embed::Error>(())
    /// ```
    pub fn encode(&self) -> String {
        let class = self.class.map_or_else(String::new, |class| class.to_string());
        let record: String =
            self.record.iter().flat_map(Record::encode).map(|byte| format!("{byte:02x}")).collect();
        let space = if record.is_empty() { "" } else { " " };
        format!("{}\n[{class}{space}{record}]", self.reason)
    }

    /// Reads what is stored; a reason without a line for programs is a reason.
    pub fn decode(stored: &str) -> Self {
        let told = stored.rsplit_once('\n').and_then(|(reason, line)| {
            let line = line.strip_prefix('[')?.strip_suffix(']')?;
            let (class, record) = line.split_once(' ').unwrap_or((line, ""));
            let class = if class.is_empty() { None } else { Some(class.parse().ok()?) };
            let record = if record.is_empty() { None } else { Some(Record::decode(&unhex(record)?)?) };
            Some(Rejection { reason: reason.to_owned(), class, record })
        });
        told.unwrap_or_else(|| Rejection { reason: stored.to_owned(), class: None, record: None })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_others_are_no_records() {
        let record = Record::new(Stamp { length: u64::MAX, changed: (-5, 999_999_999) }, b"content");
        let bytes = record.encode();
        assert_eq!(bytes.len(), ENCODED);
        assert_eq!(Record::decode(&bytes), Some(record));
        for other in [&bytes[..36], &[&bytes[..], &[0]].concat(), &[&[2], &bytes[1..]].concat(), b""] {
            assert_eq!(Record::decode(other), None);
        }
    }

    #[test]
    fn rejections_are_read_back_whatever_the_reason_holds() {
        let record = Record::new(Stamp { length: 7, changed: (1, 2) }, b"");
        for reason in ["", "two\nlines", "ends like [decode]", "\n[model]"] {
            for class in [None, Some(Class::Size)] {
                for record in [None, Some(record)] {
                    let rejection = Rejection { reason: reason.to_owned(), class, record };
                    assert_eq!(Rejection::decode(&rejection.encode()), rejection);
                }
            }
        }
        for stored in ["plain", "old\n[new class]", "old\n[decode 00]", "old\n[decode 0]", "[decode]"] {
            assert_eq!(Rejection::decode(stored).reason, stored);
        }
    }
}
