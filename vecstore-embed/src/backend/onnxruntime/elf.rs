//! What a 64-bit ELF library says about itself, read without loading it.

use std::io::{self, Read, Seek, SeekFrom};

/// The most that a table of strings, or of what is needed, may take. Those of the largest providers take some megabytes.
const MOST: u64 = 64 << 20;

#[derive(Debug, PartialEq)]
pub(super) enum Elf {
    Complete,
    Short,
    Other,
}

/// The tables at the head of the file.
struct Header {
    bytes: [u8; 64],
}

impl Header {
    /// `None` for anything but a 64-bit ELF file of a little-endian machine, which all are that ONNX Runtime is built for.
    fn read(file: &mut impl Read) -> io::Result<Option<Header>> {
        let mut bytes = [0u8; 64];
        match file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        Ok(bytes.starts_with(b"\x7fELF\x02\x01").then_some(Header { bytes }))
    }

    /// Where a table begins, how long an entry is, and how many there are.
    fn table(&self, at: usize, sizes_at: usize) -> (u64, u64, u64) {
        (number(&self.bytes, at, 8), number(&self.bytes, sizes_at, 2), number(&self.bytes, sizes_at + 2, 2))
    }

    fn segments(&self) -> (u64, u64, u64) {
        self.table(32, 54)
    }

    fn sections(&self) -> (u64, u64, u64) {
        self.table(40, 58)
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let digits = bytes.get(at..at + size).unwrap_or_default();
    digits.iter().rev().fold(0u64, |number, digit| number << 8 | u64::from(*digit))
}

/// Whether a 64-bit ELF file of `length` bytes holds all that its tables promise: all segments, and the table of
/// sections, which linkers write last.
pub(super) fn is_complete(file: &mut (impl Read + Seek), length: u64) -> io::Result<Elf> {
    let Some(header) = Header::read(file)? else { return Ok(Elf::Other) };
    let fits = |offset: u64, size: u64| offset.checked_add(size).is_some_and(|end| end <= length);
    let (segments, segment_size, segment_count) = header.segments();
    let (sections, section_size, section_count) = header.sections();
    if !fits(segments, segment_size * segment_count) || !fits(sections, section_size * section_count) {
        return Ok(Elf::Short);
    }
    if segment_size < 56 {
        return Ok(Elf::Other);
    }
    // At most 65535 x 65535 bytes, and known to be there.
    file.seek(SeekFrom::Start(segments))?;
    for _ in 0..segment_count {
        let mut segment = [0u8; 56];
        file.read_exact(&mut segment)?;
        if !fits(number(&segment, 8, 8), number(&segment, 32, 8)) {
            return Ok(Elf::Short);
        }
        file.seek_relative(i64::try_from(segment_size - 56).unwrap_or(0))?;
    }
    Ok(Elf::Complete)
}

/// The names of the libraries that a library cannot be loaded without. None where it cannot be read what they are.
pub(super) fn needed(file: &mut (impl Read + Seek)) -> io::Result<Vec<String>> {
    const STRINGS: u64 = 3;
    const DYNAMIC: u64 = 6;
    let Some(header) = Header::read(file)? else { return Ok(Vec::new()) };
    let (sections, size, count) = header.sections();
    let mut section = |index: u64| -> io::Result<[u8; 64]> {
        let mut section = [0u8; 64];
        let at = index.checked_mul(size).and_then(|offset| sections.checked_add(offset));
        file.seek(SeekFrom::Start(at.ok_or(io::ErrorKind::InvalidData)?))?;
        file.read_exact(&mut section)?;
        Ok(section)
    };
    if size < 64 {
        return Ok(Vec::new());
    }
    for index in 0..count {
        let dynamic = section(index)?;
        if number(&dynamic, 4, 4) != DYNAMIC {
            continue;
        }
        let strings = section(number(&dynamic, 40, 4))?;
        if number(&strings, 4, 4) != STRINGS {
            return Ok(Vec::new());
        }
        let (dynamic, strings) = (content(file, &dynamic)?, content(file, &strings)?);
        let name = |at: u64| {
            let rest = strings.get(usize::try_from(at).ok()?..)?;
            String::from_utf8(rest.split(|byte| *byte == 0).next()?.to_vec()).ok()
        };
        // Pairs of a tag and a value; tag 1 is the name of a library that is needed.
        let needs = dynamic.chunks_exact(16).filter(|pair| number(pair, 0, 8) == 1);
        return Ok(needs.filter_map(|pair| name(number(pair, 8, 8))).collect());
    }
    Ok(Vec::new())
}

/// What a section holds.
fn content(file: &mut (impl Read + Seek), section: &[u8; 64]) -> io::Result<Vec<u8>> {
    let (offset, length) = (number(section, 24, 8), number(section, 32, 8));
    if length > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.by_ref().take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn a_library_cut_short_is_noticed_before_it_is_loaded() {
        let bytes = program();
        let state = |length: usize| is_complete(&mut Cursor::new(&bytes[..length]), length as u64).unwrap();
        assert_eq!(state(bytes.len()), Elf::Complete);
        for length in [64, 1000, bytes.len() / 2, bytes.len() - 1] {
            assert_eq!(state(length), Elf::Short, "{length}");
        }
        assert_eq!(state(63), Elf::Other);
        assert_eq!(is_complete(&mut Cursor::new([0; 64]), 64).unwrap(), Elf::Other);
    }

    #[test]
    fn what_a_program_needs_is_read_from_it() {
        let mut bytes = program();
        let needs = needed(&mut Cursor::new(&bytes)).unwrap();
        assert!(needs.iter().any(|name| name.starts_with("libc.so")), "{needs:?}");
        assert_eq!(needed(&mut Cursor::new(b"Dear diary")).unwrap(), [""; 0]);
        // Tables that point anywhere give an error or nothing.
        for at in (40..64).chain(bytes.len() - 4096..bytes.len()) {
            let was = std::mem::replace(&mut bytes[at], 0xff);
            let _ = needed(&mut Cursor::new(&bytes));
            bytes[at] = was;
        }
    }
}
