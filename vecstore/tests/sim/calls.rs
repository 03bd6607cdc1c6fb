//! The file-system calls of the simulated disk.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vecstore::vfs::{FileKind, LockFile, Mapping, Metadata, ReadAt, Vfs, VfsFile};

use super::disk::error;
use super::mistakes::{self, Mistake, is_made};
use super::{Ino, Node, Op, SHORT, SimFs};

impl Vfs for SimFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        let (mut disk, may) = self.call("create", path);
        may?;
        let ino = disk.add(path, Node::File(Arc::default()))?;
        let open = Arc::new(());
        disk.open.retain(|(_, open)| open.strong_count() > 0);
        disk.open.push((ino, Arc::downgrade(&open)));
        Ok(Box::new(SimFile { fs: self.clone(), path: path.to_owned(), ino, written: 0, _open: open }))
    }

    fn read(&self, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
        let (disk, may) = self.call("read", path);
        may?;
        let bytes = disk.file(path)?;
        if bytes.len() as u64 > max_len {
            return Err(io::Error::new(ErrorKind::InvalidData, "longer than allowed"));
        }
        Ok(bytes.to_vec())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        let (disk, may) = self.call("read", path);
        may?;
        Ok(Box::new(SimBytes(disk.file(path)?)))
    }

    fn map(&self, path: &Path) -> io::Result<Mapping> {
        let (disk, may) = self.call("map", path);
        may?;
        Mapping::copied(&disk.file(path)?)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let (disk, may) = self.call("metadata", path);
        may?;
        Ok(match &disk.now[disk.find(path)?] {
            Node::File(bytes) => Metadata { kind: FileKind::File, len: bytes.len() as u64 },
            Node::Dir(_) => Metadata { kind: FileKind::Dir, len: 0 },
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let (disk, may) = self.call("list", path);
        may?;
        match &disk.now[disk.find(path)?] {
            Node::Dir(names) => Ok(names.keys().cloned().collect()),
            Node::File(_) => Err(error(ErrorKind::NotADirectory)),
        }
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("rename", to);
        may?;
        disk.room_for_name()?;
        let before = disk.log.len();
        disk.rename(from, to, is_made(Mistake::ReplaceName))?;
        mistakes::renamed(&mut disk, self.process, from, to, before);
        Ok(())
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("replace", to);
        may?;
        disk.room_for_name()?;
        let before = disk.log.len();
        disk.rename(from, to, true)?;
        mistakes::renamed(&mut disk, self.process, from, to, before);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("link", to);
        may?;
        let ino = disk.find(from)?;
        let (dir, name) = disk.place(to)?;
        if disk.names(dir).contains_key(&name) {
            return Err(error(ErrorKind::AlreadyExists));
        }
        mistakes::linked(&mut disk, self.process, dir);
        disk.record(Op::Add { dir, name, ino });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("remove", path);
        may?;
        disk.file(path)?;
        mistakes::removed(&mut disk, self.process, path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("remove directory", path);
        may?;
        match &disk.now[disk.find(path)?] {
            Node::Dir(names) if names.is_empty() => {}
            Node::Dir(_) => return Err(error(ErrorKind::DirectoryNotEmpty)),
            Node::File(_) => return Err(error(ErrorKind::NotADirectory)),
        }
        mistakes::removed(&mut disk, self.process, path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("create directory", path);
        may?;
        mistakes::made_folder(&mut disk, self.process, path);
        disk.add(path, Node::Dir(BTreeMap::new())).map(|_| ())
    }

    fn flush_dir(&self, path: &Path) -> io::Result<()> {
        let (mut disk, may) = self.call("flush directory", path);
        let dir = disk.find(path)?;
        if disk.processes[self.process].dead {
            return may;
        }
        mistakes::flush_dir(&mut disk, self.process, dir, path, may)
    }

    fn open_lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn LockFile>> {
        let (mut disk, may) = self.call("open lock", path);
        may?;
        let ino = match disk.find(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && create => {
                disk.add(path, Node::File(Arc::default()))?
            }
            found => found?,
        };
        disk.file(path)?;
        disk.lock_files.insert(ino);
        disk.handles += 1;
        Ok(Box::new(SimLock { fs: self.clone(), path: path.to_owned(), ino, handle: disk.handles }))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let (disk, may) = self.call("free space", path);
        may.map(|()| disk.free_space())
    }
}

/// A file that is read in pieces. Opening it copies no bytes, as on a real disk.
#[derive(Debug)]
struct SimBytes(Arc<Vec<u8>>);

impl ReadAt for SimBytes {
    fn byte_len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.0.get(start..start.saturating_add(buf.len()));
        buf.copy_from_slice(bytes.ok_or(error(ErrorKind::UnexpectedEof))?);
        Ok(())
    }
}

struct SimFile {
    fs: SimFs,
    path: PathBuf,
    ino: Ino,
    written: usize,
    _open: Arc<()>,
}

impl VfsFile for SimFile {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        let (mut disk, may) = self.fs.call("write", &self.path);
        if disk.processes[self.fs.process].dead {
            return may;
        }
        // A failed write may have written a part, as on a full disk.
        let room = usize::try_from(disk.room_to_write()).unwrap_or(usize::MAX);
        let fits = if may.is_ok() { data.len() } else { data.len() / 2 }.min(room);
        let offset = self.written;
        self.written += fits;
        disk.record(Op::Write { ino: self.ino, offset, data: Arc::new(data[..fits].to_vec()) });
        match may {
            Ok(()) if fits < data.len() => Err(disk.no_room()),
            other => other,
        }
    }

    /// Makes nothing durable.
    fn write_out(&mut self, _: bool) -> io::Result<()> {
        self.fs.call("write out", &self.path).1
    }

    fn flush(&mut self) -> io::Result<()> {
        let (mut disk, may) = self.fs.call("flush", &self.path);
        if disk.processes[self.fs.process].dead {
            return may;
        }
        if mistakes::leaves_out_file(&self.path) {
            return may;
        }
        let may = may.and_then(|()| disk.room_to_flush());
        disk.record(Op::Flush { ino: self.ino, ok: may.is_ok() });
        if may.is_err() && is_made(Mistake::RetryFile) {
            disk.record(Op::Flush { ino: self.ino, ok: true });
            return Ok(());
        }
        may
    }

    fn map(&mut self, len: u64) -> io::Result<Option<Mapping>> {
        let (disk, may) = self.fs.call("map", &self.path);
        may?;
        let Node::File(bytes) = &disk.now[self.ino] else { return Ok(None) };
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
        Mapping::copied(&bytes[..len]).map(Some)
    }
}

struct SimLock {
    fs: SimFs,
    path: PathBuf,
    ino: Ino,
    handle: u64,
}

impl LockFile for SimLock {
    fn try_lock(&mut self) -> io::Result<bool> {
        let (mut disk, may) = self.fs.call("lock", &self.path);
        may?;
        let holder = (self.fs.process, self.handle);
        Ok(*disk.locks.entry(self.ino).or_insert(holder) == holder)
    }

    fn unlock(&mut self) -> io::Result<()> {
        let (mut disk, may) = self.fs.call("unlock", &self.path);
        may?;
        disk.locks.remove(&self.ino);
        Ok(())
    }

    fn read_record(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.read("read record", 0, buf)
    }

    fn write_record(&mut self, record: &[u8]) -> io::Result<()> {
        self.write("write record", 0, record)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.fs.disk().find(path).map(|ino| ino == self.ino)
    }

    fn free_space(&self) -> Option<u64> {
        Some(self.fs.disk().free_space())
    }
}

impl SimLock {
    fn read(&self, what: &'static str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let (disk, may) = self.fs.call(what, &self.path);
        let short = may.as_ref().is_err_and(|error| error.raw_os_error() == Some(SHORT));
        if !short {
            may?;
        }
        let Node::File(bytes) = &disk.now[self.ino] else { return Ok(0) };
        let bytes = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let len = bytes.len().min(buf.len()) / if short { 2 } else { 1 };
        buf[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn write(&self, what: &'static str, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut disk, may) = self.fs.call(what, &self.path);
        may?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let grows = (offset + data.len()).saturating_sub(disk.len(self.ino));
        let needed = if disk.room.is_some_and(|room| room.copies) { data.len() } else { grows };
        if disk.room_left() < needed as u64 {
            return Err(disk.no_room());
        }
        disk.record(Op::Write { ino: self.ino, offset, data: Arc::new(data.to_vec()) });
        Ok(())
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let holder = (self.fs.process, self.handle);
        let mut disk = self.fs.disk();
        let process = &disk.processes[self.fs.process];
        if process.stops && process.dead {
            return;
        }
        if disk.locks.get(&self.ino) == Some(&holder) {
            disk.locks.remove(&self.ino);
        }
    }
}
