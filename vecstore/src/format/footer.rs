//! The last 1024 bytes of a segment: its identity, its place in the chain, its sections.

use bytemuck::{Pod, Zeroable};
use std::path::Path;

use super::blocks::BLOCK_LEN_LOG2;
use super::section::Section;
use super::{Id, MAX_COMMIT, Preamble, check_vectors, read_record, record_crc};
use crate::base::{Bug, Error, Result};

/// First eight bytes of the footer.
pub(crate) const MAGIC: [u8; 8] = *b"\x89VECSEG\n";
/// Length of the footer.
pub(crate) const FOOTER_LEN: usize = 1024;
/// Lines in the section table.
pub(crate) const MAX_SECTIONS: usize = 20;

/// The footer, as it lies in the file. `docs/FORMAT.md` has the offsets.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Footer {
    pub head: Preamble,
    pub ro_compat: u64,
    pub compat: u64,
    /// Of the store, random, for ever.
    pub store_id: Id,
    /// Of the history, random: new at creation, restore, first write to a backup, repair.
    pub epoch: Id,
    /// Of this file, random.
    pub nonce: Id,
    /// The predecessor's `link_out`; for commit 1 the first epoch.
    pub link_in: Id,
    /// Random for a fresh commit; copies and merges keep their last input's.
    pub link_out: Id,
    /// All zero while the store has none.
    pub fingerprint: [u8; 32],
    /// First commit number covered.
    pub first: u64,
    /// Last commit number covered.
    pub last: u64,
    /// Generation for this range of commits, as in the file's name.
    pub generation: u32,
    pub dim: u32,
    pub dtype: u8,
    pub metric: u8,
    pub block_len_log2: u8,
    pub section_count: u8,
    /// Version 1.0 defines none: zero.
    pub flags: u32,
    pub entries: u64,
    pub rows: u64,
    /// Entries of each kind, by code.
    pub kinds: [u64; 4],
    /// Entries of each kind that the KILL section kills.
    pub killed: [u64; 4],
    /// Their rows.
    pub killed_rows: u64,
    /// Length of the whole file, this footer included.
    pub file_len: u64,
    pub reserved: [u8; 96],
    pub sections: [Section; MAX_SECTIONS],
    /// Zero.
    pub tail: [u8; 4],
    /// CRC-32 over everything before it in the footer.
    pub crc: u32,
}

const _: () = assert!(size_of::<Footer>() == FOOTER_LEN);

impl Footer {
    /// A footer with magic, version and block length set, and nothing else.
    pub fn empty() -> Self {
        Footer { head: Preamble::of(MAGIC, FOOTER_LEN), block_len_log2: BLOCK_LEN_LOG2, ..Footer::zeroed() }
    }

    /// What a new file of the same commits keeps of this one.
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
            ..Footer::empty()
        }
    }

    /// Sets the checksum; nothing may change after it.
    pub fn seal(&mut self) {
        self.crc = record_crc(self, &[]);
    }

    /// The bytes to write.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::bytes_of(self)
    }

    /// Reads and checks the footer of a file, without trusting a single number in it.
    ///
    /// Afterwards: the checksum is right, version and flags are known, element type, metric and dimension are
    /// possible, the range of commits is not empty, and the file has the length that the footer says.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self> {
        let bytes = file.last_chunk().ok_or_else(|| {
            let detail = format!("expected at least {FOOTER_LEN} bytes, found {}", file.len());
            Error::damaged(path, "footer", detail)
        })?;
        Self::parse_bytes(path, bytes, file.len() as u64)
    }

    /// As [`Footer::parse`], from the footer's own bytes in a file of this length.
    pub fn parse_bytes(path: &Path, bytes: &[u8; FOOTER_LEN], file_len: u64) -> Result<Self> {
        let (footer, _): (Footer, _) =
            read_record((path, "footer", "segment"), bytes, MAGIC, Bug::TrustFooter)?;
        let wrong = |detail: String| Err(Error::damaged(path, "footer", detail));
        if footer.file_len != file_len && !Bug::TrustFileLength.is_on() {
            return wrong(format!("expected a file of {} bytes, found {file_len}", footer.file_len));
        }
        if footer.head.len as usize != FOOTER_LEN
            || footer.block_len_log2 != BLOCK_LEN_LOG2
            || usize::from(footer.section_count) > MAX_SECTIONS
        {
            return wrong("lengths that version 1.0 does not have".to_owned());
        }
        if footer.reserved != [0; 96] || footer.tail != [0; 4] || footer.flags != 0 {
            return wrong("reserved bytes are not zero".to_owned());
        }
        if let Err(detail) = check_vectors(footer.dim, footer.dtype, footer.metric) {
            return wrong(detail);
        }
        if footer.first == 0 || footer.first > footer.last || footer.last > MAX_COMMIT {
            return wrong(format!("commits {} to {} are no range", footer.first, footer.last));
        }
        Ok(footer)
    }

    /// The used lines of the section table.
    pub fn sections(&self) -> &[Section] {
        self.sections.get(..usize::from(self.section_count)).unwrap_or_default()
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
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let bytes = sealed();
        let parse = |len| Footer::parse_bytes(Path::new("x"), bytemuck::cast_ref(&bytes), len);
        assert!(parse(FOOTER_LEN as u64).is_ok());
        for len in [FOOTER_LEN as u64 - 1, FOOTER_LEN as u64 + 1, 2 * FOOTER_LEN as u64] {
            let error = parse(len).unwrap_err().to_string();
            assert!(error.contains(&format!("expected a file of 1024 bytes, found {len}")), "{error}");
        }
    }

    #[test]
    fn a_later_version_is_named() {
        let mut footer = sealed();
        footer.head.version_major = 2;
        footer.seal();
        let error = Footer::parse(Path::new("x"), footer.bytes()).unwrap_err().to_string();
        assert!(error.contains("2.0") && error.contains("1.0"), "{error}");
        let mut footer = sealed();
        footer.head.incompat = 8;
        footer.seal();
        assert!(matches!(
            Footer::parse(Path::new("x"), footer.bytes()),
            Err(Error::UnsupportedVersion { .. })
        ));
    }
}
