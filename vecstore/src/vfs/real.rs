//! The operating system's file system.
//!
//! A call that a signal interrupts is repeated, by the standard library (reads, writes, directory flushes) or
//! here, with two exceptions. An interrupted flush of a file has failed, because the pages that it lost are
//! unknown: no file is flushed twice. An interrupted rename may have happened: the caller looks.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags, flock};
use rustix::io::Errno;

use super::{FileKind, LockFile, Mapping, Metadata, ReadAt, Vfs, VfsFile};

/// Bytes of a file that are copied into memory at once.
const COPIED_AT_ONCE: usize = 1 << 20;

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

/// Repeats a call as long as signals interrupt it.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Opens a regular file for reading, and returns its length. Follows no symbolic link, and does not wait for
/// the writer of a FIFO.
fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP) => return Err(not_regular("a symbolic link")),
        Err(errno) => return Err(errno.into()),
    };
    match file.metadata()? {
        found if found.is_file() => Ok((file, found.len())),
        found if found.is_dir() => Err(not_regular("a directory")),
        _ => Err(not_regular("a FIFO, socket or device")),
    }
}

/// Length of a file as a `usize`; fails in a 32-bit process for 4 GiB and more.
fn in_memory(len: u64) -> io::Result<usize> {
    usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

fn not_regular(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("expected a regular file, found {what}"))
}

impl Vfs for RealFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        Ok(Box::new(RealFile(File::options().read(true).write(true).create_new(true).open(path)?)))
    }

    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        let (file, len) = open_regular(path)?;
        if len > max_len {
            let found = format!("expected at most {max_len} bytes, found {len}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, found));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        file.take(max_len.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn map(&self, path: &Path) -> io::Result<Mapping> {
        let (file, len) = open_regular(path)?;
        map_file(&file, len)
    }

    fn copy(&self, path: &Path) -> io::Result<Mapping> {
        let (file, len) = open_regular(path)?;
        // Unwritten parts of a sparse file are skipped: they take neither time nor memory.
        let mut bytes = Mapping::blank(in_memory(len)?)?;
        let mut piece = vec![0; COPIED_AT_ONCE];
        let mut at = 0;
        while at < len {
            at = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => break,
                // Not every file system finds the written parts; then everything is read.
                Err(_) => at,
            };
            let left = in_memory(len.saturating_sub(at))?;
            let piece = piece.get_mut(..left.min(COPIED_AT_ONCE)).unwrap_or_default();
            file.read_exact_at(piece, at)?;
            bytes.put(in_memory(at)?, piece);
            at += piece.len() as u64;
        }
        Ok(bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        Ok(Box::new(open_regular(path)?))
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let found = fs::symlink_metadata(path)?;
        let kind = match found.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Dir,
            _ => FileKind::Other,
        };
        Ok(Metadata { kind, len: found.len() })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        again(|| fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect())
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // File systems without the flag (some network ones): a hard link refuses an existing name just as
            // atomically, and the old name is removed afterwards.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                fs::hard_link(from, to)?;
                // The file has its new name, so the rename succeeded even if the old name stays.
                if let Err(error) = fs::remove_file(from) {
                    log::warn!("{}: cannot remove a temporary name: {error}", from.display());
                }
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        // An empty path is the current directory (the parent of a relative store path).
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    }

    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = if create { flags | OFlags::CREATE } else { flags };
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
        let file = match rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, mode)) {
            // A reader without the right to write can still read the record.
            Err(Errno::ACCESS | Errno::ROFS | Errno::PERM) if !create => open_regular(path)?.0,
            Err(errno) => return Err(errno.into()),
            Ok(fd) => File::from(fd),
        };
        if !file.metadata()?.is_file() {
            return Err(not_regular("something else"));
        }
        Ok(Box::new(RealLock(file)))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let found = rustix::io::retry_on_intr(|| rustix::fs::statvfs(path))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// A file with its length when it was opened.
