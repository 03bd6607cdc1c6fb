//! The bytes on disk, one concept per file. `docs/FORMAT.md` is the same in words.
//!
//! All integers are little-endian. Records are cast straight from the file, so this crate builds for
//! little-endian machines only.

use std::path::Path;

use bytemuck::{Pod, Zeroable};

use crate::base::{Bug, DType, Error, Result};
use crate::types::{MAX_DIM, Metric};

pub(crate) mod bitmap;
pub(crate) mod blocks;
#[allow(dead_code, unused_imports, reason = "segments do not have attributes yet")]
pub(crate) mod columns;
pub(crate) mod footer;
pub(crate) mod npy;
pub(crate) mod records;
pub(crate) mod rejected;
pub(crate) mod section;
pub(crate) mod settings;

/// Version of the format this crate writes.
pub(crate) const VERSION_MAJOR: u16 = 1;
/// Minor version: readers of the same major version read all minor ones.
pub(crate) const VERSION_MINOR: u16 = 0;

/// Feature flags without which a file cannot be read. Version 1.0 defines none.
pub(crate) const KNOWN_INCOMPAT: u64 = 0;
/// Feature flags without which a file may be read, but a store not be written. Version 1.0 defines none.
const KNOWN_RO_COMPAT: u64 = 0;
/// Compat flag of a segment: entries of its commits were lost, and a repair put this file in place of a
/// damaged one.
pub(crate) const COMPAT_LOST: u64 = 1;

/// Commit numbers end here, so that the next one can always be computed.
pub(crate) const MAX_COMMIT: u64 = u64::MAX / 2;

/// Refuses to write to a store one of whose files has flags that this program does not know.
pub(crate) fn check_may_write(path: &Path, ro_compat: u64) -> Result<()> {
    if ro_compat & !KNOWN_RO_COMPAT == 0 {
        return Ok(());
    }
    Err(Error::UnsupportedVersion {
        path: path.to_owned(),
        expected: format!("ro-compat flags {KNOWN_RO_COMPAT:#x} to write (open read-only to read)"),
        found: format!("ro-compat flags {ro_compat:#x}"),
    })
}

/// A 128-bit random number: ids of stores, epochs, nonces and links.
pub(crate) type Id = [u8; 16];

/// The 64-bit key hash: XXH64 with seed 0.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(0, key)
}

/// CRC-32 of a record before its last field (this checksum), then of the bytes that follow the record.
pub(crate) fn record_crc(record: &impl bytemuck::NoUninit, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytemuck::bytes_of(record).split_last_chunk::<4>().map_or(&[][..], |(before, _)| before));
    hasher.update(rest);
    hasher.finalize()
}

/// What a footer, a bitmap and a manifest begin with. They end with a checksum of four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Preamble {
    pub magic: [u8; 8],
    pub version_major: u16,
    pub version_minor: u16,
    /// Length of the record that begins with this; zero in a manifest.
    pub len: u32,
    pub incompat: u64,
}

impl Preamble {
    pub const fn of(magic: [u8; 8], len: usize) -> Self {
        let (version_major, version_minor) = (VERSION_MAJOR, VERSION_MINOR);
        Preamble { magic, version_major, version_minor, len: len as u32, incompat: 0 }
    }
}

/// Reads the record that a file, or its footer, begins with, and returns what follows. Its magic number, its
/// checksum (unless a bug `trusts` it) and its version are right; `what` names the kind of file, `section`
/// the part of it.
pub(crate) fn read_record<'a, T: Pod>(
    (path, section, what): (&Path, &str, &str),
    bytes: &'a [u8],
    magic: [u8; 8],
    trusts: Bug,
) -> Result<(T, &'a [u8])> {
    let damaged = |detail: String| Err(Error::damaged(path, section, detail));
    let Some((head, rest)) = bytes.split_at_checked(size_of::<T>()) else {
        return damaged(format!("expected at least {} bytes, found {}", size_of::<T>(), bytes.len()));
    };
    let record: T = bytemuck::pod_read_unaligned(head);
    let found: Preamble = bytemuck::pod_read_unaligned(head.get(..size_of::<Preamble>()).unwrap_or_default());
    if found.magic != magic {
        let found = format!("found other bytes (truncated, extended, or no {what})");
        return damaged(format!("expected the magic number of a {what}, {found}"));
    }
    let crc = head.last_chunk().map(|crc| u32::from_le_bytes(*crc));
    if crc != Some(record_crc(&record, rest)) && !trusts.is_on() {
        return damaged("its checksum does not match".to_owned());
    }
    if found.version_major != VERSION_MAJOR || found.incompat & !KNOWN_INCOMPAT != 0 {
        let (major, minor, incompat) = (found.version_major, found.version_minor, found.incompat);
        return Err(Error::UnsupportedVersion {
            path: path.to_owned(),
            expected: format!("{VERSION_MAJOR}.{VERSION_MINOR}"),
            found: format!("{major}.{minor} with incompat flags {incompat:#x}"),
        });
    }
    Ok((record, rest))
}

/// Refuses vectors that no store can hold; the error says why.
pub(crate) fn check_vectors(dim: u32, dtype: u8, metric: u8) -> Result<(), String> {
    if DType::from_code(dtype).is_none() || Metric::from_code(metric).is_none() {
        return Err(format!("unknown element type {dtype} or metric {metric}"));
    }
    if dim == 0 || dim as usize > MAX_DIM {
        return Err(format!("dimension {dim} is not possible"));
    }
    Ok(())
}

/// A fresh random id.
pub(crate) fn random_id() -> Result<Id> {
    random_ids().map(|[id]| id)
}

/// Several random ids, asking the system once.
pub(crate) fn random_ids<const N: usize>() -> Result<[Id; N]> {
    let mut ids = [[0; 16]; N];
    crate::base::sync::fill_random(ids.as_flattened_mut()).map_err(|error| {
        Error::bad_input(format!("the operating system gives no random numbers: {error}"))
    })?;
    Ok(ids)
}

/// An id in hexadecimal, for names of temporary files and messages.
pub(crate) fn hex(id: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    id.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_in_hexadecimal_are_two_digits_a_byte() {
        assert_eq!(super::hex(&[0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
    }

    /// The hash is part of the format: these values are from the specification of XXH64.
    #[test]
    fn key_hash_is_xxh64() {
        assert_eq!(super::key_hash(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(super::key_hash(b"abc"), 0x44BC_2CF5_AD77_0999);
    }
}
