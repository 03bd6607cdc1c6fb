//! What a shared library says about itself, read without loading it.

use std::fs::File;
use std::io;

use object::read::elf::{Dyn as _, ElfFile64, ProgramHeader as _};
use object::{Endianness, ReadCache, elf};

/// A 64-bit ELF library that holds all that its tables promise.
#[derive(Debug)]
pub(super) struct SharedLibrary {
    /// The names of the libraries that it cannot be loaded without.
    pub(super) needed: Vec<String>,
}

/// What a file is instead.
#[derive(Debug, PartialEq)]
pub(super) enum Unusable {
    /// No 64-bit ELF file.
    Other,
    /// One that a broken download cut short: loading it would end the process with a bus error.
    Short,
}

impl SharedLibrary {
    /// Reads the tables of a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn read(mut file: File) -> io::Result<Result<Self, Unusable>> {
        let length = file.metadata()?.len();
        let mut magic = [0; 5];
        if length < 64 || io::Read::read(&mut file, &mut magic)? < 5 || magic != *b"\x7fELF\x02" {
            return Ok(Err(Unusable::Other));
        }
        let cache = ReadCache::new(file);
        Ok(tables(&cache, length).ok_or(Unusable::Short))
    }
}

/// `None` where a table, or a segment, reaches beyond the end of the file.
fn tables(file: &ReadCache<File>, length: u64) -> Option<SharedLibrary> {
    let parsed = ElfFile64::<Endianness, _>::parse(file).ok()?;
    let endian = parsed.endian();
    let fits = |(offset, size): (u64, u64)| offset.checked_add(size).is_some_and(|end| end <= length);
    if !parsed.elf_program_headers().iter().all(|segment| fits(segment.file_range(endian))) {
        return None;
    }
    let mut needed = Vec::new();
    if let Some((entries, strings)) = parsed.elf_section_table().dynamic(endian, file).ok()? {
        let strings = parsed.elf_section_table().strings(endian, file, strings).ok()?;
        for entry in entries.iter().filter(|entry| entry.tag(endian) == elf::DT_NEEDED) {
            needed.push(String::from_utf8_lossy(entry.string(endian, strings).ok()?).into_owned());
        }
    }
    Some(SharedLibrary { needed })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> Result<SharedLibrary, Unusable> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        SharedLibrary::read(file).unwrap()
    }

    #[test]
    fn a_library_cut_short_is_noticed_and_what_it_needs_is_read() {
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needed = read(&bytes).unwrap().needed;
        assert!(needed.iter().any(|name| name.starts_with("libc.so")), "{needed:?}");
        for length in [64, 1000, bytes.len() / 2, bytes.len() - 1] {
            assert_eq!(read(&bytes[..length]).unwrap_err(), Unusable::Short, "{length}");
        }
        assert_eq!(read(&bytes[..63]).unwrap_err(), Unusable::Other);
        assert_eq!(read(&[0; 64]).unwrap_err(), Unusable::Other);
        // Tables that point anywhere are no more than short.
        for at in 40..64 {
            let was = std::mem::replace(&mut bytes[at], 0xff);
            let _ = read(&bytes);
            bytes[at] = was;
        }
    }
}
