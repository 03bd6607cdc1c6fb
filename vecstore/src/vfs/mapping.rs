//! Read-only bytes of a whole file, from a memory map or from the heap.

use std::io;
use std::ops::Deref;

use bytemuck::{Pod, Zeroable};

use super::ReadAt;

/// From this length on, blank bytes are the operating system's: those that stay blank cost no memory.
const LARGE: usize = 1 << 20;

/// Bytes of a file, aligned to at least 64 bytes at the start.
///
/// The simulated file system hands out heap bytes; the real one maps. Published files are never written or
/// truncated by this crate, which is what makes mapping them sound (see `RealFs`).
#[derive(Debug)]
pub struct Mapping(Inner);

#[derive(Debug)]
enum Inner {
    Mapped(memmap2::Mmap),
    Heap { chunks: Vec<Chunk>, len: usize },
    Blank(memmap2::MmapMut),
}

/// 64 bytes aligned like a cache line, so that heap bytes can be cast as mapped ones can.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Chunk([u8; 64]);

impl Mapping {
    pub(super) fn mapped(map: memmap2::Mmap) -> Self {
        Mapping(Inner::Mapped(map))
    }

    /// Copies bytes to aligned heap memory.
    pub fn heap(bytes: &[u8]) -> Self {
        let mut mapping = Self::zeroed(bytes.len());
        mapping.bytes_mut().copy_from_slice(bytes);
        mapping
    }

    /// Aligned heap memory that is still to be filled.
    pub(super) fn zeroed(len: usize) -> Self {
        Mapping(Inner::Heap { chunks: vec![Chunk([0; 64]); len.div_ceil(64)], len })
    }

    /// Zeros, of which only those that are overwritten take memory.
    pub(crate) fn blank(len: usize) -> io::Result<Self> {
        if len < LARGE {
            return Ok(Self::zeroed(len));
        }
        memmap2::MmapOptions::new()
            .len(len)
            .no_reserve_swap()
            .map_anon()
            .map(|map| Mapping(Inner::Blank(map)))
    }

    /// Puts bytes at their place. Zeros are there already: a file of holes takes no memory.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        static ZEROS: [u8; 4096] = [0; 4096];
        let places = self.bytes_mut().get_mut(at..).unwrap_or_default().chunks_mut(ZEROS.len());
        for (place, bytes) in places.zip(bytes.chunks(ZEROS.len())) {
            if ZEROS.get(..bytes.len()) != Some(bytes)
                && let Some(place) = place.get_mut(..bytes.len())
            {
                place.copy_from_slice(bytes);
            }
        }
    }

    /// The bytes, where they are not those of a file.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Inner::Mapped(_) => &mut [],
            Inner::Blank(map) => map,
            Inner::Heap { chunks, len } => {
                bytemuck::cast_slice_mut::<Chunk, u8>(chunks).get_mut(..*len).unwrap_or_default()
            }
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Blank(map) => map,
            Inner::Heap { chunks, len } => {
                bytemuck::cast_slice::<Chunk, u8>(chunks).get(..*len).unwrap_or_default()
            }
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
    fn heap_bytes_are_aligned_and_exact() {
        for len in [0, 1, 63, 64, 65, 4096, 5000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mapping = Mapping::heap(&bytes);
            assert_eq!(&*mapping, &bytes[..]);
            assert_eq!(mapping.as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn blank_bytes_are_zeros_that_can_be_overwritten() {
        for len in [0, 100, LARGE, LARGE + 100] {
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
