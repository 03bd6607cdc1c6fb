//! The footer of a segment: identity, place in the chain of segments, and position of the section table.
//!
//! The last bytes of the file say how long the footer is, so that a later version can add fields.

use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use std::path::Path;

use super::blocks::{BLOCK_LEN_LOG2, is_block_len};
use super::section::{ALIGN, LINE_LEN, Section, parse_table};
use super::{
    CHECKSUM_CRC32, Id, MAX_COMMIT, VERSION_MAJOR, VERSION_MINOR, check_features, check_vectors, record_crc,
};
use crate::base::{Bug, Error, Result};

/// Magic number of a segment: the eight bytes before the file's last eight.
pub(crate) const MAGIC: [u8; 8] = *b"\x89VECSEG\n";
/// Length of the footer that this version writes, and the shortest possible one.
pub(crate) const FOOTER_LEN: usize = 512;
/// Length of the longest footer that a later version may write.
const MAX_FOOTER_LEN: usize = 1 << 16;
/// Length of the tail, which ends every footer: footer length, version, magic number, checksum.
pub(crate) const TAIL_LEN: usize = 32;
/// Largest number of lines in a section table.
pub const MAX_SECTIONS: u32 = 1024;
/// Offset of the magic number in the tail.
pub(crate) const MAGIC_AT: usize = 16;

/// The footer, as it lies in the file. `docs/FORMAT.md` has the offsets.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Footer {
    /// Id of the store, random, never changed.
    pub store_id: Id,
    /// Id of the epoch, random. A new epoch begins at creation, restore, first write to a backup, and repair.
    pub epoch: Id,
    /// Id of this file, random.
    pub nonce: Id,
    /// `link_out` of the segment before; for commit 1 the id of the first epoch.
    pub link_in: Id,
    /// Random for a fresh commit; a copy or merge keeps that of its last input.
    pub link_out: Id,
    /// Fingerprint of the vectors' origin; zeros while the store has none.
    pub fingerprint: [u8; 32],
    /// First commit in the file.
    pub first: u64,
    /// Last commit in the file.
    pub last: u64,
    /// Number that tells files of the same commits apart, as in the file's name.
    pub generation: u32,
    pub dim: u32,
    pub dtype: u8,
    pub metric: u8,
    pub block_len_log2: u8,
    pub zero: u8,
    /// Number of lines in the section table.
    pub section_count: u32,
    pub entries: u64,
    pub rows: u64,
    /// Entries of each kind, by code.
    pub kinds: [u64; 4],
    /// Entries of each kind that the KILL section names.
    pub killed: [u64; 4],
    /// Rows of the entries that the KILL section names.
    pub killed_rows: u64,
    /// Length of the whole file, this footer included.
    pub file_len: u64,
    /// Offset of the section table.
    pub table_at: u64,
    /// CRC-32 of the section table.
    pub table_crc: u32,
    pub zeros: u32,
    /// Time of the last commit in milliseconds since 1970; 0 if unknown. For people.
    pub time: u64,
    /// The program that wrote the file, UTF-8, padded with zeros. For people.
    pub created_by: [u8; 32],
    pub incompat: u64,
    pub ro_compat: u64,
    pub compat: u64,
    /// Zero; a reader refuses anything else.
    pub refused: [u8; 64],
    /// Zero; a reader ignores it.
    pub ignored: [u8; 96],
    // A later version adds fields here. The fields below are the tail.
    /// Length of the footer, tail included.
    pub len: u32,
    pub version_major: u16,
    pub version_minor: u16,
    pub checksum: u8,
    pub tail_zeros: [u8; 7],
    pub magic: [u8; 8],
    pub last_zeros: u32,
    /// CRC-32 of the footer before this field.
    pub crc: u32,
}

const _: () = assert!(size_of::<Footer>() == FOOTER_LEN);

