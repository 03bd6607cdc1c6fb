//! The locks of mergers: one for mergers of large files, one for mergers of small files.
//!
//! A merger of large files plans while it has both, and leaves a claim in the record of its own: the last
//! commit it is at work on. A merger of small files keeps to newer ones. Taken in the order large, small; a
//! holder of the small one only tries the other.

use std::path::Path;

use super::record::Span;
use super::{Lock, Timeout};
use crate::base::Result;
use crate::vfs::Vfs;

/// The lock of mergers of large files.
pub(crate) fn open_large(vfs: &dyn Vfs, dir: &Path) -> Result<Lock> {
    Ok(Lock { has_claims: true, ..Lock::open(vfs, &dir.join("LOCK.merge"), "merge")? })
}

/// The lock of mergers of small files.
pub(crate) fn open_small(vfs: &dyn Vfs, dir: &Path) -> Result<Lock> {
    Lock::open(vfs, &dir.join("LOCK.small"), "merge")
}

/// Both locks, for work on files that no merger may be at work on.
pub(crate) struct Lanes {
    large: Lock,
    small: Lock,
}

impl Lanes {
    pub fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Self> {
        Ok(Lanes { large: open_large(vfs, dir)?, small: open_small(vfs, dir)? })
    }

    /// Takes both.
    pub fn acquire(&mut self, timeout: &Timeout) -> Result<()> {
        self.large.acquire(timeout)?;
        self.small.acquire(timeout).map(drop).inspect_err(|_| _ = self.large.release())
    }

    /// Takes both, if both are free.
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
    /// Says that commits up to this one are being merged. The claim ends with the lock.
    pub fn claim(&mut self, last: u64) -> Result<()> {
        self.record.set_newest(Span { first: 1, last });
        self.write()
    }

    /// Ends the claim: it is that of one holder, and of one merge.
    pub(super) fn drop_claim(&mut self) {
        if self.has_claims {
            self.record.set_newest(Span::default());
        }
    }

    /// The last commit that the holder of this lock claims; 0 when there is no holder. Where the claim cannot
    /// be read it may be all of them.
    pub fn claimed(&mut self) -> Result<u64> {
        if self.read_record()?.is_some_and(|record| record.pid == 0) {
            return Ok(0);
        }
        // Its holder may have died; and without a record nothing is known.
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
    fn a_claim_lasts_as_long_as_its_holder() {
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
        drop(large); // as a kill would
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
