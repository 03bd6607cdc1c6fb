//! Bytes of a rejected entry in PAYL: length of the reason (u32), the reason in UTF-8, the payload.

/// Encodes a reason and a payload. A batch refuses a reason whose length does not fit 32 bits.
pub(crate) fn encode(reason: &str, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(reason.len()).unwrap_or(u32::MAX);
    [&len.to_le_bytes(), reason.as_bytes(), payload].concat()
}

/// Decodes reason and payload; `None` for bytes that [`encode`] does not write.
pub(crate) fn decode(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (reason, payload) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    Some((std::str::from_utf8(reason).ok()?, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal() {
        for (reason, payload) in [("", &b""[..]), ("cut off", b""), ("", b"\xff"), ("ä", b"payload")] {
            let bytes = encode(reason, payload);
            assert_eq!(decode(&bytes), Some((reason, payload)));
            assert_eq!(bytes.len(), 4 + reason.len() + payload.len());
            for cut in 0..4 + reason.len() {
                assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
            }
        }
        assert_eq!(decode(b"\x01\0\0\0\xff"), None, "no UTF-8");
        assert_eq!(decode(&[0xFF; 12]), None, "an absurd length");
    }
}
