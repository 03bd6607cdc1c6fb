//! Fields of a payload: named values about an entry, or about one of its rows.
//!
//! A store does not interpret payloads. Fields are a layout for programs that add to each other's payloads: a
//! reader skips the fields that it does not know.

/// Row number on disk of a field that is about the whole entry.
const ENTRY: u32 = u32::MAX;

/// One named value of a payload.
///
/// A payload has fields one after the other. Each is a name of four letters, the number of a row (`u32`, all
/// ones for the whole entry), the length of the value (`u32`), and the value; numbers are little-endian.
/// Names that begin with a capital letter belong to this project (`docs/FORMAT.md` lists them), all others
/// are free.
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
    /// Name of the field.
    pub tag: [u8; 4],
    /// Row within the entry that the field is about, counted from 0; `None` for the whole entry.
    pub row: Option<u32>,
    /// The value, less than 4 GiB.
    pub value: &'a [u8],
}

impl<'a> Field<'a> {
    /// Encodes fields as a payload.
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

    /// Decodes the fields of a payload, in order; `None` for a payload that is not made of fields.
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

    /// The value of the first field with this name that is about the whole entry; `None` if the payload has
    /// no such field, or is not made of fields.
    pub fn find(payload: &'a [u8], tag: &[u8; 4]) -> Option<&'a [u8]> {
        let fields = Self::decode(payload)?;
        fields.into_iter().find(|field| field.tag == *tag && field.row.is_none()).map(|field| field.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_ends_within_a_field_is_refused() {
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
