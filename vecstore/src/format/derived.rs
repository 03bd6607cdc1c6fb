//! Derived files: contents that follow from one segment, such as superseded entries or possible keys.
//!
//! A file is a header, a body in blocks, and a CRC-32 for each block. A reader compares the checksum of a
//! block before it first uses the block.

use std::ops::Range;
use std::path::Path;

use bytemuck::{Pod, Zeroable};

use super::blocks::{block_count, is_block_len, section_crc};
use super::{Covers, Id, Preamble, VERSION_MINOR, footer::Footer, read_header, record_crc};
use crate::base::{Bug, Error, Result};

const MAGIC: [u8; 8] = *b"\x89VECDER\n";
/// Length of the header that this version writes.
pub(crate) const HEADER_LEN: usize = 256;
/// Block length as an exponent of two: one page, so that a lookup of one byte checks few bytes.
const BLOCK_LEN_LOG2: u8 = 12;

/// Kind of a derived file: four capital letters or digits. The file's name ends with them in lower case.
pub(crate) type Kind = [u8; 4];
/// Liveness bitmap: which entries and rows are superseded. Facts: entries, rows, superseded entries of each
/// kind (four), superseded rows, last commit whose kills the bitmap covers.
pub(crate) const LIVE: Kind = *b"LIVE";
/// Key filter: which keys the segment certainly does not have. Facts: entries, words, bits set for each key.
pub(crate) const KEYF: Kind = *b"KEYF";

/// The header, as it lies in the file. `docs/FORMAT.md` has the offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    head: Preamble,
    /// Id of the store.
    pub store_id: Id,
    pub kind: Kind,
    /// Version of the kind: of its contents, and of the rule by which they are derived.
    pub kind_version: u32,
    /// First commit of the segment.
    pub first: u64,
    /// Last commit of the segment.
    pub last: u64,
    /// Generation of the segment.
    pub generation: u32,
    /// Checksum of the segment's footer.
    pub footer_crc: u32,
    /// Random number that tells files of one kind and segment apart; also part of the file's name.
    pub version: u64,
    /// Length of the whole file.
    pub file_len: u64,
    /// Length of the body.
    pub body_len: u64,
    block_len_log2: u8,
    zeros: [u8; 3],
    /// CRC-32 of the block checksums.
    table_crc: u32,
    /// Numbers that the kind defines; unused ones are zero.
    pub facts: [u64; 8],
    refused: [u8; 28],
    /// Zero; a reader ignores it.
    pub ignored: [u8; 32],
    /// CRC-32 of the header before this field.
    pub crc: u32,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

impl Header {
    /// Header of a file about the segment with this footer; `seal` completes it.
    pub fn of(footer: &Footer, kind: Kind, version: u64, facts: [u64; 8]) -> Self {
        Header {
            head: Preamble::of(MAGIC, HEADER_LEN),
            store_id: footer.store_id,
            kind,
            kind_version: 1,
            first: footer.first,
            last: footer.last,
            generation: footer.generation,
            footer_crc: footer.crc,
            version,
            block_len_log2: BLOCK_LEN_LOG2,
            facts,
            ..Header::zeroed()
        }
    }

    /// Sets lengths and checksums for a body whose length is a multiple of eight. Returns the block
    /// checksums, which follow the body in the file.
    pub fn seal(&mut self, body: &[u8]) -> Vec<u32> {
        let crcs: Vec<u32> = body.chunks(1 << BLOCK_LEN_LOG2).map(crc32fast::hash).collect();
        self.body_len = body.len() as u64;
        self.file_len = (HEADER_LEN + body.len() + crcs.len() * 4) as u64;
        self.table_crc = section_crc(&crcs);
        self.crc = record_crc(bytemuck::bytes_of(self), &[]);
        crcs
    }

