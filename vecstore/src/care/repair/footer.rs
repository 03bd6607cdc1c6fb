//! The footer of a damaged segment, found or corrected.

use std::path::Path;

use crate::format::blocks::BLOCK_LEN;
use crate::format::footer::{FOOTER_LEN, Footer, Layout, MAGIC, MAGIC_AT, TAIL_LEN};
use crate::format::section::{self, parse_table};
use crate::segment::{Pieces, SegmentName};
use crate::state::SegmentRecord;

/// Footer and section table of a damaged file: at the end of the file, at the end that the manifest lists,
/// further in front if the file was extended, or with one wrong byte corrected.
pub(super) fn find_layout(
    path: &Path,
    name: SegmentName,
    file: &mut Pieces,
    record: Option<&SegmentRecord>,
) -> Option<Layout> {
    let right = |footer: &Footer| {
        (footer.first, footer.last, footer.generation) == (name.first, name.last, name.generation)
            && record
                .is_none_or(|record| (footer.crc, footer.file_len) == (record.footer_crc, record.file_len))
    };
    let footer = find_footer(path, file, record, right)?;
    let table = file.read(footer.table()?).ok()?.to_vec();
    let whole = parse_table(path, &table, footer.table_crc);
    let sections = whole.or_else(|error| {
        let fixed = with_one_byte_right(&[&table[..], &footer.table_crc.to_le_bytes()].concat());
        let (fixed, _) = fixed.as_ref().and_then(|fixed| fixed.split_last_chunk::<4>()).ok_or(error)?;
        parse_table(path, fixed, footer.table_crc)
    });
    Some(Layout { footer, sections: sections.ok()? })
}

fn find_footer(
    path: &Path,
    file: &mut Pieces,
    record: Option<&SegmentRecord>,
    right: impl Fn(&Footer) -> bool,
) -> Option<Footer> {
    // The end that the manifest lists, if the file is long enough.
    let listed =
        record.and_then(|record| usize::try_from(record.file_len).ok()).filter(|len| *len <= file.len());
    for end in [Some(file.len()), listed].into_iter().flatten() {
        if let Some(footer) = ending_at(path, file, end).filter(&right) {
            return Some(footer);
        }
    }
    // Footers end at multiples of 64, and so do blocks: no tail lies across two of them.
    for block in (0..file.len().div_ceil(BLOCK_LEN)).rev() {
        let start = block * BLOCK_LEN;
        let Ok(bytes) = file.read(start..(start + BLOCK_LEN).min(file.len())) else { continue };
        const MAGIC_IN_LINE: usize = section::ALIGN as usize - TAIL_LEN + MAGIC_AT;
        let has_magic = |line: &[u8]| line.get(MAGIC_IN_LINE..).is_some_and(|end| end.starts_with(&MAGIC));
        let lines = bytes.chunks(section::ALIGN as usize).enumerate().filter(|(_, line)| has_magic(line));
        let ends: Vec<usize> = lines.map(|(line, _)| start + (line + 1) * section::ALIGN as usize).collect();
        let footers = ends.into_iter().rev().filter_map(|end| ending_at(path, file, end));
        if let Some(footer) = footers.into_iter().find(&right) {
            return Some(footer);
        }
    }
    [listed, Some(file.len())].into_iter().flatten().find_map(|end| {
        let fixed = with_one_byte_right(file.read(end.checked_sub(FOOTER_LEN)?..end).ok()?)?;
        Footer::parse_bytes(path, &fixed, end as u64).ok().filter(&right)
    })
}

/// The footer that ends at byte `end` of the file.
fn ending_at(path: &Path, file: &mut Pieces, end: usize) -> Option<Footer> {
    let len = Footer::len_of(path, file.read(end.checked_sub(TAIL_LEN)?..end).ok()?).ok()?;
    let bytes = file.read(end.checked_sub(len)?..end).ok()?;
    Footer::parse_bytes(path, bytes, end as u64).ok()
}

/// Corrects the one byte that makes the checksum right; `bytes` ends with its checksum. The caller compares
/// the result with everything else that is known about the file.
fn with_one_byte_right(bytes: &[u8]) -> Option<Vec<u8>> {
    let (content, stored) = bytes.split_last_chunk()?;
    let mut wrong = u32::from_le_bytes(*stored) ^ crc32fast::hash(content);
    if wrong == 0 {
        return None;
    }
    let mut fixed = bytes.to_vec();
    // The wrong byte may be in the checksum itself.
    if let Some(at) = (0..4).find(|at| wrong & !(0xFF << (at * 8)) == 0) {
        *fixed.get_mut(content.len() + at)? ^= wrong.to_le_bytes().get(at)?;
        return Some(fixed);
    }
    // CRC-32 is linear: the effect of a changed byte depends only on the change and its place. Going from the
    // last byte to the first, `wrong` is the error in the checksum of all bytes up to the current one.
    let of_last: Vec<u32> =
        (0..=u8::MAX).map(|byte| crc32fast::hash(&[byte]) ^ crc32fast::hash(&[0])).collect();
    for byte in fixed.iter_mut().take(content.len()).rev() {
        if let Some(flips) = of_last.iter().position(|change| *change == wrong) {
            *byte ^= u8::try_from(flips).ok()?;
            return Some(fixed);
        }
        let shifted_out = of_last.iter().position(|change| change >> 24 == wrong >> 24)?;
        wrong = (wrong ^ of_last.get(shifted_out)?) << 8 | u32::try_from(shifted_out).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_of_a_footer_is_put_right() {
        let mut footer = Footer::empty();
        (footer.first, footer.last, footer.dim, footer.dtype, footer.metric) = (3, 3, 2, 1, 1);
        footer.file_len = FOOTER_LEN as u64;
        footer.seal();
        let is_full = std::env::var_os("VECSTORE_TESTS").is_some_and(|tier| tier == "full");
        for place in (0..FOOTER_LEN).step_by(if is_full { 7 } else { 53 }).chain(506..512) {
            for flips in [1u8, 0x80, 0xFF] {
                let mut bytes = footer.bytes().to_vec();
                bytes[place] ^= flips;
                assert_eq!(with_one_byte_right(&bytes).as_deref(), Some(footer.bytes()), "byte {place}");
                bytes[(place + 100) % FOOTER_LEN] ^= 0x11;
                let other = with_one_byte_right(&bytes);
                assert!(other.is_none_or(|other| other != footer.bytes()), "two wrong bytes, {place}");
            }
        }
    }
}