impl ReadAt for (File, u64) {
    fn byte_len(&self) -> u64 {
        self.1
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

/// Largest gathered write in bytes. Above 2 MiB Linux takes pages of that size, and the wait for such a page
/// (from the host of a virtual machine, or until other pages are moved) can take ten times as long as the
/// copy. (macOS refuses writes of 2 GiB and more, and Linux cuts them short.)
const MOST_AT_ONCE: usize = 1 << 20;

/// Writes all of `slices`, in as few calls of at most `most` bytes as possible.
fn write_gathered(out: &mut impl Write, mut slices: &mut [IoSlice<'_>], most: usize) -> io::Result<()> {
    // Drops empty slices at the front: writing them returns 0, which counts as a failed write below.
    IoSlice::advance_slices(&mut slices, 0);
    while let Some(first) = slices.first() {
        let mut room = most;
        let fits = |slice: &&IoSlice<'_>| {
            let left = room.checked_sub(slice.len());
            room = left.unwrap_or_default();
            left.is_some()
        };
        let count = slices.iter().take_while(fits).count();
        let written = again(|| match count {
            0 => out.write(first.get(..most).unwrap_or_default()),
            _ => out.write_vectored(slices.get(..count).unwrap_or_default()),
        })?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

fn map_file(file: &File, len: u64) -> io::Result<Mapping> {
    let len = in_memory(len)?;
    // SAFETY: the map is read-only, and this crate never changes mapped bytes: it neither writes to nor
    // truncates a file under its final name. Another program that truncates the file ends this process
    // with SIGBUS: see docs/DURABILITY.md.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(file) }?;
    Ok(Mapping::mapped(map))
}

struct RealFile(File);

impl VfsFile for RealFile {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)
    }

    fn write_slices(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        write_gathered(&mut self.0, slices, MOST_AT_ONCE)
    }

    /// Linux only: other systems only have a full flush, which waits for the disk's own cache. A full flush
    /// on Linux would also write the journal of the file system each time, and the flushes of commits would
    /// wait for that.
    #[cfg(target_os = "linux")]
    fn write_out(&mut self, wait: bool) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let after = if wait { libc::SYNC_FILE_RANGE_WAIT_AFTER } else { 0 };
        let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | after;
        // SAFETY: the descriptor is open as long as `self` lives; no memory of this process is touched.
        if unsafe { libc::sync_file_range(self.0.as_raw_fd(), 0, 0, how) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Some kernels, sandboxes and file systems lack the call: a full flush takes its place.
            Some(libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP | libc::ESPIPE) => self.flush(),
            _ => Err(error),
        }
    }

    /// Calls `fdatasync` itself, because the standard library repeats an interrupted flush. On Apple's
    /// systems the standard library is used all the same: its flush does more than `fdatasync`.
    fn flush(&mut self) -> io::Result<()> {
        #[cfg(target_vendor = "apple")]
        return self.0.sync_data();
        #[cfg(not(target_vendor = "apple"))]
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    #[cfg(target_os = "linux")]
    fn forget(&mut self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed)?)
    }

    fn map(&mut self, len: u64) -> io::Result<Option<Mapping>> {
        map_file(&self.0, len).map(Some)
    }
}

struct RealLock(File);

impl LockFile for RealLock {
    fn try_lock(&mut self) -> io::Result<bool> {
        match rustix::io::retry_on_intr(|| flock(&self.0, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn unlock(&mut self) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| flock(&self.0, FlockOperation::Unlock))?)
    }