    /// Reads and checks the header of a file; trusts none of its bytes. Checks that the body and the block
    /// checksums lie in the file, but reads neither.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self> {
        let wrong = |detail: String| Err(Error::damaged(path, "header", detail));
        let kind = (path, "header", "derived file");
        let (header, _): (Header, _) = read_header(kind, file, MAGIC, (Covers::Header, Bug::TrustDerived))?;
        if header.zeros != [0; 3] || header.refused != [0; 28] {
            return wrong("reserved bytes are not zero".to_owned());
        }
        if !is_block_len(header.block_len_log2) {
            return wrong(format!("a block length of 2^{} is not possible", header.block_len_log2));
        }
        let end = header.table().map(|table| table.end);
        if end != Some(file.len())
            || header.file_len != file.len() as u64
            || !header.body_len.is_multiple_of(8)
        {
            return wrong(format!("it has {} bytes, which is not what its header says", file.len()));
        }
        Ok(header)
    }

    /// True if the header has something that this version ignores and a later one may know.
    pub fn says_more(&self) -> bool {
        self.ignored != [0; 32]
            || self.head.len as usize > HEADER_LEN
            || self.head.version_minor > VERSION_MINOR
    }

    /// Range of the body in the file.
    pub fn body(&self) -> Option<Range<usize>> {
        let start = self.head.len as usize;
        Some(start..start.checked_add(usize::try_from(self.body_len).ok()?)?)
    }

    fn table(&self) -> Option<Range<usize>> {
        let start = self.body()?.end;
        let blocks = usize::try_from(block_count(self.body_len, self.block_len_log2)).ok()?;
        Some(start..start.checked_add(blocks.checked_mul(4)?)?)
    }

    /// Number of blocks in the body.
    pub fn block_count(&self) -> usize {
        self.table().map_or(0, |table| table.len() / 4)
    }

    /// Number of the block that contains byte `at` of the body.
    #[inline]
    pub fn block_of(&self, at: usize) -> usize {
        at >> self.block_len_log2
    }

    /// True if the table of block checksums matches the header.
    pub fn is_table_right(&self, file: &[u8]) -> bool {
        let table = self.table().and_then(|range| file.get(range));
        table.is_some_and(|table| crc32fast::hash(table) == self.table_crc)
    }

    /// True if a block matches its checksum in the table; the table must have been checked first.
    pub fn is_block_right(&self, file: &[u8], block: usize) -> bool {
        let of_block = || {
            let expected: [u8; 4] =
                file.get(self.table()?)?.get(block * 4..block * 4 + 4)?.try_into().ok()?;
            let body = file.get(self.body()?)?;
            let bytes = body.get(block.checked_shl(self.block_len_log2.into())?..)?;
            let bytes = bytes.get(..1 << self.block_len_log2).unwrap_or(bytes);
            Some(u32::from_le_bytes(expected) == crc32fast::hash(bytes))
        };
        of_block().unwrap_or(false) || Bug::TrustDerived.is_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &[u8]) -> Result<Header> {
        Header::parse(Path::new("b"), file)
    }

    fn file(body: usize) -> Vec<u8> {
        let footer = Footer { first: 1, last: 1, ..Footer::empty() };
        let body: Vec<u8> = (0..body).map(|at| at as u8).collect();
        let mut header = Header::of(&footer, LIVE, 0, [0; 8]);
        let crcs = header.seal(&body);
        [bytemuck::bytes_of(&header), &body, bytemuck::cast_slice(&crcs)].concat()
    }

    fn is_right(file: &[u8]) -> bool {
        let Ok(header) = parse(file) else { return false };
        header.is_table_right(file)
            && (0..header.block_count()).all(|block| header.is_block_right(file, block))
    }

    #[test]
    fn round_trip_and_every_flipped_bit_and_length() {
        let good = file(4096 + 16);
        let header = parse(&good).unwrap();
        assert_eq!((header.body(), header.block_count()), (Some(256..4368), 2));
        assert_eq!((header.block_of(4095), header.block_of(4096)), (0, 1));
        assert!(is_right(&good) && is_right(&file(0)));
        for bit in (0..300 * 8).chain(4300 * 8..good.len() * 8) {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_right(&flipped), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert!(parse(&[good, vec![0]].concat()).is_err());
    }

    /// Forged files: wrong lengths and reserved bytes under the right checksum.
    #[test]
    fn lengths_and_reserved_bytes_are_checked() {
        let forged = |change: fn(&mut Header)| {
            let mut file = file(64);
            let mut header = parse(&file).unwrap();
            change(&mut header);
            header.crc = record_crc(bytemuck::bytes_of(&header), &[]);
            file[..HEADER_LEN].copy_from_slice(bytemuck::bytes_of(&header));
            parse(&file).map_err(|error| error.to_string())
        };
        assert!(forged(|_| {}).is_ok());
        assert!(forged(|header| header.body_len = u64::MAX - 7).unwrap_err().contains("324 bytes"));
        assert!(forged(|header| header.file_len += 1).unwrap_err().contains("324 bytes"));
        assert!(forged(|header| header.block_len_log2 = 11).unwrap_err().contains("2^11"));
        assert!(forged(|header| header.refused[3] = 1).unwrap_err().contains("reserved"));
        assert!(forged(|header| header.zeros[2] = 1).unwrap_err().contains("reserved"));
        assert!(forged(|header| header.head.zeros[2] = 1).unwrap_err().contains("reserved"));
        assert!(forged(|header| header.head.len = 8).unwrap_err().contains("header of 8 bytes"));
        assert!(forged(|header| header.head.incompat = 1).unwrap_err().contains("incompat"));
        assert!(forged(|header| header.ignored[3] = 1).is_ok());
        assert!(forged(|header| header.head.version_minor = 9).is_ok());
    }

    /// A later minor version may have a longer header.
    #[test]
    fn a_longer_header_is_read() {
        let good = file(64);
        let mut long = [&good[..252], &[7; 64], &good[252..]].concat();
        long[12..16].copy_from_slice(&320u32.to_le_bytes());
        long[104..112].copy_from_slice(&(good.len() as u64 + 64).to_le_bytes());
        let crc = crc32fast::hash(&long[..316]);
        long[316..320].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(parse(&long).unwrap().body(), Some(320..384));
        assert!(is_right(&long));
    }
}
