//! Other ways to make a new file durable, in turn with the way that the store uses: `tries [COMMITS [KIB]]`
//! (200 of 71 KiB unless given). Prints the time of each compared with the usual way; docs/PERFORMANCE.md has
//! the results.
//!
//! Each way ends with a file of this length under its final name, with data and name durable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use vecstore_benches::{Numbers, folder, raw_commit};

/// Alignment of direct writes: memory, places and lengths must be multiples of it.
const ALIGN: usize = 4096;

/// A way: its name and its function.
type Way = (&'static str, fn(&Place, usize, &[u8]) -> io::Result<()>);

const WAYS: [Way; 10] = [
    ("create, write, fdatasync, rename, fsync", |place, number, bytes| raw_commit(&place.dir, number, bytes)),
    ("the directory stays open", |place, number, bytes| {
        let (file, tmp) = place.create()?;
        written(&file, bytes)?.sync_data()?;
        fs::rename(tmp, place.path(number))?;
        place.open.sync_all()
    }),
    ("preallocated (fallocate)", |place, number, bytes| {
        let (file, tmp) = place.create()?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes.len() as u64)?;
        written(&file, bytes)?.sync_data()?;
        place.name(&tmp, number)
    }),
    ("its length set before (ftruncate)", |place, number, bytes| {
        let (file, tmp) = place.create()?;
        file.set_len(bytes.len() as u64)?;
        written(&file, bytes)?.sync_data()?;
        place.name(&tmp, number)
    }),
    ("sync_file_range, then fdatasync", |place, number, bytes| {
        let (file, tmp) = place.create()?;
        let file = written(&file, bytes)?;
        // SAFETY: the descriptor is open, and the call touches no memory of this process.
        let started = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        if started != 0 {
            return Err(io::Error::last_os_error());
        }
        file.sync_data()?;
        place.name(&tmp, number)
    }),
    ("one write, however long", |place, number, bytes| {
        let (mut file, tmp) = place.create()?;
        file.write_all(bytes)?;
        file.sync_data()?;
        place.name(&tmp, number)
    }),
    ("eight writes instead of one", |place, number, bytes| {
        let (mut file, tmp) = place.create()?;
        for piece in bytes.chunks(bytes.len().div_ceil(8)) {
            file.write_all(piece)?;
        }
        file.sync_data()?;
        place.name(&tmp, number)
    }),
    ("one write of 32 pieces (writev)", |place, number, bytes| {
        let (mut file, tmp) = place.create()?;
        let mut pieces: Vec<IoSlice<'_>> = bytes.chunks(bytes.len().div_ceil(32)).map(IoSlice::new).collect();
        let mut pieces = pieces.as_mut_slice();
        while !pieces.is_empty() {
            let written = file.write_vectored(pieces)?;
            IoSlice::advance_slices(&mut pieces, written);
        }
        file.sync_data()?;
        place.name(&tmp, number)
    }),
    ("past the page cache (O_DIRECT)", |place, number, bytes| {
        let tmp = place.dir.join("tmp");
        let direct =
            OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&tmp)?;
        let mut aligned = vec![0u8; bytes.len().next_multiple_of(ALIGN) + ALIGN];
        let start = aligned.as_ptr().align_offset(ALIGN);
        let len = bytes.len().next_multiple_of(ALIGN);
        if let Some(to) = aligned.get_mut(start..start + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        (&direct).write_all(aligned.get(start..start + len).unwrap_or_default())?;
        direct.set_len(bytes.len() as u64)?;
        direct.sync_data()?;
        place.name(&tmp, number)
    }),
    ("io_uring: write, fdatasync, rename, fsync linked", |place, number, bytes| {
        use io_uring::{opcode, squeue::Flags, types::Fd};
        let (file, tmp) = place.create()?;
        let name = |path: &Path| std::ffi::CString::new(path.as_os_str().as_encoded_bytes());
        let (from, to) = (name(&tmp)?, name(&place.path(number))?);
        let mut ring = place.ring.borrow_mut();
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let fd = Fd(file.as_raw_fd());
        let chain = [
            opcode::Write::new(fd, bytes.as_ptr(), len).build().flags(Flags::IO_LINK),
            opcode::Fsync::new(fd).flags(io_uring::types::FsyncFlags::DATASYNC).build().flags(Flags::IO_LINK),
            opcode::RenameAt::new(Fd(libc::AT_FDCWD), from.as_ptr(), Fd(libc::AT_FDCWD), to.as_ptr())
                .build()
                .flags(Flags::IO_LINK),
            opcode::Fsync::new(Fd(place.open.as_raw_fd())).build(),
        ];
        // SAFETY: bytes, names and descriptors outlive the requests: all four are waited for before this
        // returns.
        unsafe { ring.submission().push_multiple(&chain) }.map_err(io::Error::other)?;
        ring.submit_and_wait(chain.len())?;
        let results: Vec<i32> = ring.completion().map(|done| done.result()).collect();
        match results.iter().find(|result| **result < 0) {
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Ok(()),
        }
    }),
];

