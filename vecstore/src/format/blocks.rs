//! Checksums per block.
//!
//! Every section is cut into blocks of 64 KiB (the last one shorter). Each has a CRC-32 (IEEE, as in zlib) in
//! the CRCS section, which locates a flipped bit to 64 KiB, and which a merge can carry over.

/// Bytes per block.
pub(crate) const BLOCK_LEN: usize = 1 << BLOCK_LEN_LOG2;
/// The block length as an exponent of two, as the footer stores it.
pub(crate) const BLOCK_LEN_LOG2: u8 = 16;

/// Computes block checksums of a section that arrives in pieces.
#[derive(Debug, Default)]
pub(crate) struct BlockHasher {
    hasher: crc32fast::Hasher,
    filled: usize,
    crcs: Vec<u32>,
}

impl BlockHasher {
    /// Adds the section's next bytes.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(BLOCK_LEN - self.filled));
            self.hasher.update(now);
            self.filled += now.len();
            if self.filled == BLOCK_LEN {
                self.close_block();
            }
            data = later;
        }
    }

    fn close_block(&mut self) {
        self.crcs.push(std::mem::take(&mut self.hasher).finalize());
        self.filled = 0;
    }

    /// The checksums of all blocks of the section; the hasher is then ready for the next section.
    pub fn finish(&mut self) -> Vec<u32> {
        if self.filled > 0 {
            self.close_block();
        }
        std::mem::take(&mut self.crcs)
    }
}

/// Number of blocks of a section.
pub(crate) fn block_count(len: u64) -> u64 {
    len.div_ceil(BLOCK_LEN as u64)
}

/// A section's checksum: the CRC-32 of its block checksums as little-endian bytes.
pub(crate) fn section_crc(block_crcs: &[u32]) -> u32 {
    crc32fast::hash(bytemuck::cast_slice(block_crcs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_matter() {
        let data: Vec<u8> = (0..3 * BLOCK_LEN + 17).map(|i| (i * 7 % 256) as u8).collect();
        let whole: Vec<u32> = data.chunks(BLOCK_LEN).map(crc32fast::hash).collect();
        for piece in [1000, BLOCK_LEN, BLOCK_LEN + 1, data.len()] {
            let mut hasher = BlockHasher::default();
            data.chunks(piece).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), whole, "pieces of {piece}");
            assert!(hasher.finish().is_empty());
        }
        assert_eq!(whole.len() as u64, block_count(data.len() as u64));
    }
}
