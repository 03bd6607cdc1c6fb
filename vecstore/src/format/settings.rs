//! The SETT section: the store's settings, so that the manifest can be rebuilt from segments alone.
//!
//! A u32 count; then for each setting, in ascending order of names, the name and the value, each as a u32
//! length and UTF-8 bytes. Names that begin with `vecstore.` belong to the store itself.

use std::collections::BTreeMap;

use crate::base::{Error, Result};
use crate::types::{Fingerprint, MAX_SETTINGS_LEN, check_description};

/// Name of the setting that holds the fingerprint's description.
pub(crate) const FINGERPRINT: &str = "vecstore.fingerprint";
/// Prefix of names that users cannot set.
pub(crate) const RESERVED: &str = "vecstore.";

/// Encodes settings.
pub(crate) fn encode(settings: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let too_long = |_| Error::invalid("a setting is longer than 4 GiB");
    let length = |len| u32::try_from(len).map(u32::to_le_bytes).map_err(too_long);
    let mut bytes = length(settings.len())?.to_vec();
    for text in settings.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(&length(text.len())?);
        bytes.extend_from_slice(text.as_bytes());
    }
    Ok(bytes)
}

/// Decodes settings; `None` for bytes that [`encode`] does not write, or for more than a store may have.
pub(crate) fn decode(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut rest = bytes;
    let (mut settings, mut len) = (BTreeMap::new(), 0);
    for _ in 0..take_u32(&mut rest)? {
        let (name, value) = (take_text(&mut rest)?, take_text(&mut rest)?);
        if settings.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return None;
        }
        if name == FINGERPRINT {
            check_description(&Fingerprint::new([0; 32], value.as_str())).ok()?;
        } else {
            len += name.len() + value.len() + 8;
        }
        // Checked after each setting: in memory, short texts take more bytes than in the file.
        if len > MAX_SETTINGS_LEN {
            return None;
        }
        settings.insert(name, value);
    }
    rest.is_empty().then_some(settings)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (number, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_le_bytes(*number))
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let len = usize::try_from(take_u32(rest)?).ok()?;
    let (text, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal() {
        let settings: BTreeMap<String, String> =
            [("root".to_owned(), "/pictures/ä".to_owned()), (String::new(), String::new())].into();
        let bytes = encode(&settings).unwrap();
        assert_eq!(decode(&bytes), Some(settings));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode(&longer), None);
        assert_eq!(decode(&[0xFF; 12]), None, "absurd lengths");
        // A count, and settings with names of one byte and empty values.
        let of = |names: &[u8]| {
            let texts = names.iter().flat_map(|name| [1, 0, 0, 0, *name, 0, 0, 0, 0]);
            [names.len() as u8, 0, 0, 0].into_iter().chain(texts).collect::<Vec<u8>>()
        };
        assert_eq!(decode(&of(b"ab")).unwrap().len(), 2);
        for (what, names) in [("out of order", b"ba"), ("twice", b"aa")] {
            assert_eq!(decode(&of(names)), None, "{what}");
        }
    }

    #[test]
    fn settings_over_the_limit_are_refused() {
        let short: BTreeMap<String, String> =
            (0..10_000).map(|number| (format!("{number:04}"), String::new())).collect();
        let long = BTreeMap::from([("a".to_owned(), "x".repeat(MAX_SETTINGS_LEN))]);
        let described = BTreeMap::from([(FINGERPRINT.to_owned(), "x".repeat(4097))]);
        for settings in [short, long, described] {
            assert_eq!(decode(&encode(&settings).unwrap()), None);
        }
    }
}
