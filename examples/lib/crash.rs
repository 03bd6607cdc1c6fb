//! The batches of the crash test, as `crash_writer` writes them and `crash_checker` expects them.
//!
//! Batch `n` of writer `W` is one commit of `rows` entries, each with one row. The key of row `r` is
//! `W/<n>/<r>`, zero-padded. The payload tells how the batch was made ([`Recipe`]), so that the checker needs
//! no options, and writers with different seeds may share a store. The vector follows from seed and key alone
//! ([`fill_vector`]).

use crate::random::{SplitMix64, mix};

/// How a batch was made. Every entry carries it as its payload: seed (8 bytes), rows (4 bytes) and how often
/// batches are deleted (4 bytes), little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Seed of the vectors.
    pub seed: u64,
    /// Entries per batch, never 0.
    pub rows: u32,
    /// Once batch `n * delete_every` is durable, the batch before it is deleted; 0 for never.
    pub delete_every: u32,
}

impl Recipe {
    /// The payload of every entry of a batch made this way.
    pub fn to_payload(self) -> [u8; 16] {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.seed.to_le_bytes());
        payload[8..12].copy_from_slice(&self.rows.to_le_bytes());
        payload[12..].copy_from_slice(&self.delete_every.to_le_bytes());
        payload
    }

    /// Reads a payload; `None` if it is not one of a recipe.
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        let (seed, rest) = payload.split_first_chunk::<8>()?;
        let (rows, delete_every) = rest.split_first_chunk::<4>()?;
        let recipe = Self {
            seed: u64::from_le_bytes(*seed),
            rows: u32::from_le_bytes(*rows),
            delete_every: u32::from_le_bytes(delete_every.try_into().ok()?),
        };
        (recipe.rows > 0 && recipe.delete_every != 1).then_some(recipe)
    }

    /// The batch that is deleted once batch `number` is durable.
    pub fn victim_of(self, number: u64) -> Option<u64> {
        let every = u64::from(self.delete_every);
        (every > 1 && number > 0 && number.is_multiple_of(every)).then(|| number - 1)
    }
}

/// The key of row `row` (from 0) of batch `batch` (from 1) of `writer`, which has no `/` in its name.
///
/// ```
/// assert_eq!(vecstore_examples::crash::key("W", 7, 31), "W/00000007/0031");
/// ```
pub fn key(writer: &str, batch: u64, row: u32) -> String {
    format!("{writer}/{batch:08}/{row:04}")
}

/// Parses a key into writer, batch and row; `None` if [`key`] would not have made it.
pub fn parse_key(found: &[u8]) -> Option<(&str, u64, u32)> {
    let found = std::str::from_utf8(found).ok()?;
    let mut parts = found.split('/');
    let (writer, batch, row) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (key(writer, batch, row) == found).then_some((writer, batch, row))
}

/// Fills `vector` with the values that belong to (`seed`, `writer`, `batch`, `row`): a [`SplitMix64`] stream
/// whose start mixes all four, as values in `[-1, 1)`.
pub fn fill_vector(seed: u64, writer: &str, batch: u64, row: u32, vector: &mut [f32]) {
    let mut start = mix(seed);
    for byte in writer.bytes() {
        start = mix(start ^ u64::from(byte)).wrapping_add(1);
    }
    start = mix(start ^ batch).wrapping_add(1);
    start = mix(start ^ u64::from(row)).wrapping_add(1);
    let mut random = SplitMix64::new(start);
    vector.fill_with(|| random.next_signed());
}

/// A running digest over (key, vector) pairs: equal only for the same pairs, with the same bits, in the same
/// order. Two 64-bit lanes, each fed every word through [`mix`]; lengths are fed too, so that pairs cannot
/// run together.
#[derive(Clone, Debug)]
pub struct Digest {
    lanes: [u64; 2],
}

impl Default for Digest {
    fn default() -> Self {
        Self { lanes: [1, 2] }
    }
}

impl Digest {
    /// Adds one pair.
    pub fn add(&mut self, key: &[u8], vector: &[f32]) {
        self.word(key.len() as u64);
        for chunk in key.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        self.word(vector.len() as u64);
        for value in vector {
            self.word(u64::from(value.to_bits()));
        }
    }

    fn word(&mut self, word: u64) {
        self.lanes[0] = mix(self.lanes[0] ^ word).wrapping_add(1);
        self.lanes[1] = mix(self.lanes[1].wrapping_add(word)).wrapping_mul(3);
    }

    /// The digest of the pairs added, as 32 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        format!("{:016x}{:016x}", self.lanes[0], self.lanes[1])
    }
}

#[cfg(test)]
mod tests {
    use super::{Digest, Recipe, fill_vector, key, parse_key};

    #[test]
    fn keys_and_payloads_come_back() {
        assert_eq!(parse_key(key("W", 1, 0).as_bytes()), Some(("W", 1, 0)));
        assert_eq!(parse_key(key("a b", u64::MAX, u32::MAX).as_bytes()), Some(("a b", u64::MAX, u32::MAX)));
        for wrong in ["W", "W/1/0", "W/00000001/0000/0", "W/00000001/-001", "W/000000001/0000"] {
            assert_eq!(parse_key(wrong.as_bytes()), None, "{wrong}");
        }
        let recipe = Recipe { seed: 0x0123_4567_89AB_CDEF, rows: 32, delete_every: 5 };
        assert_eq!(Recipe::from_payload(&recipe.to_payload()), Some(recipe));
        for wrong in [&[1; 15][..], &[1; 17], &[0; 16]] {
            assert_eq!(Recipe::from_payload(wrong), None, "{wrong:?}");
        }
        assert_eq!((recipe.victim_of(10), recipe.victim_of(11)), (Some(9), None));
    }

    #[test]
    fn seed_writer_batch_and_row_each_change_the_vector() {
        let of = |seed, writer, batch, row| {
            let mut vector = [0.0_f32; 16];
            fill_vector(seed, writer, batch, row, &mut vector);
            vector
        };
        let first = of(1, "W", 1, 0);
        assert_eq!(first, of(1, "W", 1, 0));
        for other in
            [of(2, "W", 1, 0), of(1, "V", 1, 0), of(1, "W", 2, 0), of(1, "W", 1, 1), of(1, "WW", 1, 0)]
        {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn the_digest_sees_bits_order_and_boundaries() {
        let of = |pairs: &[(&str, &[f32])]| {
            let mut digest = Digest::default();
            pairs.iter().for_each(|(key, vector)| digest.add(key.as_bytes(), vector));
            digest.to_hex()
        };
        let all = [
            of(&[]),
            of(&[("a", &[1.0]), ("b", &[2.0])]),
            of(&[("b", &[2.0]), ("a", &[1.0])]),
            of(&[("a", &[1.0, 2.0]), ("b", &[])]),
            of(&[("ab", &[1.0, 2.0])]),
            of(&[("a", &[0.0])]),
            of(&[("a", &[-0.0])]),
        ];
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
