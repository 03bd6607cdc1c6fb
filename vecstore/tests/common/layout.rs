//! Places in the files of a store, as `docs/FORMAT.md` defines them, for tests that change bytes.

use std::fs;
use std::path::Path;

/// Length of a footer.
pub const FOOTER: usize = 512;
/// Length of a derived file's header.
pub const DERIVED_HEADER: usize = 256;
/// Length of a manifest's header.
pub const MANIFEST_HEADER: usize = 128;

/// A section of a segment.
#[derive(Clone, Debug)]
pub struct Section {
    pub name: String,
    pub offset: usize,
    pub len: usize,
}

fn number(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// The sections of a segment.
pub fn sections_of(bytes: &[u8]) -> Vec<Section> {
    let footer = &bytes[bytes.len() - FOOTER..];
    let count = u32::from_le_bytes(footer[140..144].try_into().unwrap()) as usize;
    let table = &bytes[number(footer, 240)..][..count * 64];
    let section = |line: &[u8]| Section {
        name: String::from_utf8(line[..4].to_vec()).unwrap(),
        offset: number(line, 8),
        len: number(line, 16),
    };
    table.chunks(64).map(section).collect()
}

/// A section of the segment in this file.
pub fn section(path: &Path, name: &str) -> Section {
    let sections = sections_of(&fs::read(path).unwrap());
    sections.into_iter().find(|section| section.name == name).unwrap_or_else(|| panic!("it has no {name}"))
}

/// Offset of the section table. Opening a segment checks the bytes from here to the end.
pub fn end_at(bytes: &[u8]) -> usize {
    number(&bytes[bytes.len() - FOOTER..], 240)
}

/// The compat flags of a segment.
pub fn compat(bytes: &[u8]) -> u64 {
    number(&bytes[bytes.len() - FOOTER..], 312) as u64
}

/// Corrects the checksum and the body's length in a changed manifest.
pub fn seal_manifest(bytes: &mut [u8]) {
    let body = (bytes.len() - MANIFEST_HEADER) as u64;
    bytes[56..64].copy_from_slice(&body.to_le_bytes());
    let (head, rest) = bytes.split_at(MANIFEST_HEADER);
    let crc = crc32fast::hash(&[&head[..MANIFEST_HEADER - 4], rest].concat()).to_le_bytes();
    bytes[MANIFEST_HEADER - 4..MANIFEST_HEADER].copy_from_slice(&crc);
}

/// Corrects the checksums of a changed derived file; returns the header's.
pub fn seal_derived(bytes: &mut Vec<u8>) -> [u8; 4] {
    let body = number(bytes, 112);
    bytes.truncate(DERIVED_HEADER + body);
    let crcs: Vec<u8> =
        bytes[DERIVED_HEADER..].chunks(4096).flat_map(|block| crc32fast::hash(block).to_le_bytes()).collect();
    bytes[124..128].copy_from_slice(&crc32fast::hash(&crcs).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..DERIVED_HEADER - 4]).to_le_bytes();
    bytes[DERIVED_HEADER - 4..DERIVED_HEADER].copy_from_slice(&crc);
    bytes.extend(crcs);
    crc
}

/// The bytes of the records of liveness bitmaps in a manifest.
pub fn live_records(path: &Path) -> Vec<Vec<u8>> {
    let manifest = fs::read(path.join("MANIFEST")).unwrap();
    let records = (20..manifest.len() - 36).filter(|at| &manifest[*at..at + 4] == b"LIVE");
    records.map(|at| manifest[at - 20..at + 36].to_vec()).collect()
}

/// Corrects all checksums and the length in a changed segment. The tail has the length of the footer.
pub fn seal_segment(bytes: &mut [u8]) {
    let end = bytes.len();
    let footer = end - u32::from_le_bytes(bytes[end - 32..end - 28].try_into().unwrap()) as usize;
    let block = 1usize << bytes[footer + 138];
    let count = u32::from_le_bytes(bytes[footer + 140..footer + 144].try_into().unwrap()) as usize;
    let table = number(bytes, footer + 240);
    let mut crcs: Vec<u8> = Vec::new();
    for line in (table..table + count * 64).step_by(64) {
        let (offset, len) = (number(bytes, line + 8), number(bytes, line + 16));
        let crc = if &bytes[line..line + 4] == b"CRCS" {
            let fits = len.min(crcs.len());
            bytes[offset..offset + fits].copy_from_slice(&crcs[..fits]);
            crc32fast::hash(&bytes[offset..offset + len])
        } else {
            let blocks = bytes[offset..offset + len].chunks(block);
            let blocks: Vec<u8> = blocks.flat_map(|block| crc32fast::hash(block).to_le_bytes()).collect();
            crcs.extend(&blocks);
            crc32fast::hash(&blocks)
        };
        bytes[line + 32..line + 36].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[table..table + count * 64]);
    bytes[footer + 248..footer + 252].copy_from_slice(&crc.to_le_bytes());
    bytes[footer + 232..footer + 240].copy_from_slice(&(end as u64).to_le_bytes());
    let crc = crc32fast::hash(&bytes[footer..end - 4]);
    bytes[end - 4..].copy_from_slice(&crc.to_le_bytes());
}

/// The CRC of a segment's footer.
pub fn footer_crc(bytes: &[u8]) -> [u8; 4] {
    bytes[bytes.len() - 4..].try_into().unwrap()
}
