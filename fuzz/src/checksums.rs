//! Puts the checksums and lengths of changed files right, as `docs/FORMAT.md` lays them out.

const ENVELOPE: usize = 64;
const FOOTER: usize = 1024;
const SECTIONS: usize = 376;
const BLOCK: usize = 1 << 16;

/// A manifest with the right magic number, length of body and checksum.
pub fn fix_manifest(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if file.len() < ENVELOPE {
        file.resize(ENVELOPE, 0);
    }
    file[..8].copy_from_slice(b"\x89VECMAN\n");
    let body = (file.len() - ENVELOPE) as u64;
    file[48..56].copy_from_slice(&body.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file[..60]);
    hasher.update(&file[ENVELOPE..]);
    file[60..64].copy_from_slice(&hasher.finalize().to_le_bytes());
    file
}

/// A segment with the right magic number and length, and the right checksums of all sections that lie in the file.
pub fn fix_segment(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if file.len() < FOOTER {
        file.resize(FOOTER, 0);
    }
    let footer = file.len() - FOOTER;
    let u64_at = |file: &[u8], at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&file[at..at + 8]);
        usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX)
    };
    let count = usize::from(file[footer + 179]).min(20);
    let mut crcs: Vec<u8> = Vec::new();
    for number in 0..count {
        let line = footer + SECTIONS + number * 32;
        let (offset, len) = (u64_at(&file, line + 8), u64_at(&file, line + 16));
        let Some(end) = offset.checked_add(len).filter(|end| *end <= footer) else { continue };
        if &file[line..line + 4] == b"CRCS" {
            let fits = len.min(crcs.len());
            file[offset..offset + fits].copy_from_slice(&crcs[..fits]);
            let crc = crc32fast::hash(&file[offset..end]);
            file[line + 24..line + 28].copy_from_slice(&crc.to_le_bytes());
            continue;
        }
        let blocks: Vec<u8> =
            file[offset..end].chunks(BLOCK).flat_map(|block| crc32fast::hash(block).to_le_bytes()).collect();
        file[line + 24..line + 28].copy_from_slice(&crc32fast::hash(&blocks).to_le_bytes());
        crcs.extend(blocks);
    }
    let len = file.len() as u64;
    file[footer..footer + 8].copy_from_slice(b"\x89VECSEG\n");
    file[footer + 272..footer + 280].copy_from_slice(&len.to_le_bytes());
    let crc = crc32fast::hash(&file[footer..footer + 1020]);
    file[footer + 1020..].copy_from_slice(&crc.to_le_bytes());
    file
}

/// A liveness bitmap with the right magic number, length and checksum.
pub fn fix_bitmap(bytes: &[u8]) -> Vec<u8> {
    const HEADER: usize = 160;
    let mut file = bytes.to_vec();
    if file.len() < HEADER {
        file.resize(HEADER, 0);
    }
    file[..8].copy_from_slice(b"\x89VECLIV\n");
    let len = file.len() as u64;
    file[144..152].copy_from_slice(&len.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file[..156]);
    hasher.update(&file[HEADER..]);
    file[156..160].copy_from_slice(&hasher.finalize().to_le_bytes());
    file
}
