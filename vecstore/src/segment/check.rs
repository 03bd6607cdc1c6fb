//! Reads every byte of a segment and reports its faults.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::agree::check_tables;
use super::contents::check_contents;
use super::norms::{Norms, is_norm};
use super::pieces::Pieces;
use super::{Segment, SegmentName};
use crate::base::{Bug, DType, Error, IoContext, Result, Unreadable};
use crate::format::blocks::{BLOCK_LEN_LOG2, blocks_of, section_crc};
use crate::format::footer::Layout;
use crate::format::section::{self, Section, Tag};
use crate::vfs::{Mapping, ReadAt, Vfs};

/// One fault of a segment file.
#[derive(Debug)]
pub(crate) struct SegmentFault {
    /// Section, or "footer", "padding", "section table", "file".
    pub section: String,
    /// Block within the section, from 0, if the fault can be placed.
    pub block: Option<u64>,
    /// Text that says what was expected and what was found.
    pub detail: String,
    /// Keys of the affected entries, as far as they can be determined.
    pub keys: Vec<Vec<u8>>,
}

/// Source of the bytes under check.
pub(crate) trait Source {
    /// Reads a block that lies within the file.
    fn block(&mut self, tag: Option<Tag>, range: Range<usize>) -> Result<&[u8], Unreadable>;
}

/// A file whose bytes are in memory or mapped.
struct Whole<'a>(&'a [u8]);

impl Source for Whole<'_> {
    fn block(&mut self, _: Option<Tag>, range: Range<usize>) -> Result<&[u8], Unreadable> {
        Ok(self.0.get(range).unwrap_or_default())
    }
}

impl Source for Pieces {
    /// Keeps the tables. Rows, payloads, block checksums and padding are read and dropped.
    fn block(&mut self, tag: Option<Tag>, range: Range<usize>) -> Result<&[u8], Unreadable> {
        match tag {
            None | Some(section::ROWS | section::PAYL | section::CRCS) => self.read(range),
            Some(_) => self.load(range),
        }
    }
}

/// Result of a check: the segment, if it can be opened at all, and the faults.
pub(crate) type Checked = (Option<Segment>, Vec<SegmentFault>);

/// Called with the number of bytes checked since the last call. It may sleep; an error ends the check.
pub(crate) type Step<'a> = &'a dyn Fn(usize) -> Result<()>;

/// Checks a whole segment file, reading it block by block: an unreadable block is a fault like any other. The
/// returned segment has its tables; its rows and payloads are zeros.
pub(crate) fn check_file(vfs: &dyn Vfs, path: &Path, name: SegmentName, step: Step<'_>) -> Result<Checked> {
    match Pieces::open(vfs, path) {
        Ok(pieces) => check_pieces(path, name, pieces, step),
        Err(error) => Ok((None, vec![fault("file", None, format!("cannot be read: {error}"))])),
    }
}

/// As [`check_file`], for a file that is open.
pub(crate) fn check_pieces(
    path: &Path,
    name: SegmentName,
    mut pieces: Pieces,
    step: Step<'_>,
) -> Result<Checked> {
    if let Err(unreadable) = pieces.load_end(path) {
        return Ok((None, vec![fault("footer", None, unreadable.to_string())]));
    }
    let checked = Layout::parse(path, pieces.kept()).and_then(|layout| {
        let has_norms = layout.sections.iter().any(|line| line.tag == section::NORM);
        let dtype = DType::from_code(layout.footer.dtype).filter(|_| has_norms);
        let mut norms = dtype.map(|dtype| Norms::new(dtype, layout.footer.dim as usize));
        let faults = check_bytes((&mut pieces, &mut norms), &layout, step)?;
        let (segment, mut faults) = open_checked(path, name, pieces.into_parts(), faults, step)?;
        if let (Some(segment), Some(norms), true) = (&segment, norms, faults.is_empty()) {
            let norms = norms.finish(segment.row_scales(0..segment.row_count()));
            let wrong =
                segment.norms().iter().zip(&norms).position(|(stored, norm)| !is_norm(*stored, *norm));
            let detail = |row| format!("the length of row {row} is not that of the row");
            faults.extend(wrong.map(|row| fault("NORM", None, detail(row))));
        }
        Ok((segment, faults))
    });
    match checked {
        Err(error) if !matches!(error, Error::Interrupted { .. }) => Ok((None, vec![from_error(error)])),
        checked => checked,
    }
}

