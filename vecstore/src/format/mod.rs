//! The bytes on disk, one concept per file; `docs/FORMAT.md` specifies them.
//!
//! All integers are little-endian. Records are cast straight from the file, so this crate builds for
//! little-endian machines only.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytemuck::{Pod, Zeroable};

use crate::base::{Bug, DType, Error, Result};
use crate::types::{MAX_DIM, Metric};

pub(crate) mod blocks;
pub(crate) mod columns;
pub(crate) mod derived;
pub(crate) mod footer;
pub(crate) mod npy;
pub(crate) mod records;
pub(crate) mod rejected;
pub(crate) mod section;
pub(crate) mod settings;

/// Major version of the format that this crate writes; a reader refuses any other.
pub(crate) const VERSION_MAJOR: u16 = 1;
/// Minor version that this crate writes; a reader reads every minor version of its major version.
pub(crate) const VERSION_MINOR: u16 = 0;

/// Incompat flags that this version knows: a file with any other cannot be read. Version 1.0 defines none.
pub(crate) const KNOWN_INCOMPAT: u64 = 0;
/// Ro-compat flags that this version knows: with any other in a file, a store can be read but not written.
/// Version 1.0 defines none.
const KNOWN_RO_COMPAT: u64 = 0;
/// Compat flag of a segment: entries of its commits were lost. A repair sets it in the file that it puts in
/// place of a damaged or missing one.
pub(crate) const COMPAT_LOST: u64 = 1;
/// Compat flags (bits 0 to 31) that the output of a merge has if any input has them. Bits 32 to 47 are
/// dropped by a merge.
pub(crate) const COMPAT_KEPT: u64 = 0x0000_0000_FFFF_FFFF;
/// Compat flags (bits 48 to 63) that keep merges from a file. Version 1.0 knows none of them.
pub(crate) const COMPAT_UNMERGEABLE: u64 = 0xFFFF_0000_0000_0000;

/// Largest commit number, so low that the next number can always be computed.
pub(crate) const MAX_COMMIT: u64 = u64::MAX / 2;

/// Fails if a file has ro-compat flags that this version does not know: its store must not be written.
pub(crate) fn check_may_write(path: &Path, ro_compat: u64) -> Result<()> {
    if ro_compat & !KNOWN_RO_COMPAT == 0 {
        return Ok(());
    }
    Err(Error::UnsupportedVersion {
        path: path.to_owned(),
        expected: format!("{KNOWN_RO_COMPAT:#x} of those that keep from writing (open read-only to read)"),
        found: format!("ro-compat flags {ro_compat:#x}"),
    })
}

/// A 128-bit random number: ids of stores, epochs, nonces and links.
pub(crate) type Id = [u8; 16];

/// The 64-bit key hash: XXH64 with seed 0.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(0, key)
}

/// Code of the only kind of checksum in this version: CRC-32 (IEEE).
pub(crate) const CHECKSUM_CRC32: u8 = 1;

/// CRC-32 over a record without its last four bytes (the checksum itself), then over `rest`, the bytes after
/// the record.
pub(crate) fn record_crc(record: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(record.split_last_chunk::<4>().map_or(&[][..], |(before, _)| before));
    hasher.update(rest);
    hasher.finalize()
}

/// First fields in the header of a manifest and of a derived file. The header ends with a checksum of four
/// bytes; a later version adds fields before the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Preamble {
    pub magic: [u8; 8],
    pub version_major: u16,
    pub version_minor: u16,
    /// Length of the whole header, checksum included.
    pub len: u32,
    pub checksum: u8,
    pub zeros: [u8; 7],
    pub incompat: u64,
    pub ro_compat: u64,
    pub compat: u64,
}

/// The longest header a later version may write.
const MAX_HEADER_LEN: usize = 4096;

impl Preamble {
    pub const fn of(magic: [u8; 8], len: usize) -> Self {
        Preamble {
            magic,
            version_major: VERSION_MAJOR,
            version_minor: VERSION_MINOR,
            len: len as u32,
            checksum: CHECKSUM_CRC32,
            zeros: [0; 7],
            incompat: 0,
            ro_compat: 0,
            compat: 0,
        }
    }
}

/// Fails for a file that only a later version can read.
pub(crate) fn check_features(path: &Path, version: (u16, u16), checksum: u8, incompat: u64) -> Result<()> {
    let refused = |found: String| {
        let expected = format!("{VERSION_MAJOR}.{VERSION_MINOR} and checksums of kind {CHECKSUM_CRC32}");
        Err(Error::UnsupportedVersion { path: path.to_owned(), expected, found })
    };
    let (major, minor) = version;
    if major != VERSION_MAJOR || incompat & !KNOWN_INCOMPAT != 0 {
        return refused(format!("format version {major}.{minor} with incompat flags {incompat:#x}"));
    }
    if checksum != CHECKSUM_CRC32 {
        return refused(format!("format version {major}.{minor} with checksums of kind {checksum}"));
    }
    Ok(())
}

