//! The file of a liveness bitmap: which entries and rows of one segment are superseded.
//!
//! A fixed header, then one bit for each entry, then one for each row, both in whole words of 64.

use std::ops::Range;
use std::path::Path;

use bytemuck::{Pod, Zeroable};

use super::{Id, Preamble, footer::Footer, read_record, record_crc};
use crate::base::{Bug, Error, Result};

const MAGIC: [u8; 8] = *b"\x89VECLIV\n";
/// Length of the header.
pub(crate) const HEADER_LEN: usize = 160;

/// The header, as it lies in the file. `docs/FORMAT.md` has the offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    head: Preamble,
    ro_compat: u64,
    compat: u64,
    /// Of the store.
    pub store_id: Id,
    /// The segment it is about: commits, generation, checksum of the footer.
    pub first: u64,
    pub last: u64,
    pub generation: u32,
    pub footer_crc: u32,
    /// Tells the bitmaps of one segment apart; in the file's name too.
    pub version: u64,
    /// Entries and rows of the segment.
    pub entries: u64,
    pub rows: u64,
    /// Superseded entries of each kind, by code.
    pub dead: [u64; 4],
    /// Their rows.
    pub dead_rows: u64,
    /// Length of the whole file.
    file_len: u64,
    padding: u32,
    /// CRC-32 of the header before this field, then of the rest of the file.
    pub crc: u32,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// Bytes of a bitmap of this many positions.
fn bitmap_len(positions: u64) -> Option<usize> {
    usize::try_from(positions.div_ceil(64)).ok()?.checked_mul(8)
}

impl Header {
    /// The header of a bitmap for the segment with this footer, with nothing superseded.
    pub fn of(footer: &Footer, version: u64) -> Self {
        Header {
            head: Preamble::of(MAGIC, HEADER_LEN),
            store_id: footer.store_id,
            first: footer.first,
            last: footer.last,
            generation: footer.generation,
            footer_crc: footer.crc,
            version,
            entries: footer.entries,
            rows: footer.rows,
            ..Header::zeroed()
        }
    }

    /// The bytes of the file; sets length and checksum.
    pub fn encode(&mut self, entries: &[u8], rows: &[u8]) -> Vec<u8> {
        let bits = [entries, rows].concat();
        self.file_len = (HEADER_LEN + bits.len()) as u64;
        self.crc = record_crc(self, &bits);
        [bytemuck::bytes_of(self), &bits].concat()
    }

    /// Reads the bytes of the file, trusting none of them.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self> {
        let wrong = |detail: String| Err(Error::damaged(path, "bitmap", detail));
        let kind = (path, "bitmap", "liveness bitmap");
        let (header, _): (Header, _) = read_record(kind, file, MAGIC, Bug::TrustBitmap)?;
        let expected = header.row_bits().map(|rows| rows.end);
        if expected != Some(file.len())
            || header.file_len != file.len() as u64
            || header.head.len as usize != HEADER_LEN
        {
            return wrong(format!("it has {} bytes, which is not what its header says", file.len()));
        }
        let spare = |range: Option<Range<usize>>, positions: u64| {
            let last = range.and_then(|range| file.get(range)).and_then(<[u8]>::last_chunk::<8>);
            let used = positions % 64;
            used != 0 && last.is_some_and(|word| u64::from_le_bytes(*word) >> used != 0)
        };
        if header.padding != 0
            || spare(header.entry_bits(), header.entries)
            || spare(header.row_bits(), header.rows)
        {
            return wrong("bits that stand for nothing are not zero".to_owned());
        }
        Ok(header)
    }

    /// Where the bits of the entries lie in the file.
    pub fn entry_bits(&self) -> Option<Range<usize>> {
        Some(HEADER_LEN..HEADER_LEN.checked_add(bitmap_len(self.entries)?)?)
    }

    /// Where the bits of the rows lie in the file.
    pub fn row_bits(&self) -> Option<Range<usize>> {
        let start = self.entry_bits()?.end;
        Some(start..start.checked_add(bitmap_len(self.rows)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &[u8]) -> Result<Header> {
        Header::parse(Path::new("b"), file)
    }

    fn file() -> Vec<u8> {
        let footer = Footer { first: 1, last: 1, entries: 3, rows: 64, ..Footer::empty() };
        Header::of(&footer, 0).encode(&4u64.to_le_bytes(), &(1u64 << 63).to_le_bytes())
    }

    #[test]
    fn round_trip_and_every_flipped_bit_and_length() {
        let good = file();
        let header = parse(&good).unwrap();
        assert_eq!((header.entry_bits(), header.row_bits()), (Some(160..168), Some(168..176)));
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
        }
    }

    /// A forged file has the right checksum.
    #[test]
    fn lengths_and_spare_bits_are_checked() {
        let forged = |change: fn(&mut Header), entries: u64| {
            let mut header = parse(&file()).unwrap();
            change(&mut header);
            let parsed = parse(&header.encode(&entries.to_le_bytes(), &0u64.to_le_bytes()));
            parsed.map_err(|error| error.to_string())
        };
        assert!(forged(|_| {}, 7).is_ok());
        assert!(forged(|_| {}, 8).unwrap_err().contains("stand for nothing"));
        assert!(forged(|header| header.padding = 1, 7).unwrap_err().contains("stand for nothing"));
        assert!(forged(|header| header.rows = u64::MAX, 7).unwrap_err().contains("176 bytes"));
        assert!(forged(|header| header.entries = 65, 7).unwrap_err().contains("176 bytes"));
        assert!(forged(|header| header.head.len = 0, 7).unwrap_err().contains("176 bytes"));
        assert!(forged(|header| header.head.incompat = 1, 7).unwrap_err().contains("incompat"));
        assert!(forged(|header| header.head.version_minor = 9, 7).is_ok());
    }
}
