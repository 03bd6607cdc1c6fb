//! The HEAD section, the first 4096 bytes of a segment: a NumPy `.npy` header, padded so that the rows begin
//! on a page.
//!
//! NumPy's format 1.0: `\x93NUMPY`, version 1.0, a u16 length, then a Python dictionary padded with spaces
//! and ended by a newline. NumPy refuses dictionaries of more than 10,000 bytes; this one has 4086.

use crate::base::DType;

/// Length of the header: the rows begin here.
pub(crate) const HEADER_LEN: usize = 4096;
const PREFIX: [u8; 10] = [0x93, b'N', b'U', b'M', b'P', b'Y', 1, 0, 0xF6, 0x0F];

/// The header of a segment with this element type and shape `(rows, dim)`.
pub(crate) fn header(dtype: DType, rows: u64, dim: usize) -> Vec<u8> {
    let dictionary =
        format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}", dtype.descr());
    let mut bytes = Vec::with_capacity(HEADER_LEN);
    bytes.extend_from_slice(&PREFIX);
    bytes.extend_from_slice(dictionary.as_bytes());
    bytes.resize(HEADER_LEN - 1, b' ');
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_one_page_and_states_its_length() {
        let bytes = header(DType::F32, u64::MAX, crate::types::MAX_DIM);
        assert_eq!(bytes.len(), HEADER_LEN);
        let said = u16::from_le_bytes([bytes[8], bytes[9]]);
        assert_eq!(usize::from(said) + 10, HEADER_LEN);
        assert_eq!(bytes[HEADER_LEN - 1], b'\n');
    }
}
