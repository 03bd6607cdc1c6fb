//! Block checksums.
//!
//! Every section is cut into blocks (the last one may be shorter). The CRCS section has a CRC-32 (IEEE, as in
//! zlib) for each block, so that a flipped bit is located to a block. Small files have small blocks, so that
//! a flipped bit does not cost all their entries.

use std::ops::Range;

/// Block length of large files in bytes; files of any size are read in pieces of this length.
pub(crate) const BLOCK_LEN: usize = 1 << BLOCK_LEN_LOG2;
/// Block length of large files as an exponent of two, the form in the footer.
pub(crate) const BLOCK_LEN_LOG2: u8 = 16;
/// Block length of small files as an exponent of two.
pub(crate) const SMALL_BLOCK_LOG2: u8 = 12;
/// Largest total length of the sections of a small file, which then has a few hundred blocks.
const SMALL: u64 = 1 << 20;

/// True for block lengths that a reader accepts, as exponents of two.
pub(crate) fn is_block_len(log2: u8) -> bool {
    (12..=20).contains(&log2)
}

/// Block length, as an exponent of two, for a file with this many bytes of sections.
pub(crate) fn block_len_log2_for(bytes: u64) -> u8 {
    if bytes <= SMALL { SMALL_BLOCK_LOG2 } else { BLOCK_LEN_LOG2 }
}

/// Computes the block checksums of a section that arrives in pieces of any length.
#[derive(Debug)]
pub(crate) struct BlockHasher {
    block_len: usize,
    hasher: crc32fast::Hasher,
    filled: usize,
    crcs: Vec<u32>,
}

impl BlockHasher {
    /// A hasher for blocks of 2^`log2` bytes.
    pub fn new(log2: u8) -> Self {
        BlockHasher { block_len: 1 << log2, hasher: crc32fast::Hasher::new(), filled: 0, crcs: Vec::new() }
    }

    /// Adds the section's next bytes.
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(self.block_len - self.filled));
            self.hasher.update(now);
            self.filled += now.len();
            if self.filled == self.block_len {
                self.close_block();
            }
            data = later;
        }
    }

    fn close_block(&mut self) {
        self.crcs.push(std::mem::take(&mut self.hasher).finalize());
        self.filled = 0;
    }

    /// Returns the checksums of all blocks of the section; the hasher is then ready for the next section.
    pub fn finish(&mut self) -> Vec<u32> {
        if self.filled > 0 {
            self.close_block();
        }
        std::mem::take(&mut self.crcs)
    }
}

/// Number of blocks in a section of this length.
pub(crate) fn block_count(len: u64, log2: u8) -> u64 {
    len.div_ceil(1 << log2)
}

/// Cuts a range into blocks, the first of which begins at the start of the range.
pub(crate) fn blocks_of(range: Range<usize>, log2: u8) -> impl Iterator<Item = Range<usize>> {
    let (end, len) = (range.end, 1usize << log2);
    range.step_by(len).map(move |start| start..start.saturating_add(len).min(end))
}

/// A section's checksum: the CRC-32 of its block checksums as little-endian bytes.
pub(crate) fn section_crc(block_crcs: &[u32]) -> u32 {
    crc32fast::hash(bytemuck::cast_slice(block_crcs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_do_not_depend_on_the_pieces() {
        let data: Vec<u8> = (0..3 * BLOCK_LEN + 17).map(|i| (i * 7 % 256) as u8).collect();
        for log2 in [12, 16] {
            let whole: Vec<u32> =
                blocks_of(0..data.len(), log2).map(|block| crc32fast::hash(&data[block])).collect();
            for piece in [1000, BLOCK_LEN, BLOCK_LEN + 1, data.len()] {
                let mut hasher = BlockHasher::new(log2);
                data.chunks(piece).for_each(|piece| hasher.update(piece));
                assert_eq!(hasher.finish(), whole, "pieces of {piece}");
                assert!(hasher.finish().is_empty());
            }
            assert_eq!(whole.len() as u64, block_count(data.len() as u64, log2));
        }
    }
}
