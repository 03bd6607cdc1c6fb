//! Which chunks of the work a run has taken on, so that others at the same store leave them alone.
//!
//! A claim is a lock on one byte of a file beside the store: the byte whose position is the chunk's number.
//! Nothing is ever written there. The kernel takes the locks of a process away when it ends, however it ends,
//! so the chunks of a dead run are free at once, without a heartbeat and without anything to clean up. A lock
//! says nothing about what is done: that is in the store alone.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

/// The claims of one run.
#[derive(Debug)]
pub(crate) struct Claims {
    file: File,
    held: Mutex<HashSet<u64>>,
}

/// A chunk that is this run's until this is dropped.
#[derive(Debug)]
pub(crate) struct ChunkClaim {
    claims: Arc<Claims>,
    chunk: u64,
}

impl PartialEq for ChunkClaim {
    fn eq(&self, other: &Self) -> bool {
        self.chunk == other.chunk
    }
}

impl Claims {
    /// Opens the file, creating it where it is missing.
    pub(crate) fn open(path: &Path) -> io::Result<Arc<Self>> {
        // A description of its own for each run: the locks belong to it, not to the process.
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Arc::new(Claims { file, held: Mutex::default() }))
    }

    /// Takes the chunk, unless another run has it, or this one.
    pub(crate) fn take(self: &Arc<Self>, chunk: u64) -> io::Result<Option<ChunkClaim>> {
        // Positions in a file have a sign.
        let chunk = chunk >> 1;
        let mut held = self.held.lock();
        if held.contains(&chunk) || !self.lock(chunk, true)? {
            return Ok(None);
        }
        held.insert(chunk);
        Ok(Some(ChunkClaim { claims: Arc::clone(self), chunk }))
    }

    /// True while this run or another one has the chunk.
    pub(crate) fn is_taken(self: &Arc<Self>, chunk: u64) -> io::Result<bool> {
        Ok(self.take(chunk)?.is_none())
    }

    /// Locks, or gives back, the byte of a chunk. False when another run has it.
    #[cfg(target_os = "linux")]
    fn lock(&self, chunk: u64, take: bool) -> io::Result<bool> {
        use nix::fcntl::{FcntlArg, fcntl};
        use nix::libc;

        let kind = if take { libc::F_WRLCK } else { libc::F_UNLCK };
        let start = libc::off_t::try_from(chunk).unwrap_or_default();
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: start,
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(true),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Elsewhere locks belong to processes, and closing any file gives them back: there, runs at the same
    /// time do some things twice, and the store keeps one.
    #[cfg(not(target_os = "linux"))]
    fn lock(&self, _chunk: u64, _take: bool) -> io::Result<bool> {
        self.file.metadata().map(|_| true)
    }
}

impl Drop for ChunkClaim {
    fn drop(&mut self) {
        let mut held = self.claims.held.lock();
        held.remove(&self.chunk);
        // If this fails the chunk stays taken until the run ends, and is done by then.
        let _ = self.claims.lock(self.chunk, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_one_runs_until_it_gives_it_back_or_ends() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Claims::open(&dir.path().join("claims")).unwrap();
        let (one, other) = (open(), open());
        let claim = one.take(7).unwrap().unwrap();
        assert!(other.take(7).unwrap().is_none() && other.is_taken(7).unwrap());
        assert!(one.take(7).unwrap().is_none(), "nor does it take its own twice");
        let far = other.take(u64::MAX).unwrap().unwrap();
        assert!(one.is_taken(u64::MAX).unwrap());
        drop(claim);
        assert!(!other.is_taken(7).unwrap());
        let again = other.take(7).unwrap().unwrap();
        assert!(one.is_taken(7).unwrap());
        drop((far, again));
        assert!(!one.is_taken(7).unwrap() && !one.is_taken(u64::MAX).unwrap());
        assert_eq!(std::fs::metadata(dir.path().join("claims")).unwrap().len(), 0);
    }
}
