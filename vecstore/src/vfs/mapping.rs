//! Read-only bytes of a whole file, from a memory map or from the heap.

use std::ops::Deref;

use bytemuck::{Pod, Zeroable};

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
        mapping.heap_mut().copy_from_slice(bytes);
        mapping
    }

    /// Aligned heap memory that is still to be filled.
    pub(super) fn zeroed(len: usize) -> Self {
        Mapping(Inner::Heap { chunks: vec![Chunk([0; 64]); len.div_ceil(64)], len })
    }

    /// The bytes of heap memory; none of what is mapped.
    pub(super) fn heap_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Inner::Mapped(_) => &mut [],
            Inner::Heap { chunks, len } => {
                bytemuck::cast_slice_mut::<Chunk, u8>(chunks).get_mut(..*len).unwrap_or_default()
            }
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Heap { chunks, len } => {
                bytemuck::cast_slice::<Chunk, u8>(chunks).get(..*len).unwrap_or_default()
            }
        }
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
}