/// Opens a file whose bytes were checked, and finds the keys that the faults affect. If there are no faults,
/// checks tables and contents.
fn open_checked(
    path: &Path,
    name: SegmentName,
    (map, file): (Mapping, Box<dyn ReadAt>),
    mut faults: Vec<SegmentFault>,
    step: Step<'_>,
) -> Result<Checked> {
    match Segment::from_mapping(path, name, map) {
        Ok(segment) => {
            find_keys(&segment, &mut faults);
            if faults.is_empty() {
                faults = check_tables(&segment, step)?;
            }
            if faults.is_empty() {
                faults = check_contents(&segment, &*file, step)?;
            }
            Ok((Some(segment), faults))
        }
        Err(error) => {
            // If block checksums have located the damage, the error from opening adds nothing.
            if faults.is_empty() {
                faults.push(from_error(error));
            }
            Ok((None, faults))
        }
    }
}

/// Checks every byte of an open segment. The error names the first fault, or is the error of `step`.
pub(crate) fn check_open(segment: &Segment, step: Step<'_>) -> Result<()> {
    let mut faults = check_bytes((&mut Whole(segment.bytes()), &mut None), segment.layout(), step)?;
    if faults.is_empty() {
        faults = check_tables(segment, step)?;
    }
    if faults.is_empty() {
        faults = check_contents(segment, segment.mapping(), step)?;
    }
    none_of(faults, segment.path())
}

/// As [`check_open`], for a file that must not be mapped.
pub(crate) fn check_unmapped(vfs: &dyn Vfs, path: &Path, name: SegmentName, step: Step<'_>) -> Result<()> {
    let pieces = Pieces::open(vfs, path).at(path, "open the segment")?;
    none_of(check_pieces(path, name, pieces, step)?.1, path)
}

/// The first fault as an error.
fn none_of(faults: Vec<SegmentFault>, path: &Path) -> Result<()> {
    let Some(fault) = faults.into_iter().next() else { return Ok(()) };
    let block = fault.block.map_or_else(String::new, |block| format!(", block {block}"));
    Err(Error::damaged(path, format!("{}{block}", fault.section), fault.detail))
}

pub(super) fn fault(section: &str, block: Option<u64>, detail: impl Into<String>) -> SegmentFault {
    SegmentFault { section: section.to_owned(), block, detail: detail.into(), keys: Vec::new() }
}

pub(super) fn from_error(error: Error) -> SegmentFault {
    match error {
        Error::Damaged { section, detail, .. } => fault(&section, None, detail),
        Error::ForeignSegment { detail, .. } => fault("footer", None, detail),
        Error::UnsupportedVersion { expected, found, .. } => {
            fault("footer", None, format!("it has {found}, and this program knows {expected}"))
        }
        other => fault("footer", None, other.to_string()),
    }
}

/// Checks the block checksums of every section, and that the bytes between sections are zero. Trusts nothing
/// but the footer's own checksum. Passes the rows to `norms`.
fn check_bytes(
    (source, norms): (&mut dyn Source, &mut Option<Norms>),
    layout: &Layout,
    step: Step<'_>,
) -> Result<Vec<SegmentFault>> {
    let mut faults = Vec::new();
    let footer = &layout.footer;
    let body = body_of(layout);
    let table = footer.table().unwrap_or_default();
    let crcs = block_crcs(source, layout);
    let mut covered = 0usize;
    for line in &layout.sections {
        let Some(range) = range_of(line, body) else {
            faults.push(fault(&line.name(), None, "the section lies outside the file"));
            continue;
        };
        check_padding(source, covered..range.start, &format!("before section {}", line.name()), &mut faults);
        covered = range.end;
        let before = faults.len();
        let mut whole = crc32fast::Hasher::new();
        let mut found: Vec<Option<u32>> = Vec::new();
        for (block, bytes) in blocks_of(range, footer.block_len_log2).enumerate() {
            found.push(match source.block(Some(line.tag), bytes) {
                Ok(bytes) => {
                    if let Some(norms) = norms.as_mut().filter(|_| line.tag == section::ROWS) {
                        norms.update(bytes);
                    }
                    if line.tag == section::CRCS {
                        whole.update(bytes);
                    } else {
                        step(bytes.len())?;
                    }
                    Some(crc32fast::hash(bytes))
                }
                Err(unreadable) => {
                    faults.push(fault(&line.name(), Some(block as u64), unreadable.to_string()));
                    None
                }
            });
        }
        let is_readable = faults.len() == before;
        if line.tag == section::CRCS {
            if is_readable && whole.finalize() != line.crc {
                faults.push(fault("CRCS", None, "the table of block checksums does not match its own"));
            }
            continue;
        }
        // If the section's own checksum matches, its blocks are right; a contradiction to CRCS is damage of
        // CRCS.
        let readable: Vec<u32> = found.iter().flatten().copied().collect();
        if is_readable && section_crc(&readable) == line.crc || Bug::TrustBlocks.is_on() {
            continue;
        }
        for (block, crc) in found.iter().enumerate().filter_map(|(block, crc)| Some((block, (*crc)?))) {
            let expected = crcs.get(line.first_block as usize + block).copied().flatten();
            // If a part of the section is unreadable, a block without a stored checksum cannot be judged.
            if expected != Some(crc) && (is_readable || expected.is_some()) {
                let expected = expected.map_or_else(|| "none".to_owned(), |crc| format!("{crc:08x}"));
                let detail = format!("expected checksum {expected}, found {crc:08x}");
                faults.push(fault(&line.name(), Some(block as u64), detail));
            }
        }
        if faults.len() == before {
            faults.push(fault(&line.name(), None, "the section's checksum does not match the footer"));
        }
    }
    check_padding(source, covered..table.start, "before the section table", &mut faults);
    check_padding(source, table.end..body, "before the footer", &mut faults);
    Ok(faults)
}