impl Footer {
    /// A footer in which only its length, the block length, version, kind of checksum, magic number and
    /// program are set.
    pub fn empty() -> Self {
        let mut created_by = [0; 32];
        let name = concat!("vecstore ", env!("CARGO_PKG_VERSION"));
        created_by.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte);
        Footer {
            magic: MAGIC,
            len: FOOTER_LEN as u32,
            version_major: VERSION_MAJOR,
            version_minor: VERSION_MINOR,
            checksum: CHECKSUM_CRC32,
            created_by,
            block_len_log2: BLOCK_LEN_LOG2,
            ..Footer::zeroed()
        }
    }

    /// The fields that a new file of the same commits keeps; all others as in [`Footer::empty`].
    pub fn identity(&self) -> Self {
        Footer {
            store_id: self.store_id,
            compat: self.compat,
            epoch: self.epoch,
            link_in: self.link_in,
            link_out: self.link_out,
            fingerprint: self.fingerprint,
            first: self.first,
            last: self.last,
            dim: self.dim,
            dtype: self.dtype,
            metric: self.metric,
            time: self.time,
            ..Footer::empty()
        }
    }

    /// The footer of a copy of the file under another generation, in the length that this version writes.
    pub fn of_copy(&self, generation: u32, nonce: Id) -> Self {
        let len = FOOTER_LEN as u32;
        let file_len = self.body_len() + u64::from(len);
        let mut footer = Footer { generation, nonce, file_len, len, ..*self };
        footer.seal();
        footer
    }

    /// Sets the checksum. No field may change afterwards.
    pub fn seal(&mut self) {
        self.crc = record_crc(bytemuck::bytes_of(self), &[]);
    }

    /// The footer as bytes.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::bytes_of(self)
    }

    /// Length of the footer of a file that ends with `tail`.
    pub fn len_of(path: &Path, tail: &[u8]) -> Result<usize> {
        let damaged = |detail: String| Err(Error::damaged(path, "footer", detail));
        let len = tail.first_chunk().map(|len| u32::from_le_bytes(*len) as usize);
        let (Some(len), TAIL_LEN) = (len, tail.len()) else {
            return damaged(format!("expected at least {FOOTER_LEN} bytes, found {}", tail.len()));
        };
        if tail.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) != Some(MAGIC.as_slice()) {
            let found = "found other bytes (truncated, extended, or no segment)";
            return damaged(format!("expected the magic number of a segment at the end, {found}"));
        }
        if !(FOOTER_LEN..=MAX_FOOTER_LEN).contains(&len) || !len.is_multiple_of(ALIGN as usize) {
            return damaged(format!("a footer of {len} bytes is not possible"));
        }
        Ok(len)
    }

    /// Reads and checks the footer of a file; trusts no number in it.
    ///
    /// A footer is returned if its checksum matches, version and flags are known, element type, metric and
    /// dimension are possible, the range of commits is valid, the file has the length that the footer says,
    /// and the section table lies in the file.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self> {
        let len = Self::len_of(path, file.last_chunk::<TAIL_LEN>().map_or(file, |tail| tail))?;
        let bytes = file.len().checked_sub(len).and_then(|start| file.get(start..));
        Self::parse_bytes(path, bytes.unwrap_or(file), file.len() as u64)
    }

    /// Reads and checks a footer as [`Footer::parse`] does, from its own bytes and the length of its file.
    pub fn parse_bytes(path: &Path, bytes: &[u8], file_len: u64) -> Result<Self> {
        let damaged = |detail: String| Err(Error::damaged(path, "footer", detail));
        let (front, tail) = (bytes.get(..FOOTER_LEN - TAIL_LEN), bytes.last_chunk::<TAIL_LEN>());
        let (Some(front), Some(tail)) = (front, tail) else {
            return damaged(format!("expected at least {FOOTER_LEN} bytes, found {}", bytes.len()));
        };
        let footer: Footer = bytemuck::pod_read_unaligned(&[front, tail].concat());
        if Self::len_of(path, tail)? != bytes.len() {
            return damaged(format!("expected {} bytes, found {}", footer.len, bytes.len()));
        }
        if footer.crc != record_crc(bytes, &[]) && !Bug::TrustFooter.is_on() {
            return damaged("its checksum does not match".to_owned());
        }
        check_features(path, (footer.version_major, footer.version_minor), footer.checksum, footer.incompat)?;
        if footer.file_len != file_len && !Bug::TrustFileLength.is_on() {
            return damaged(format!("expected a file of {} bytes, found {file_len}", footer.file_len));
        }
        if footer.refused != [0; 64]
            || footer.tail_zeros != [0; 7]
            || (u32::from(footer.zero), footer.zeros, footer.last_zeros) != (0, 0, 0)
        {
            return damaged("reserved bytes are not zero".to_owned());
        }
        if !is_block_len(footer.block_len_log2) {
            return damaged(format!("a block length of 2^{} is not possible", footer.block_len_log2));
        }
        check_vectors((path, "footer"), footer.dim, footer.dtype, footer.metric)?;
        if !file_len.is_multiple_of(ALIGN) && !Bug::TrustFileLength.is_on() {
            return damaged(format!("it ends at {file_len}, which is no multiple of {}", ALIGN));
        }
        if footer.first == 0 || footer.first > footer.last || footer.last > MAX_COMMIT {
            return damaged(format!("commits {} to {} are no range", footer.first, footer.last));
        }
        if footer.table().is_none() {
            return damaged("its section table does not lie in the file".to_owned());
        }
        Ok(footer)
    }

    /// Number of bytes before the footer.
    pub fn body_len(&self) -> u64 {
        self.file_len.saturating_sub(u64::from(self.len))
    }

    /// Range of the section table in the file; `None` if it is unaligned, too long or not before the footer.
    pub fn table(&self) -> Option<Range<usize>> {
        let start =
            usize::try_from(self.table_at).ok().filter(|start| start.is_multiple_of(ALIGN as usize))?;
        let end = start.checked_add(LINE_LEN.checked_mul(usize::try_from(self.section_count).ok()?)?)?;
        (end as u64 <= self.body_len() && self.section_count <= MAX_SECTIONS).then_some(start..end)
    }
}