/// A directory that files are written to.
struct Place {
    dir: std::path::PathBuf,
    open: File,
    ring: std::cell::RefCell<io_uring::IoUring>,
}

impl Place {
    fn path(&self, number: usize) -> std::path::PathBuf {
        self.dir.join(format!("{number:010}"))
    }

    fn create(&self) -> io::Result<(File, std::path::PathBuf)> {
        let tmp = self.dir.join("tmp");
        Ok((File::create_new(&tmp)?, tmp))
    }

    fn name(&self, tmp: &Path, number: usize) -> io::Result<()> {
        fs::rename(tmp, self.path(number))?;
        File::open(&self.dir)?.sync_all()
    }
}

/// Writes in pieces, as [`raw_commit`] does.
fn written<'a>(mut file: &'a File, bytes: &[u8]) -> io::Result<&'a File> {
    bytes.chunks(1 << 20).try_for_each(|piece| file.write_all(piece)).map(|()| file)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |number: usize, usual: usize| match std::env::args().nth(number) {
        Some(text) => text.parse(),
        None => Ok(usual),
    };
    let (commits, kib) = (argument(1, 200)?, argument(2, 71)?);
    let dir = folder()?;
    let bytes: Vec<u8> = bytemuck::cast_slice(&Numbers::new(1).take(kib * 256)).to_vec();
    let mut places = Vec::new();
    for number in 0..WAYS.len() {
        let path = dir.path().join(number.to_string());
        fs::create_dir(&path)?;
        let open = File::open(&path)?;
        places.push(Place { dir: path, open, ring: io_uring::IoUring::new(8)?.into() });
    }
    let mut times = vec![Vec::new(); WAYS.len()];
    for number in 0..commits {
        // The order changes each time, because the predecessor's writes affect the next way.
        let mut order: Vec<usize> = (0..WAYS.len()).collect();
        order.sort_by_key(|way| ((number * 31 + way) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20);
        for way in order {
            let (Some((what, make)), Some(place)) = (WAYS.get(way), places.get(way)) else { continue };
            let start = Instant::now();
            make(place, number, &bytes).map_err(|error| format!("{what}: {error}"))?;
            if let Some(times) = times.get_mut(way) {
                times.push(start.elapsed());
            }
        }
    }
    println!("{commits} files of {kib} KiB each, in {}\n", dir.path().display());
    println!("| | mean ms | p50 | p99 | p50 of the usual |\n|---|---:|---:|---:|---:|");
    times.iter_mut().for_each(|times| times.sort_unstable());
    let usual = times.first().map_or(1.0, |times| at(times, 0.5));
    for ((what, _), times) in WAYS.iter().zip(times) {
        let median = at(&times, 0.5);
        println!(
            "| {what} | {:.3} | {median:.3} | {:.3} | {:.2} |",
            mean(&times),
            at(&times, 0.99),
            median / usual
        );
    }
    Ok(())
}

fn at(sorted: &[Duration], share: f64) -> f64 {
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

fn mean(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64() * 1e3 / times.len().max(1) as f64
}