    fn read_record(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match again(|| self.0.read_at(rest, filled as u64))? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    fn write_record(&mut self, record: &[u8]) -> io::Result<()> {
        self.0.write_all_at(record, 0)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let (mine, there) = (self.0.metadata()?, fs::symlink_metadata(path)?);
        Ok((mine.dev(), mine.ino()) == (there.dev(), there.ino()))
    }

    fn free_space(&self) -> Option<u64> {
        let found = rustix::io::retry_on_intr(|| rustix::fs::fstatvfs(&self.0)).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_call_is_repeated() {
        let mut calls = 0;
        let done = again(|| {
            calls += 1;
            if calls < 3 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(calls) }
        });
        assert_eq!(done.unwrap(), 3);
        let failed: io::Result<()> = again(|| Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn copying_a_sparse_file_takes_neither_time_nor_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holes");
        let file = File::create(&path).unwrap();
        let len = 4 << 40;
        if file.set_len(len).is_err() {
            println!("NOT CHECKED HERE: files of 4 TiB");
            return;
        }
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", len / 2 - 3).unwrap();
        file.write_all_at(b"end", len - 3).unwrap();
        let copy = RealFs.copy(&path).unwrap();
        assert_eq!(copy.len() as u64, len);
        assert!(copy.starts_with(b"begin\0") && copy.ends_with(b"\0end"));
        let middle = len as usize / 2;
        assert_eq!(&copy[middle - 4..middle + 4], b"\0middle\0");
    }

    /// A writer that records its calls; some calls are interrupted, and some take only a part of the bytes.
    struct Picky {
        taken: Vec<u8>,
        calls: Vec<usize>,
    }

    impl Write for Picky {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(data)])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.calls.push(all.len());
            match self.calls.len() % 4 {
                1 => Err(io::ErrorKind::Interrupted.into()),
                2 => Ok(self.take(all.get(..all.len().div_ceil(2)).unwrap())),
                _ => Ok(self.take(&all)),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Picky {
        fn take(&mut self, data: &[u8]) -> usize {
            self.taken.extend_from_slice(data);
            data.len()
        }
    }

    #[test]
    fn gathered_writes_are_complete_and_each_call_is_within_the_limit() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for most in [1, 7, 100, 256, 999, 1000, 5000] {
            for cuts in [vec![], vec![0, 0, 1, 1, 2], vec![100, 200, 300], vec![1, 900, 900]] {
                let mut slices = Vec::new();
                let mut start = 0;
                for end in cuts.iter().copied().chain([1000]) {
                    slices.push(IoSlice::new(&bytes[start..end]));
                    start = end;
                }
                let mut out = Picky { taken: Vec::new(), calls: Vec::new() };
                write_gathered(&mut out, &mut slices, most).unwrap();
                assert_eq!(out.taken, bytes);
                assert!(out.calls.iter().all(|call| (1..=most).contains(call)), "{:?}", out.calls);
                assert!(
                    most < 1000 || out.calls.len() <= 3,
                    "in one piece where that is possible: {:?}",
                    out.calls
                );
            }
        }
    }

    #[test]
    fn rename_noreplace_refuses_an_existing_name() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        let error = RealFs.rename_noreplace(&a, &b).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&b).unwrap(), b"b");
        fs::remove_file(&b).unwrap();
        RealFs.rename_noreplace(&a, &b).unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"a");
    }

    #[test]
    fn only_regular_files_are_read_or_mapped() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), Mode::RUSR).unwrap();
        for (name, word) in [("link", "symbolic link"), ("fifo", "FIFO"), (".", "directory")] {
            let error = RealFs.map(&dir.path().join(name)).unwrap_err().to_string();
            assert!(error.contains(word), "{name}: {error}");
            assert!(RealFs.read(&dir.path().join(name), 10).is_err(), "{name}");
        }
        assert_eq!(&*RealFs.map(&dir.path().join("file")).unwrap(), b"x");
        assert!(RealFs.read(&dir.path().join("file"), 0).is_err(), "longer than allowed");
    }

    #[test]
    fn a_lock_excludes_a_second_handle_and_ends_with_the_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let mut first = RealFs.open_lock(&path, true).unwrap();
        let mut second = RealFs.open_lock(&path, false).unwrap();
        assert!(first.try_lock().unwrap());
        assert!(!second.try_lock().unwrap());
        drop(first);
        assert!(second.try_lock().unwrap());
    }
}
