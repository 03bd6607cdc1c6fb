//! The locks of the two merge lanes: LOCK.merge for large files, LOCK.small for small files.
//!
//! The merger of large files plans while it holds both locks, and writes a claim into the record of
//! LOCK.merge: the last commit that it merges. The merger of small files only takes newer commits. Lock
//! order: LOCK.merge before LOCK.small; a holder of LOCK.small only tries LOCK.merge, so the two never wait
//! for each other.

use std::path::Path;

use super::record::Span;
use super::{Lock, Timeout};
use crate::base::Result;
use crate::vfs::Vfs;

/// Opens the lock of the merger of large files.
pub(crate) fn open_large(vfs: &dyn Vfs, dir: &Path) -> Result<Lock> {
    Ok(Lock { has_claims: true, ..Lock::open(vfs, &dir.join("LOCK.merge"), "merge")? })
}

/// Opens the lock of the merger of small files.
pub(crate) fn open_small(vfs: &dyn Vfs, dir: &Path) -> Result<Lock> {
    Lock::open(vfs, &dir.join("LOCK.small"), "merge")
}

/// Both merge locks, for work that excludes all mergers.
pub(crate) struct Lanes {
    large: Lock,
    small: Lock,
}

impl Lanes {
    pub fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Self> {
        Ok(Lanes { large: open_large(vfs, dir)?, small: open_small(vfs, dir)? })
    }

    /// Takes both locks, or none.
    pub fn acquire(&mut self, timeout: &Timeout) -> Result<()> {
        self.large.acquire(timeout)?;
        self.small.acquire(timeout).map(drop).inspect_err(|_| _ = self.large.release())
    }

    /// Takes both locks if both are free.
    pub fn try_acquire(&mut self) -> Result<bool> {
        if self.large.try_acquire()?.is_none() {
            return Ok(false);
        }
        let small = self.small.try_acquire();
        if !matches!(small, Ok(Some(_))) {
            self.large.release();
        }
        small.map(|found| found.is_some())
    }

    pub fn release(&mut self) {
        self.small.release();
        self.large.release();
    }
}

impl Lock {
    /// Writes a claim: this holder merges commits up to `last`. The claim ends with the lock.
    pub fn claim(&mut self, last: u64) -> Result<()> {
        self.record.set_newest(Span { first: 1, last });
        self.write()
    }

    /// Clears the claim in memory: a claim is only valid for one holder and one merge.
    pub(super) fn drop_claim(&mut self) {
        if self.has_claims {
            self.record.set_newest(Span::default());
        }
    }

    /// Last commit that the holder of this lock claims: 0 without a holder, `u64::MAX` if the record is void,
    /// because the holder may then be merging any commits.
    pub fn claimed(&mut self) -> Result<u64> {
        if self.read_record()?.is_some_and(|record| record.pid == 0) {
            return Ok(0);
        }
        // The holder may have died, and a void record says nothing: only trying the lock tells.
        if self.try_acquire()?.is_some() {
            self.release();
            return Ok(0);
        }
        Ok(self.read_record()?.map_or(u64::MAX, |record| record.newest().last))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::vfs::RealFs;

    #[test]
    fn a_claim_ends_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let open = || open_large(&RealFs, dir.path()).unwrap();
        let mut looks = open();
        assert_eq!(looks.claimed().unwrap(), 0, "a new lock");
        let mut large = open();
        large.acquire(Duration::ZERO).unwrap();
        assert_eq!(looks.claimed().unwrap(), 0, "not planned yet");
        large.claim(7).unwrap();
        assert_eq!(looks.claimed().unwrap(), 7);
        large.release();
        assert_eq!(looks.claimed().unwrap(), 0);
        large.acquire(Duration::ZERO).unwrap();
        assert_eq!(looks.claimed().unwrap(), 0, "the former claim is gone");
        large.claim(9).unwrap();
        drop(large); // as if its process were killed
        assert_eq!(looks.claimed().unwrap(), 0);
        open().acquire(Duration::ZERO).unwrap();
    }

    #[test]
    fn both_lanes_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut lanes = Lanes::open(&RealFs, dir.path()).unwrap();
        let mut small = open_small(&RealFs, dir.path()).unwrap();
        small.acquire(Duration::ZERO).unwrap();
        assert!(lanes.acquire(&Duration::ZERO.into()).is_err());
        assert!(open_large(&RealFs, dir.path()).unwrap().try_acquire().unwrap().is_some(), "given back");
        small.release();
        lanes.acquire(&Duration::ZERO.into()).unwrap();
        assert!(small.try_acquire().unwrap().is_none());
        assert!(!Lanes::open(&RealFs, dir.path()).unwrap().try_acquire().unwrap());
        lanes.release();
        assert!(Lanes::open(&RealFs, dir.path()).unwrap().try_acquire().unwrap());
    }
}
