//! Corrects checksums and lengths of changed files, as `docs/FORMAT.md` lays them out.

const MANIFEST: usize = 128;
const DERIVED: usize = 256;
const FOOTER: usize = 512;
const LINE: usize = 64;
/// Most lines of a section table that are corrected; no segment of the seed store has as many.
const LINES: usize = 64;

fn number(file: &[u8], at: usize) -> usize {
    let mut number = [0; 8];
    number.copy_from_slice(&file[at..at + 8]);
    usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX)
}

/// Writes the CRC of `covered` into the file at `at`.
fn seal(file: &mut [u8], at: usize, covered: &[&[u8]]) {
    let mut hasher = crc32fast::Hasher::new();
    covered.iter().for_each(|bytes| hasher.update(bytes));
    file[at..at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// Gives a manifest the right magic number, lengths and checksum.
pub fn fix_manifest(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if file.len() < MANIFEST {
        file.resize(MANIFEST, 0);
    }
    file[..8].copy_from_slice(b"\x89VECMAN\n");
    file[12..16].copy_from_slice(&(MANIFEST as u32).to_le_bytes());
    let body = (file.len() - MANIFEST) as u64;
    file[56..64].copy_from_slice(&body.to_le_bytes());
    let whole = file.clone();
    seal(&mut file, MANIFEST - 4, &[&whole[..MANIFEST - 4], &whole[MANIFEST..]]);
    file
}

/// Gives a segment the right magic number and lengths, and the right checksums of its table and of all
/// sections that lie in the file.
pub fn fix_segment(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if file.len() < FOOTER {
        file.resize(FOOTER, 0);
    }
    let footer = file.len() - FOOTER;
    let block = 1usize << file[footer + 138].clamp(12, 20);
    let count =
        u32::from_le_bytes([file[footer + 140], file[footer + 141], file[footer + 142], file[footer + 143]]);
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(LINES);
    let table = number(&file, footer + 240);
    if let Some(end) = table.checked_add(count * LINE).filter(|end| *end <= footer) {
        let mut crcs: Vec<u8> = Vec::new();
        for line in (table..end).step_by(LINE) {
            let (offset, len) = (number(&file, line + 8), number(&file, line + 16));
            let Some(end) = offset.checked_add(len).filter(|end| *end <= table) else { continue };
            if &file[line..line + 4] == b"CRCS" {
                let fits = len.min(crcs.len());
                file[offset..offset + fits].copy_from_slice(&crcs[..fits]);
                let section = file[offset..end].to_vec();
                seal(&mut file, line + 32, &[&section]);
                continue;
            }
            let blocks =
                file[offset..end].chunks(block).flat_map(|block| crc32fast::hash(block).to_le_bytes());
            let blocks: Vec<u8> = blocks.collect();
            seal(&mut file, line + 32, &[&blocks]);
            crcs.extend(blocks);
        }
        let lines = file[table..end].to_vec();
        seal(&mut file, footer + 248, &[&lines]);
    }
    let len = file.len() as u64;
    file[footer + 232..footer + 240].copy_from_slice(&len.to_le_bytes());
    file[footer + 480..footer + 484].copy_from_slice(&(FOOTER as u32).to_le_bytes());
    file[footer + 496..footer + 504].copy_from_slice(b"\x89VECSEG\n");
    let all = file[footer..].to_vec();
    seal(&mut file, footer + 508, &[&all[..508]]);
    file
}

/// Gives a derived file the right magic number, lengths and checksums. The body stays as it is.
pub fn fix_derived(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    if file.len() < DERIVED {
        file.resize(DERIVED, 0);
    }
    let body = number(&file, 112).min(file.len() - DERIVED) / 8 * 8;
    file.truncate(DERIVED + body);
    let crcs = file[DERIVED..].chunks(4096).flat_map(|block| crc32fast::hash(block).to_le_bytes());
    let crcs: Vec<u8> = crcs.collect();
    file[..8].copy_from_slice(b"\x89VECDER\n");
    file[12..16].copy_from_slice(&(DERIVED as u32).to_le_bytes());
    let len = (file.len() + crcs.len()) as u64;
    file[104..112].copy_from_slice(&len.to_le_bytes());
    file[112..120].copy_from_slice(&(body as u64).to_le_bytes());
    file[120] = 12;
    seal(&mut file, 124, &[&crcs]);
    let header = file[..DERIVED - 4].to_vec();
    seal(&mut file, DERIVED - 4, &[&header]);
    file.extend(crcs);
    file
}
