//! How far a TIFF reaches: every table and every strip or tile of every page, as its directories describe
//! them.

use std::collections::HashSet;

/// Directories looked at; a chain this long is a scanner's whole archive, or a loop drawn on purpose.
const MAX_PAGES: usize = 4096;

/// The tags that say where pixels are and how many bytes of them: strips, then tiles.
const PIXELS: [(u16, u16); 2] = [(273, 279), (324, 325)];

/// What lies beyond the end of the file, if anything does. A TIFF may put its parts in any order, so there is
/// no end mark to look for.
pub(super) fn missing(bytes: &[u8]) -> Option<&'static str> {
    let file = File {
        bytes,
        big_endian: bytes.first() == Some(&b'M'),
        wide: bytes.get(2..4).is_some_and(|version| version.contains(&43)),
    };
    let mut next = match file.wide {
        false => file.number(4, 4),
        true => file.number(8, 8),
    };
    let mut seen = HashSet::new();
    while seen.len() < MAX_PAGES {
        match next {
            None => return Some("its directory"),
            Some(0) => return None,
            Some(at) if !seen.insert(at) => return None,
            Some(at) => match file.page(at) {
                Err(what) => return Some(what),
                Ok(after) => next = file.number(after, file.offset_size()),
            },
        }
    }
    None
}

struct File<'a> {
    bytes: &'a [u8],
    big_endian: bool,
    /// BigTIFF: 64-bit offsets.
    wide: bool,
}

/// A list of numbers somewhere in the file.
struct List {
    at: u64,
    size: u64,
    count: u64,
}

impl File<'_> {
    fn offset_size(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }

    /// The unsigned number of `size` bytes at `at`, if the file reaches that far.
    fn number(&self, at: u64, size: u64) -> Option<u64> {
        let start = usize::try_from(at).ok()?;
        let digits = self.bytes.get(start..)?.get(..usize::try_from(size).ok()?)?;
        let append = |number: u64, digit: &u8| number << 8 | u64::from(*digit);
        Some(match self.big_endian {
            true => digits.iter().fold(0, append),
            false => digits.iter().rev().fold(0, append),
        })
    }

    fn reaches(&self, at: u64, length: u64) -> bool {
        at.checked_add(length).is_some_and(|end| end <= self.bytes.len() as u64)
    }

    /// Checks one directory and all it points at; gives the place of the link to the next.
    fn page(&self, at: u64) -> Result<u64, &'static str> {
        const DIRECTORY: &str = "the end of a directory";
        let count_size = if self.wide { 8 } else { 2 };
        let entry_size = if self.wide { 20 } else { 12 };
        let entries = self.number(at, count_size).ok_or(DIRECTORY)?;
        let first = at.checked_add(count_size).ok_or(DIRECTORY)?;
        let length = entries.checked_mul(entry_size).ok_or(DIRECTORY)?;
        if !self.reaches(first, length) {
            return Err(DIRECTORY);
        }
        let mut lists = Vec::new();
        for i in 0..entries {
            let entry = first + i * entry_size;
            let tag = self.number(entry, 2).ok_or(DIRECTORY)?;
            let kind = self.number(entry + 2, 2).ok_or(DIRECTORY)?;
            let count = self.number(entry + 4, self.offset_size()).ok_or(DIRECTORY)?;
            let Some(size) = element_size(kind) else { continue };
            let value = entry + 4 + self.offset_size();
            let list = match count.checked_mul(size) {
                Some(length) if length <= self.offset_size() => List { at: value, size, count },
                Some(length) => {
                    let at = self.number(value, self.offset_size()).ok_or(DIRECTORY)?;
                    if !self.reaches(at, length) {
                        return Err("the end of a table");
                    }
                    List { at, size, count }
                }
                None => return Err("the end of a table"),
            };
            lists.push((tag, list));
        }
        let find =
            |wanted: u16| lists.iter().find(|(tag, _)| *tag == u64::from(wanted)).map(|(_, list)| list);
        for (offsets, lengths) in PIXELS {
            let (Some(offsets), Some(lengths)) = (find(offsets), find(lengths)) else { continue };
            for i in 0..offsets.count.min(lengths.count) {
                let at = self.number(offsets.at + i * offsets.size, offsets.size);
                let length = self.number(lengths.at + i * lengths.size, lengths.size);
                match (at, length) {
                    (Some(at), Some(length)) if self.reaches(at, length) => {}
                    _ => return Err("the end of its pixels"),
                }
            }
        }
        Ok(first + length)
    }
}

/// Bytes of one element of a TIFF field type; types that are not defined are passed over.
fn element_size(kind: u64) -> Option<u64> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 | 17 | 18 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One page with one strip of 6 bytes that lies at the very end, after its directory.
    fn little() -> Vec<u8> {
        let mut tiff = b"II\x2a\0\x08\0\0\0\x02\0".to_vec();
        tiff.extend([17, 1, 4, 0, 1, 0, 0, 0, 38, 0, 0, 0]); // strip at 38
        tiff.extend([23, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0]); // of 6 bytes
        tiff.extend([0; 4]); // no further page
        tiff.extend(b"pixels");
        tiff
    }

    #[test]
    fn every_cut_is_seen() {
        let whole = little();
        assert_eq!(missing(&whole), None);
        for cut in 4..whole.len() {
            assert!(missing(&whole[..cut]).is_some(), "cut at {cut}");
        }
        assert_eq!(missing(&whole[..40]), Some("the end of its pixels"));
        assert_eq!(missing(&whole[..20]), Some("the end of a directory"));
    }

    #[test]
    fn a_chain_of_pages_that_bites_its_tail_ends() {
        let mut looped = little();
        looped[34..38].copy_from_slice(&[8, 0, 0, 0]);
        assert_eq!(missing(&looped), None);
    }

    #[test]
    fn counts_that_overflow_are_beyond_the_end() {
        let mut big = b"MM\0\x2b\0\x08\0\0".to_vec();
        big.extend(16u64.to_be_bytes());
        big.extend(u64::MAX.to_be_bytes());
        assert_eq!(missing(&big), Some("the end of a directory"));
    }
}
