//! A part of a job, for machines that do not see each other.

use std::str::FromStr;

use crate::base::{Error, Result};

/// The i-th of n parts: the inputs whose key falls into it, whatever other inputs there are.
///
/// ```
/// let shard: vecstore_embed::Shard = "0/4".parse()?;
/// let parts = (0..4).map(|index| vecstore_embed::Shard::new(index, 4).unwrap());
/// assert_eq!(parts.filter(|part| part.holds(b"people/1.jpg")).count(), 1);
/// assert!("4/4".parse::<vecstore_embed::Shard>().is_err());
/// # let _ = shard;
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Shard {
    /// Part `index` of `count`, counted from 0; `None` when there is no such part.
    pub fn new(index: u64, count: u64) -> Option<Self> {
        (index < count).then_some(Shard { index, count })
    }

    /// True for the key of an input of this part.
    pub fn holds(&self, key: &[u8]) -> bool {
        let hash = blake3::hash(key);
        let number = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        self.count < 2 || number % self.count == self.index
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts =
            text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        parts
            .and_then(|(index, count)| Shard::new(index, count))
            .ok_or_else(|| Error::bad_value("shard", "i/n, with i from 0 to n-1", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_one_part_and_parts_are_alike_in_size() {
        let mut counts = [0; 7];
        for key in 0..7000 {
            let key = format!("folder/{key}.jpg");
            for (index, count) in counts.iter_mut().enumerate() {
                *count += u32::from(Shard::new(index as u64, 7).unwrap().holds(key.as_bytes()));
            }
        }
        assert_eq!(counts.iter().sum::<u32>(), 7000);
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        for bad in ["", "1", "1/0", "-1/2", "a/b"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }
}
