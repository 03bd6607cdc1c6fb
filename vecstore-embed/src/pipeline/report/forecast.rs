//! How much room a run will need, and whether it is there.

use std::path::Path;

use vecstore::DType;

/// Bytes an entry takes beside its row and its key: its place in the tables of a segment, and what is
/// remembered of its file.
const ENTRY_OVERHEAD: u64 = 64 + 64;

/// Bytes a commit takes beside its entries: the padded header, the checksums and the footer, rounded up to
/// the blocks of a file system.
const COMMIT_OVERHEAD: u64 = 8 << 10;

/// Bytes a store takes beside its segments: the manifest, the one that replaces it, and the locks.
const STORE_OVERHEAD: u64 = 16 << 10;

/// What a run will need on the store's file system, and what is free there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forecast {
    /// Pictures that are not in the store yet.
    pub pictures: u64,
    /// Bytes the store will grow by, estimated from above: every picture is taken to give a row.
    pub needed: u64,
    /// Bytes free for this user on the store's file system, where it tells.
    pub free: Option<u64>,
}

impl Forecast {
    /// The forecast for `pictures` whose keys have `key_bytes` in all, `batch_size` of them per commit.
    pub fn new(
        pictures: u64,
        key_bytes: u64,
        dim: usize,
        dtype: DType,
        batch_size: usize,
        free: Option<u64>,
    ) -> Self {
        let row = (dim as u64).saturating_mul(dtype.size() as u64);
        let commits = pictures.div_ceil((batch_size as u64).max(1));
        let needed = pictures
            .saturating_mul(row.saturating_add(ENTRY_OVERHEAD))
            .saturating_add(key_bytes)
            .saturating_add(commits.saturating_mul(COMMIT_OVERHEAD))
            .saturating_add(STORE_OVERHEAD);
        Forecast { pictures, needed, free }
    }

    /// False when it is known not to fit.
    pub fn fits(&self) -> bool {
        self.free.is_none_or(|free| self.needed <= free)
    }
}

/// Bytes free for this user on the file system that holds `path`, or will: the nearest existing folder above
/// it is asked.
pub fn free_space(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_rows_keys_and_commits() {
        let forecast = Forecast::new(33, 330, 512, DType::F32, 32, Some(1 << 30));
        assert_eq!(
            forecast.needed,
            33 * (2048 + ENTRY_OVERHEAD) + 330 + 2 * COMMIT_OVERHEAD + STORE_OVERHEAD
        );
        let half = Forecast::new(33, 330, 512, DType::F16, 32, None);
        assert_eq!(forecast.needed - half.needed, 33 * 1024);
    }

    #[test]
    fn warns_only_when_it_is_known_not_to_fit() {
        assert!(Forecast::new(1, 1, 8, DType::F32, 32, None).fits());
        let needed = Forecast::new(1, 1, 8, DType::F32, 32, None).needed;
        assert!(Forecast::new(1, 1, 8, DType::F32, 32, Some(needed)).fits());
        assert!(!Forecast::new(1, 1, 8, DType::F32, 32, Some(needed - 1)).fits());
        assert!(!Forecast::new(u64::MAX, u64::MAX, usize::MAX, DType::F32, 0, Some(1 << 60)).fits());
    }

    #[test]
    fn asks_the_file_system_of_a_store_that_does_not_exist_yet() {
        let dir = tempfile::tempdir().unwrap();
        let here = free_space(dir.path()).unwrap();
        assert!(here > 0);
        assert!(free_space(&dir.path().join("not/yet/photos.vecs")).is_some());
    }
}
