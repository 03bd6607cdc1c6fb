//! Memory for pixels that goes from one picture to the next.
//!
//! A picture of twelve megapixels takes 36 MB. Memory of that size is fetched from the system for each
//! picture anew, which clears it page by page, and is given back after it: a tenth of the time of decoding.

use std::cell::Cell;

use image::RgbImage;

/// What a thread keeps at most.
const MOST: usize = 64 << 20;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Keeps the memory of `picture` for the next one that this thread decodes, unless it is very large.
pub fn recycle(picture: RgbImage) {
    let pixels = picture.into_raw();
    if pixels.capacity() <= MOST {
        SPARE.set(pixels);
    }
}

/// Memory for `length` bytes. They are whatever they were: to be overwritten, every one of them.
pub(super) fn take(length: usize) -> Vec<u8> {
    let mut spare = SPARE.take();
    if spare.capacity() < length {
        // What is not large enough is not copied.
        return vec![0; length];
    }
    spare.resize(length, 0);
    spare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_huge_ones_are_not_kept() {
        recycle(RgbImage::from_pixel(10, 10, image::Rgb([7; 3])));
        assert_eq!(take(30), [7; 30]);
        assert_eq!(take(30), [0; 30], "it is given once");
        let mut huge = Vec::with_capacity(MOST + 1);
        huge.resize(3, 9);
        recycle(RgbImage::from_raw(1, 1, huge).unwrap());
        assert_eq!(take(3), [0; 3]);
    }
}
