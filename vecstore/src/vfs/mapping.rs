//! Read-only bytes of a whole file: a memory map, or a copy.

use std::io;
use std::ops::Deref;

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::ReadAt;

/// Bytes of a file; their start is aligned to at least 64 bytes.
///
/// [`RealFs`](super::RealFs) maps files, the simulated disk of the tests copies them. Mapping is sound
/// because this crate never writes or truncates published files (see `map_file` in `vfs/real.rs`).
#[derive(Debug)]
pub struct Mapping {
    inner: Inner,
    checked: bool,
}

#[derive(Debug)]
enum Inner {
    File(Mmap),
    Copy(MmapMut),
}

impl Mapping {
    pub(super) fn mapped(map: Mmap) -> Self {
        Mapping { inner: Inner::File(map), checked: false }
    }

    /// A mapping of a copy of these bytes.
    pub fn copied(bytes: &[u8]) -> io::Result<Self> {
        let mut mapping = Self::blank(bytes.len())?;
        mapping.put(0, bytes);
        Ok(mapping)
    }

    /// A mapping of zeros; only pages that are overwritten take memory.
    pub(crate) fn blank(len: usize) -> io::Result<Self> {
        MmapOptions::new()
            .len(len)
            .no_reserve_swap()
            .map_anon()
            .map(|map| Mapping { inner: Inner::Copy(map), checked: false })
    }

    /// Asks readers to compare checksums of what they read.
    pub(crate) fn with_checks(self) -> Self {
        Mapping { checked: true, ..self }
    }

    /// True if readers compare checksums of what they read.
    pub(crate) fn has_checks(&self) -> bool {
        self.checked
    }

    /// Writes bytes into a copy. Pieces of zeros are skipped, so that a sparse file takes no memory.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        static ZEROS: [u8; 4096] = [0; 4096];
        let Inner::Copy(map) = &mut self.inner else { return };
        let places = map.get_mut(at..).unwrap_or_default().chunks_mut(ZEROS.len());
        for (place, bytes) in places.zip(bytes.chunks(ZEROS.len())) {
            if ZEROS.get(..bytes.len()) != Some(bytes)
                && let Some(place) = place.get_mut(..bytes.len())
            {
                place.copy_from_slice(bytes);
            }
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.inner {
            Inner::File(map) => map,
            Inner::Copy(map) => map,
        }
    }
}

impl ReadAt for Mapping {
    fn byte_len(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let bytes = start.checked_add(buf.len()).and_then(|end| self.get(start..end));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_bytes_are_aligned_and_exact() {
        for len in [0, 1, 63, 64, 65, 4096, 5000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mapping = Mapping::copied(&bytes).unwrap();
            assert_eq!(&*mapping, &bytes[..]);
            assert_eq!(mapping.as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn blank_bytes_are_zeros_that_can_be_overwritten() {
        for len in [0, 100, 1 << 20, (1 << 20) + 100] {
            let mut mapping = Mapping::blank(len).unwrap();
            assert_eq!(mapping.len(), len);
            assert!(mapping.iter().all(|byte| *byte == 0));
            assert_eq!(mapping.as_ptr() as usize % 64, 0);
            mapping.put(len.saturating_sub(1), &[7, 8, 9][..len.min(1)]);
            let mut read = vec![0; len.min(3)];
            mapping.read_at(&mut read, (len - len.min(3)) as u64).unwrap();
            assert_eq!(read.last().copied(), (len > 0).then_some(7));
            assert!(mapping.read_at(&mut [0], len as u64).is_err(), "after the end");
        }
    }
}