/// Range of a section, if it lies within the file's first `body` bytes.
pub(crate) fn range_of(line: &Section, body: usize) -> Option<Range<usize>> {
    let range = usize::try_from(line.offset).ok()?..usize::try_from(line.end()?).ok()?;
    (range.start <= range.end && range.end <= body).then_some(range)
}

/// Number of bytes before the footer. The file was opened, so its length fits `usize`.
pub(crate) fn body_of(layout: &Layout) -> usize {
    usize::try_from(layout.footer.body_len()).unwrap_or(usize::MAX)
}

/// The stored block checksums, at most as many as a file of this length can have blocks; `None` for
/// unreadable ones.
pub(crate) fn block_crcs(source: &mut dyn Source, layout: &Layout) -> Vec<Option<u32>> {
    let body = body_of(layout);
    let line = layout.sections.iter().find(|line| line.tag == section::CRCS);
    let most = ((body >> layout.footer.block_len_log2) + layout.sections.len()) * 4;
    let range = line.and_then(|line| range_of(line, body)).unwrap_or_default();
    let mut crcs = Vec::new();
    for block in blocks_of(range.start..range.end.min(range.start.saturating_add(most)), BLOCK_LEN_LOG2) {
        let count = block.len() / 4;
        match source.block(Some(section::CRCS), block) {
            Ok(bytes) => {
                let all = bytes.chunks_exact(4).filter_map(|four| four.try_into().ok());
                crcs.extend(all.map(|four| Some(u32::from_le_bytes(four))));
            }
            Err(_) => crcs.extend(std::iter::repeat_n(None, count)),
        }
    }
    crcs
}

/// Checks that the bytes of a range between sections are zero.
fn check_padding(source: &mut dyn Source, range: Range<usize>, place: &str, faults: &mut Vec<SegmentFault>) {
    for block in blocks_of(range, BLOCK_LEN_LOG2) {
        match source.block(None, block) {
            Ok(bytes) if bytes.iter().all(|byte| *byte == 0) || Bug::TrustPadding.is_on() => continue,
            Ok(_) => faults.push(fault("padding", None, format!("bytes {place} are not zero"))),
            Err(unreadable) => faults.push(fault("padding", None, unreadable.to_string())),
        }
        return;
    }
}

/// Finds the keys of the entries whose bytes lie in damaged blocks.
fn find_keys(segment: &Segment, faults: &mut [SegmentFault]) {
    let block_len = segment.block_len();
    // The damaged blocks of each section, ascending, each with the number of its fault.
    let mut damaged: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    for (number, fault) in faults.iter_mut().enumerate() {
        let Some(block) = fault.block.and_then(|block| usize::try_from(block).ok()) else { continue };
        // The index lists entries in the order of hashes, so `each_hit` cannot find its damaged blocks.
        match fault.section.as_str() {
            "HASH" => fault.keys = keys_indexed(segment, block, 8),
            "HENT" => fault.keys = keys_indexed(segment, block, 4),
            section => damaged.entry(section.to_owned()).or_default().push((block, number)),
        }
    }
    damaged.values_mut().for_each(|blocks| blocks.sort_unstable());
    let span_of = |section: &str, index| span_of(segment, section, index);
    each_hit((segment.entry_count(), block_len), span_of, &damaged, |index, number| {
        if let (Some(fault), Ok(key)) = (faults.get_mut(number), segment.key(index)) {
            fault.keys.push(key.to_vec());
        }
    });
}

