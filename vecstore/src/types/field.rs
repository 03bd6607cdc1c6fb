//! Fields of a payload: named values about an entry, or about one of its rows.
//!
//! A store keeps payloads and does not look into them. This is how programs that add to each other's payloads lay theirs out:
//! a reader skips fields that it does not know.

/// The row of a field that is about the whole entry.
const ENTRY: u32 = u32::MAX;

/// One named value of a payload.
///
/// In a payload, fields stand one after the other: four letters, the number of a row (`u32`, all ones for the whole entry),
/// the length of the value (`u32`), and the value; numbers are little-endian. Letters that begin with a capital are those of
/// this project (`docs/FORMAT.md` lists them), others are free.
///
/// ```
/// use vecstore::Field;
///
/// let found = [
///     Field { tag: *b"size", row: None, value: b"640x480" },
///     Field { tag: *b"face", row: Some(1), value: &[12, 0, 30, 42] },
/// ];
/// let payload = Field::encode(&found);
/// assert_eq!(Field::decode(&payload).as_deref(), Some(&found[..]));
/// assert_eq!(Field::decode(b"something else"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name.
    pub tag: [u8; 4],
    /// The row within the entry that it is about, from 0; `None` for the whole entry.
    pub row: Option<u32>,
    /// The value, up to 4 GiB.
    pub value: &'a [u8],
}

impl<'a> Field<'a> {
    /// The payload that holds these fields.
    pub fn encode(fields: &[Field<'_>]) -> Vec<u8> {
        let mut payload = Vec::new();
        for Field { tag, row, value } in fields {
            payload.extend_from_slice(tag);
            payload.extend_from_slice(&row.unwrap_or(ENTRY).to_le_bytes());
            payload.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            payload.extend_from_slice(value);
        }
        payload
    }

    /// The fields of a payload, in their order; `None` for a payload that is not made of fields.
    pub fn decode(mut payload: &'a [u8]) -> Option<Vec<Self>> {
        let mut fields = Vec::new();
        while !payload.is_empty() {
            let (tag, rest) = payload.split_first_chunk()?;
            let (row, rest) = rest.split_first_chunk()?;
            let (len, rest) = rest.split_first_chunk()?;
            let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
            let row = Some(u32::from_le_bytes(*row)).filter(|row| *row != ENTRY);
            fields.push(Field { tag: *tag, row, value });
            payload = rest;
        }
        Some(fields)
    }

    /// The value of the entry's first field of this name; `None` where there is none.
    pub fn find(payload: &'a [u8], tag: &[u8; 4]) -> Option<&'a [u8]> {
        let fields = Self::decode(payload)?;
        fields.into_iter().find(|field| field.tag == *tag && field.row.is_none()).map(|field| field.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_payload_is_none() {
        let field = Field { tag: *b"abcd", row: Some(3), value: b"value" };
        let payload = Field::encode(&[field, Field { row: None, ..field }]);
        for cut in 1..payload.len() {
            let whole = cut == payload.len() / 2;
            assert_eq!(Field::decode(&payload[..cut]).is_some(), whole, "cut at {cut}");
        }
        assert_eq!(Field::find(&payload, b"abcd"), Some(&b"value"[..]));
        assert_eq!(Field::find(&payload, b"abce"), None);
        assert_eq!(Field::decode(b""), Some(vec![]));
    }
}
