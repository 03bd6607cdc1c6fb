//! The SETT section: named texts, so that the manifest can be rebuilt from segments alone.
//!
//! A u32 count; for each setting, by name in ascending order, u32 length and bytes of the name, then of the
//! value, in UTF-8. Names that begin with `vecstore.` belong to the store itself.

use std::collections::BTreeMap;

use crate::base::{Error, Result};
use crate::types::{Fingerprint, MAX_SETTINGS_LEN, check_description};

/// Name under which the fingerprint's description is stored.
pub(crate) const FINGERPRINT: &str = "vecstore.fingerprint";
/// Names with this prefix are not the user's.
pub(crate) const RESERVED: &str = "vecstore.";

/// Encodes settings.
pub(crate) fn encode(settings: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let too_long = |_| Error::bad_input("a setting is longer than 4 GiB");
    let length = |len| u32::try_from(len).map(u32::to_le_bytes).map_err(too_long);
    let mut bytes = length(settings.len())?.to_vec();
    for text in settings.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(&length(text.len())?);
        bytes.extend_from_slice(text.as_bytes());
    }
    Ok(bytes)
}

/// Decodes settings; `None` when the bytes are not what [`encode`] writes, or more than a store may have.
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
        // Checked before the next one is read: short texts take more memory than they have bytes in the file.
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
        // The count, and each name of one byte with an empty value.
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
    fn no_more_than_a_store_may_have() {
        let short: BTreeMap<String, String> =
            (0..10_000).map(|number| (format!("{number:04}"), String::new())).collect();
        let long = BTreeMap::from([("a".to_owned(), "x".repeat(MAX_SETTINGS_LEN))]);
        let described = BTreeMap::from([(FINGERPRINT.to_owned(), "x".repeat(4097))]);
        for settings in [short, long, described] {
            assert_eq!(decode(&encode(&settings).unwrap()), None);
        }
    }
}