/// Calls `hit` for every entry and every damaged block that contains bytes of that entry. Goes through the
/// entries once per section, whatever the number of its damaged blocks.
fn each_hit(
    (entry_count, block_len): (usize, usize),
    span_of: impl Fn(&str, usize) -> Option<Range<usize>>,
    damaged: &BTreeMap<String, Vec<(usize, usize)>>,
    mut hit: impl FnMut(usize, usize),
) {
    for (section, blocks) in damaged {
        for index in 0..entry_count {
            let Some(span) = span_of(section, index).filter(|span| !span.is_empty()) else { continue };
            let first = blocks.partition_point(|(block, _)| *block < span.start / block_len);
            let from = blocks.get(first..).unwrap_or_default().iter();
            from.take_while(|(block, _)| *block <= (span.end - 1) / block_len)
                .for_each(|(_, number)| hit(index, *number));
        }
    }
}

/// Keys of the entries that a block of the index names; each element of the index has `width` bytes.
fn keys_indexed(segment: &Segment, block: usize, width: usize) -> Vec<Vec<u8>> {
    let start = block.saturating_mul(segment.block_len());
    let end = start.saturating_add(segment.block_len()) / width;
    let positions = (start / width)..end.min(segment.entry_count());
    let entries = positions.filter_map(|position| segment.hash_entry(position));
    entries.filter_map(|index| segment.key(index).ok().map(<[u8]>::to_vec)).collect()
}

/// The range of an entry's bytes within a section.
fn span_of(segment: &Segment, section: &str, index: usize) -> Option<Range<usize>> {
    let row_bytes = segment.footer().dim as usize * segment.dtype().size();
    let rows = |width: usize| {
        let rows = segment.row_span(index).ok()?;
        Some(rows.start.checked_mul(width)?..rows.end.checked_mul(width)?)
    };
    match section {
        "ROWS" => rows(row_bytes),
        "KIND" => Some(index..index + 1),
        "KEND" | "REND" | "PEND" => Some(index * 8..index * 8 + 8),
        "SCAL" | "NORM" => rows(4),
        "KEYS" => segment.key_span(index),
        "PAYL" => segment.payload_span(index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::blocks::BLOCK_LEN;
    use std::cell::Cell;

    /// With every block of two sections damaged and entries of many lengths, each entry is examined once per
    /// section.
    #[test]
    fn keys_of_damaged_blocks_take_one_pass() {
        const ENTRIES: usize = 5000;
        let width = |section: &str| if section == "ROWS" { BLOCK_LEN / 7 } else { 100 };
        let mut damaged: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
        let mut blocks = 0;
        for section in ["KEYS", "ROWS"] {
            for block in 0..(ENTRIES * width(section)).div_ceil(BLOCK_LEN) {
                damaged.entry(section.to_owned()).or_default().push((block, blocks));
                blocks += 1;
            }
        }
        let (calls, hits) = (Cell::new(0), Cell::new(0));
        let span_of = |section: &str, index: usize| {
            calls.set(calls.get() + 1);
            Some(index * width(section)..(index + 1) * width(section))
        };
        let mut hit_blocks = vec![0; blocks];
        each_hit((ENTRIES, BLOCK_LEN), span_of, &damaged, |_, number| {
            hits.set(hits.get() + 1);
            hit_blocks[number] += 1;
        });
        assert_eq!(calls.get(), ENTRIES * 2);
        assert!(hits.get() <= ENTRIES * 2 + blocks, "{} hits of {blocks} blocks", hits.get());
        assert!(hit_blocks.iter().all(|hits| *hits > 0));
    }

    /// A stopped verification ends in the middle of a file, and does not call the file damaged.
    #[test]
    fn a_check_ends_with_the_first_error_of_its_step() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::types::StoreConfig::new(1024);
        let store = crate::handle::Store::create(dir.path().join("s"), config).unwrap();
        let mut batch = store.batch();
        (0..100).for_each(|number| batch.push(format!("{number}"), &[1.0f32; 1024]).unwrap());
        store.append(&mut batch, crate::types::OnDuplicate::Error).unwrap();
        let segment = std::sync::Arc::clone(&store.inner.view.read().segments[0].segment);
        let steps = Cell::new(0);
        let stop = |_| {
            steps.set(steps.get() + 1);
            if steps.get() == 3 { Err(Error::Interrupted { action: "the check" }) } else { Ok(()) }
        };
        let checked = check_file(&crate::vfs::RealFs, segment.path(), segment.name(), &stop);
        assert!(matches!(checked, Err(Error::Interrupted { .. })) && steps.get() == 3);
        let (_, faults) =
            check_file(&crate::vfs::RealFs, segment.path(), segment.name(), &|_| Ok(())).unwrap();
        assert!(faults.is_empty());
    }
}