/// Footer and section table of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub footer: Footer,
    pub sections: Vec<Section>,
}

impl Layout {
    /// Reads footer and section table. `file` has the length of the whole file, but bytes before the section
    /// table are not read.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self> {
        let footer = Footer::parse(path, file)?;
        let table = footer.table().and_then(|range| file.get(range)).unwrap_or_default();
        Ok(Layout { footer, sections: parse_table(path, table, footer.table_crc)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Footer {
        let mut footer = Footer::empty();
        footer.first = 1;
        footer.last = 2;
        footer.dim = 8;
        footer.dtype = 1;
        footer.metric = 1;
        footer.file_len = FOOTER_LEN as u64;
        footer.seal();
        footer
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sealed();
        assert!(Footer::parse(Path::new("x"), good.bytes()).is_ok());
        for bit in 0..FOOTER_LEN * 8 {
            let mut bytes = good.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::parse(Path::new("x"), &bytes).is_err(), "bit {bit}");
        }
        for cut in 0..FOOTER_LEN {
            assert!(Footer::parse(Path::new("x"), &good.bytes()[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let bytes = sealed();
        let parse = |len| Footer::parse_bytes(Path::new("x"), bytes.bytes(), len);
        assert!(parse(FOOTER_LEN as u64).is_ok());
        for len in [FOOTER_LEN as u64 - 1, FOOTER_LEN as u64 + 1, 2 * FOOTER_LEN as u64] {
            let error = parse(len).unwrap_err().to_string();
            assert!(error.contains(&format!("expected a file of 512 bytes, found {len}")), "{error}");
        }
    }

    #[test]
    fn a_later_version_is_named() {
        let changed = |change: fn(&mut Footer)| {
            let mut footer = sealed();
            change(&mut footer);
            footer.seal();
            let error = Footer::parse(Path::new("x"), footer.bytes()).unwrap_err();
            assert!(matches!(error, Error::UnsupportedVersion { .. }), "{error}");
            error.to_string()
        };
        let error = changed(|footer| footer.version_major = 2);
        assert!(error.contains("2.0") && error.contains("1.0"), "{error}");
        assert!(changed(|footer| footer.incompat = 8).contains("0x8"));
        assert!(changed(|footer| footer.checksum = 2).contains("checksums of kind 2"));
        assert!(changed(|footer| footer.dtype = 5).contains("u8"));
    }

    /// A later minor version has a longer footer, and sets bytes that readers of this version ignore.
    #[test]
    fn additions_of_a_later_version_are_ignored() {
        let mut footer = Footer { len: 640, file_len: 640, ignored: [7; 96], version_minor: 9, ..sealed() };
        let (front, tail) = footer.bytes().split_at(FOOTER_LEN - TAIL_LEN);
        let mut bytes = [front, &[9; 128], tail].concat();
        let crc = crc32fast::hash(&bytes[..636]);
        bytes[636..].copy_from_slice(&crc.to_le_bytes());
        footer.crc = crc;
        let parsed = Footer::parse(Path::new("x"), &bytes).unwrap();
        assert_eq!(parsed.bytes(), footer.bytes());
        assert_eq!((parsed.of_copy(1, [0; 16]).file_len, parsed.body_len()), (512, 0));
        for byte in 0..640 {
            let mut bytes = bytes.clone();
            bytes[byte] ^= 1;
            assert!(Footer::parse(Path::new("x"), &bytes).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn reserved_bytes_and_places_outside_the_file_are_refused() {
        type Change = fn(&mut Footer);
        let changes: [(&str, Change); 9] = [
            ("reserved bytes", |footer| footer.refused[63] = 1),
            ("reserved bytes", |footer| footer.tail_zeros[0] = 1),
            ("reserved bytes", |footer| footer.zero = 1),
            ("reserved bytes", |footer| footer.zeros = 1),
            ("reserved bytes", |footer| footer.last_zeros = 1),
            ("block length of 2^21", |footer| footer.block_len_log2 = 21),
            ("block length of 2^11", |footer| footer.block_len_log2 = 11),
            ("section table", |footer| footer.section_count = 1),
            ("section table", |footer| footer.table_at = u64::MAX - 63),
        ];
        for (what, change) in changes {
            let mut footer = sealed();
            change(&mut footer);
            footer.seal();
            let error = Footer::parse(Path::new("x"), footer.bytes()).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }
}
