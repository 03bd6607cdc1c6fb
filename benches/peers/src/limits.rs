//! Limits of the machine: the least that any store does for the same work. (For a new durable file, see
//! [`vecstore_benches::raw_commit`].)

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};

use crate::{Outcome, ROW};

/// Appends to an open file and flushes it, which no log can do without. Writes in pieces, as
/// [`vecstore_benches::raw_commit`] does.
pub fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(1 << 20).try_for_each(|piece| file.write_all(piece))?;
    file.sync_data()
}

/// Time of copying each row from memory, in random order.
pub fn copy(rows: &[u8], order: &[usize]) -> Outcome<Duration> {
    let mut row = vec![0; ROW];
    let start = Instant::now();
    for number in order {
        row.copy_from_slice(rows.get(number * ROW..(number + 1) * ROW).ok_or("no such row")?);
        black_box(&row);
    }
    Ok(start.elapsed() / u32::try_from(order.len())?)
}

/// Adds up bytes, eight at a time: the least work of a reader that looks at every row.
pub fn sum(bytes: &[u8]) -> u64 {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    bytes.chunks_exact(8).fold(0u64, |sum, chunk| sum.wrapping_add(word(chunk)))
}

/// Memory in pages of a certain size, if the system has them.
pub struct Pages(MmapMut);

impl Pages {
    /// Pages of the usual size.
    pub fn small(len: usize) -> io::Result<Self> {
        let pages = MmapMut::map_anon(len)?;
        pages.advise(Advice::NoHugePage)?;
        Ok(Pages(pages))
    }

    /// Pages of 2 MiB.
    pub fn huge(len: usize) -> io::Result<Self> {
        let pages = MmapMut::map_anon(len)?;
        pages.advise(Advice::HugePage)?;
        Ok(Pages(pages))
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