/// Bytes that the checksum of a header covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Covers {
    Header,
    WholeFile,
}

/// Reads the header at the start of a file, and returns it with the bytes after it. Checks magic number,
/// checksum (unless the bug `trusts` is on) and version. For errors, `what` names the kind of file and
/// `section` the part of it.
pub(crate) fn read_header<'a, T: Pod>(
    (path, section, what): (&Path, &str, &str),
    bytes: &'a [u8],
    magic: [u8; 8],
    (covers, trusts): (Covers, Bug),
) -> Result<(T, &'a [u8])> {
    let damaged = |detail: String| Err(Error::damaged(path, section, detail));
    let size = size_of::<T>();
    let Some(front) = bytes.get(..size) else {
        return damaged(format!("expected at least {size} bytes, found {}", bytes.len()));
    };
    let preamble: Preamble =
        bytemuck::pod_read_unaligned(front.get(..size_of::<Preamble>()).unwrap_or_default());
    if preamble.magic != magic {
        let found = format!("found other bytes (truncated, extended, or no {what})");
        return damaged(format!("expected the magic number of a {what}, {found}"));
    }
    let len = preamble.len as usize;
    let is_len = (size..=MAX_HEADER_LEN).contains(&len) && len.is_multiple_of(8);
    let Some((head, rest)) = bytes.split_at_checked(len).filter(|_| is_len) else {
        return damaged(format!("a header of {len} bytes is not possible"));
    };
    let covered = if covers == Covers::WholeFile { rest } else { &[] };
    let crc: [u8; 4] = head.last_chunk().copied().unwrap_or_default();
    if u32::from_le_bytes(crc) != record_crc(head, covered) && !trusts.is_on() {
        return damaged("its checksum does not match".to_owned());
    }
    let version = (preamble.version_major, preamble.version_minor);
    check_features(path, version, preamble.checksum, preamble.incompat)?;
    if preamble.zeros != [0; 7] {
        return damaged("reserved bytes are not zero".to_owned());
    }
    let known = front.get(..size - crc.len()).unwrap_or_default();
    Ok((bytemuck::pod_read_unaligned(&[known, &crc].concat()), rest))
}

/// Fails if no store, or only one of a later version, can have this dimension, element type and metric. For
/// errors, `place` is the file and the part of it.
pub(crate) fn check_vectors(place: (&Path, &str), dim: u32, dtype: u8, metric: u8) -> Result<()> {
    let (path, section) = place;
    if let Some(name) = crate::base::dtype::reserved_name(dtype) {
        let (expected, found) = ("f32, f16, bf16 and i8".to_owned(), format!("elements of type {name}"));
        return Err(Error::UnsupportedVersion { path: path.to_owned(), expected, found });
    }
    let damaged = |detail: String| Err(Error::damaged(path, section, detail));
    if DType::from_code(dtype).is_none() || Metric::from_code(metric).is_none() {
        return damaged(format!("unknown element type {dtype} or metric {metric}"));
    }
    if dim == 0 || dim as usize > MAX_DIM {
        return damaged(format!("dimension {dim} is not possible"));
    }
    Ok(())
}

/// A fresh random id.
pub(crate) fn random_id() -> Result<Id> {
    random_ids().map(|[id]| id)
}

/// Several random ids from a single call of the operating system.
pub(crate) fn random_ids<const N: usize>() -> Result<[Id; N]> {
    let mut ids = [[0; 16]; N];
    crate::base::sync::fill_random(ids.as_flattened_mut()).map_err(|error| {
        let error = std::io::Error::other(error.to_string());
        Error::io(std::path::Path::new("/dev/urandom"), "get random numbers from the operating system", error)
    })?;
    Ok(ids)
}

/// Milliseconds since 1970 by the system's clock. The times in files are for people: nothing depends on them.
pub(crate) fn milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(0))
}

/// Time from milliseconds since 1970; `None` for 0, which means unknown.
pub(crate) fn system_time(milliseconds: u64) -> Option<SystemTime> {
    let since = Some(milliseconds).filter(|milliseconds| *milliseconds > 0).map(Duration::from_millis)?;
    UNIX_EPOCH.checked_add(since)
}

/// An id in hexadecimal, for names of temporary files and messages.
pub(crate) fn hex(id: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    id.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn hex_has_two_digits_per_byte() {
        assert_eq!(super::hex(&[0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
    }

    /// The hash is part of the format: these values are from the specification of XXH64.
    #[test]
    fn key_hash_is_xxh64() {
        assert_eq!(super::key_hash(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(super::key_hash(b"abc"), 0x44BC_2CF5_AD77_0999);
    }
}
